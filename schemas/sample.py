"""Sample: one conversation with its media. Nothing else flows through the system.

A reader turns a raw record into a **Draft**: what is said, and where the media lie. The writer loads and checks the
media and stores the **Sample**, whose JSON is one member of the shard beside the media bytes. The conversation keeps
the form of the LLaVA and VITA families (`from` human or gpt, `value` with placeholders), since their tools read it.
"""

import re
from enum import StrEnum
from typing import Literal

from pydantic import Field, FiniteFloat

from tarsia.schemas.model import Model


class Kind(StrEnum):
    """What a corpus is for; recipes ask for amounts of kinds."""

    CAPTION = "caption"
    QA = "qa"
    ASR = "asr"  # speech and its transcript
    TTS = "tts"  # text and its speech, for the codec and the speech decoders
    NOISE = "noise"  # speech that is not addressed to the model


MADE = (Kind.TTS, Kind.NOISE)  # kinds that are speech; voices make what a corpus of them has no sound of


def unsaid(kind: Kind, modality: str) -> bool:
    """Whether a sample is words alone and its kind is speech: it trains nothing until a voice has said it.

    Of noise the voice says the question, of text-to-speech it makes the sound that is the answer.
    """
    return kind in MADE and modality == "text"


IMAGE, VIDEO, AUDIO = "<image>", "<video>", "<audio>"
PLACEHOLDER = re.compile("<(?:image|video|audio)>")


class Turn(Model):
    """One turn: who speaks, and the text with a placeholder where each medium stands."""

    speaker: Literal["human", "gpt"] = Field(alias="from")
    text: str = Field(alias="value")


class Box(Model):
    """One piece of text in an image, as an OCR corpus marks it. Points in pixels, clockwise from the top left."""

    text: str
    points: tuple[tuple[FiniteFloat, FiniteFloat], ...]
    readable: bool = True


class Draft(Model):
    """A raw record as its reader understood it: media are still paths below the corpus's media folder."""

    turns: tuple[Turn, ...]
    images: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()
    audios: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    place: int | None = None  # number of the box whose place belongs where the turns say `<box>`
    speaker: str | None = None


class ImageFacts(Model):
    """One image as stored: as the corpus held it, or by the rules of its catalog. `digest`: BLAKE3, 32 hex digits."""

    member: str
    width: int
    height: int
    digest: str


class AudioFacts(Model):
    """One stored audio: mono FLAC of `samples` at `rate` Hz, made from a source of `source_rate` Hz."""

    member: str
    samples: int
    rate: int
    source_rate: int
    digest: str


class Frame(Model):
    """One stored frame of a video: its number in the source, its time in seconds, its JPEG."""

    member: str
    position: int
    seconds: float
    digest: str


class Original(Model):
    """The file of a video, byte for byte, where the catalog wants it kept."""

    member: str
    digest: str


class VideoFacts(Model):
    """One video: the frames that VITA's rules ask for, of `length` frames at `fps` in the source."""

    frames: tuple[Frame, ...]
    length: int
    fps: float
    width: int
    height: int
    original: Original | None = None


class Sample(Model):
    """What a shard stores of a sample, as JSON with the same keys for every sample of every corpus."""

    key: str
    corpus: str
    id: str
    kind: Kind
    language: str
    conversations: tuple[Turn, ...]
    images: tuple[ImageFacts, ...] = ()
    audios: tuple[AudioFacts, ...] = ()
    videos: tuple[VideoFacts, ...] = ()
    boxes: tuple[Box, ...] = ()
    speaker: str | None = None

    @property
    def modality(self) -> str:
        """`text`, or the media in it joined by +: `image`, `video`, `audio`, `image+audio` …"""
        media = (("image", self.images), ("video", self.videos), ("audio", self.audios))
        return "+".join(name for name, parts in media if parts) or "text"

    @property
    def questions(self) -> int:
        """Human turns: the unit of VITA-1.5's Table 1."""
        return sum(turn.speaker == "human" for turn in self.conversations)

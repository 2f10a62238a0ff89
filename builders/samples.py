"""From draft to sample: the media are loaded, checked and counted; what cannot be trained on is refused with a reason.

The rules are what VITA's own loader needs and does not check (it asserts deep in the model, or trains on the wrong
thing in silence): placeholders equal media, roles alternate from human to gpt, nothing is empty.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from tarsia.builders.audio import read_audio
from tarsia.builders.filters import filter_media
from tarsia.builders.images import ImageHeader, store_image
from tarsia.builders.media import Media
from tarsia.builders.reading.boxes import placed
from tarsia.builders.reading.language import language_of
from tarsia.builders.speech import parts, unspeakable
from tarsia.builders.video import read_video
from tarsia.schemas.corpus import Corpus, Images, Videos
from tarsia.schemas.errors import Refused
from tarsia.schemas.identity import digest
from tarsia.schemas.sample import (
    AUDIO,
    IMAGE,
    VIDEO,
    AudioFacts,
    Box,
    Draft,
    Frame,
    ImageFacts,
    Kind,
    Original,
    Sample,
    Turn,
    VideoFacts,
    unsaid,
)

RATE = 16_000  # Hz, of speech that is listened to
RATE_TTS = 24_000  # Hz, of speech that is learnt to be spoken (VITA-1.5's codec)

Members = list[tuple[str, bytes]]


class Admitted(NamedTuple):
    """A sample, its media as tar members, and what is worth knowing of them (`CMYK`, `made upright` …)."""

    sample: Sample
    members: Members
    notes: list[str]


def admit(draft: Draft, corpus: Corpus, key: str, identity: str, media: Media) -> Admitted:
    """The sample of a draft. Raises `Refused`, and nothing else of a record's."""
    check_turns(draft)
    members: Members = []
    notes: list[str] = []
    rules, rate = corpus.images, RATE_TTS if corpus.kind is Kind.TTS else RATE
    seen = [_image(path, number, rules, media, members, notes) for number, path in enumerate(draft.images)]
    images = tuple(facts for _, facts in seen)
    videos = tuple(_video(path, number, corpus.videos, media, members) for number, path in enumerate(draft.videos))
    audios = tuple(_audio(path, number, rate, media, members) for number, path in enumerate(draft.audios))
    filter_media(images, audios, videos, corpus)
    turns, boxes = draft.turns, draft.boxes
    if boxes and seen:
        header, stored = seen[0]
        if rules.upright and header.orientation != 1:
            raise Refused("image-turned", "the image is to be turned, and nobody says which way its boxes were drawn")
        turns, boxes = placed(draft, header.width, header.height), _scaled(boxes, header, stored)
    sample = Sample(
        key=key,
        corpus=corpus.name,
        id=identity,
        kind=corpus.kind,
        language=language_of(corpus.language, " ".join(turn.text for turn in turns)),
        conversations=turns,
        images=images,
        audios=audios,
        videos=videos,
        boxes=boxes,
        speaker=draft.speaker,
    )
    _check_unsaid(sample)
    return Admitted(sample, members, notes)


def check_turns(draft: Draft) -> None:
    """Refuses a conversation that no trainer could use."""
    turns: tuple[Turn, ...] = draft.turns
    if not turns:
        raise Refused("conversation-empty", "no turn at all")
    for number, turn in enumerate(turns):
        due = "gpt" if number % 2 else "human"
        if turn.speaker != due:
            raise Refused("roles-order", f"turn {number} is {turn.speaker}'s, but {due} is due")
        if not turn.text.strip():
            raise Refused("answer-empty" if number % 2 else "question-empty", f"turn {number} says nothing")
    if len(turns) % 2:
        raise Refused("roles-order", "the last question has no answer")
    said = "\n".join(turn.text for turn in turns)  # no placeholder spans two of them
    for name, media in ((IMAGE, draft.images), (VIDEO, draft.videos), (AUDIO, draft.audios)):
        found = said.count(name)
        if found != len(media) and not (name == AUDIO and _awaits(draft.turns, draft.audios)):
            raise Refused("placeholders", f"{found} {name} in the text, {len(media)} in the record")


def _awaits(turns: Sequence[Turn], audios: Sequence[Any]) -> bool:
    """Whether a voice is to make the sound that is the answer."""
    return not audios and len(turns) == 2 and turns[1].text == AUDIO and AUDIO not in turns[0].text


def _check_unsaid(sample: Sample) -> None:
    """What has no sound and is to be said must be one exchange that a voice can make whole."""
    turns, awaits = sample.conversations, _awaits(sample.conversations, sample.audios)
    if awaits and sample.kind is not Kind.TTS:
        raise Refused("placeholders", f"1 {AUDIO} in the text, 0 in the record")
    if not unsaid(sample.kind, sample.modality):
        return
    if len(turns) != 2 or sample.kind is Kind.TTS and not awaits:
        raise Refused("unsaid-form", f"{sample.kind.value} without a sound is one sentence and its reply or its sound")
    if reason := unspeakable(turns[0].text, sample.language):
        raise Refused("unspeakable", reason)
    if form := parts(turns[0].text)[1]:
        raise Refused("unspeakable", f"'{form[:80]}' asks for a form of answer and would not be said")


def _image(
    path: str, number: int, rules: Images, media: Media, members: Members, notes: list[str]
) -> tuple[ImageHeader, ImageFacts]:
    """The header of an image as the corpus has it, and its facts as it is stored."""
    data = media.load(path)
    with _reading(path):
        header, stored = store_image(data, rules, path)
    name = f"{number}.{stored.header.extension}"
    members.append((name, stored.data))
    notes += [f"image: {note}" for note in (*stored.header.traits, *stored.changes)]
    size = (stored.header.width, stored.header.height)
    return header, ImageFacts(member=name, width=size[0], height=size[1], digest=digest(stored.data)[:32])


def _scaled(boxes: tuple[Box, ...], header: ImageHeader, stored: ImageFacts) -> tuple[Box, ...]:
    """Boxes on the image as it is stored."""
    if (stored.width, stored.height) == (header.width, header.height):
        return boxes
    across, down = stored.width / header.width, stored.height / header.height
    return tuple(
        box.model_copy(update={"points": tuple((round(x * across, 2), round(y * down, 2)) for x, y in box.points)})
        for box in boxes
    )


def _audio(path: str, number: int, rate: int, media: Media, members: Members) -> AudioFacts:
    data = media.load(path)
    with _reading(path):
        flac, clip = read_audio(data, rate=rate, where=path)
    name = f"{number}.flac"
    members.append((name, flac))
    return AudioFacts(
        member=name,
        samples=clip.samples,
        rate=clip.rate,
        source_rate=clip.source_rate,
        digest=digest(flac)[:32],
    )


def _video(path: str, number: int, rules: Videos, media: Media, members: Members) -> VideoFacts:
    data = media.load(path)
    with _reading(path):
        clip = read_video(data, path)
    frames = []
    for position, seconds, jpeg in clip.frames:
        name = f"{number}.f{position:06d}.jpg"
        members.append((name, jpeg))
        frames.append(Frame(member=name, position=position, seconds=seconds, digest=digest(jpeg)[:32]))
    original = None
    if rules.original:
        original = Original(member=f"{number}.{clip.extension}", digest=digest(data)[:32])
        members.append((original.member, data))
    return VideoFacts(
        frames=tuple(frames),
        length=clip.length,
        fps=clip.fps,
        width=clip.width,
        height=clip.height,
        original=original,
    )


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """Broken media lead decoders to raise what they please: each of it refuses one record and stops nothing."""
    try:
        yield
    except (Refused, MemoryError, AssertionError):
        raise
    except Exception as error:
        raise Refused("media-unreadable", f"{path}: {type(error).__name__}: {error}") from error

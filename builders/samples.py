"""From draft to sample: the media are loaded, checked and counted; what cannot be trained on is refused with a reason.

The rules are what VITA's own loader needs and does not check (it asserts deep in the model, or trains on the wrong
thing in silence): placeholders equal media, roles alternate from human to gpt, nothing is empty.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from tarsia.builders.audio import read_audio
from tarsia.builders.images import read_image
from tarsia.builders.media import Media
from tarsia.builders.reading.language import language_of
from tarsia.builders.video import read_video
from tarsia.schemas.corpus import Corpus
from tarsia.schemas.errors import Refused
from tarsia.schemas.identity import digest
from tarsia.schemas.sample import (
    AUDIO,
    IMAGE,
    VIDEO,
    AudioFacts,
    Draft,
    Frame,
    ImageFacts,
    Kind,
    Sample,
    Turn,
    VideoFacts,
)

RATE = 16_000  # Hz, of speech that is listened to
RATE_TTS = 24_000  # Hz, of speech that is learnt to be spoken (VITA-1.5's codec)

Members = list[tuple[str, bytes]]


def admit(draft: Draft, corpus: Corpus, key: str, identity: str, media: Media) -> tuple[Sample, Members]:
    """The sample of a draft and its media as tar members. Raises `Refused`, and nothing else of a record's."""
    check_turns(draft)
    members: Members = []
    images = tuple(_image(path, number, media, members) for number, path in enumerate(draft.images))
    videos = tuple(_video(path, number, media, members) for number, path in enumerate(draft.videos))
    rate = RATE_TTS if corpus.kind is Kind.TTS else RATE
    audios = tuple(_audio(path, number, rate, media, members) for number, path in enumerate(draft.audios))
    sample = Sample(
        key=key,
        corpus=corpus.name,
        id=identity,
        kind=corpus.kind,
        language=language_of(corpus.language, " ".join(turn.text for turn in draft.turns)),
        conversations=draft.turns,
        images=images,
        audios=audios,
        videos=videos,
        boxes=draft.boxes,
        speaker=draft.speaker,
    )
    return sample, members


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
    for name, media in ((IMAGE, draft.images), (VIDEO, draft.videos), (AUDIO, draft.audios)):
        found = sum(turn.text.count(name) for turn in turns)
        if found != len(media):
            raise Refused("placeholders", f"{found} {name} in the text, {len(media)} in the record")


def _image(path: str, number: int, media: Media, members: Members) -> ImageFacts:
    data = media.load(path)
    with _reading(path):
        extension, width, height = read_image(data, path)
    name = f"{number}.{extension}"
    members.append((name, data))
    return ImageFacts(member=name, width=width, height=height, digest=digest(data)[:32])


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


def _video(path: str, number: int, media: Media, members: Members) -> VideoFacts:
    data = media.load(path)
    with _reading(path):
        clip = read_video(data, path)
    frames = []
    for position, seconds, jpeg in clip.frames:
        name = f"{number}.f{position:06d}.jpg"
        members.append((name, jpeg))
        frames.append(Frame(member=name, position=position, seconds=seconds, digest=digest(jpeg)[:32]))
    return VideoFacts(frames=tuple(frames), length=clip.length, fps=clip.fps, width=clip.width, height=clip.height)


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """Broken media lead decoders to raise what they please: each of it refuses one record and stops nothing."""
    try:
        yield
    except (Refused, MemoryError, AssertionError):
        raise
    except Exception as error:
        raise Refused("media-unreadable", f"{path}: {type(error).__name__}: {error}") from error

"""From draft to sample: the media are loaded, checked and counted; what cannot be trained on is refused with a reason.

The rules are what VITA's own loader needs and does not check (it asserts deep in the model, or trains on the wrong
thing in silence): placeholders equal media, roles alternate from human to gpt, nothing is empty.
"""

from collections import Counter

from tarsia.builders.audio import read_audio
from tarsia.builders.corpora import At
from tarsia.builders.images import read_image
from tarsia.builders.reading.language import language_of
from tarsia.builders.storage import Store
from tarsia.builders.video import read_video
from tarsia.schemas.errors import NotThere, Outside, Refused
from tarsia.schemas.identity import canonical, digest
from tarsia.schemas.sample import (
    AUDIO,
    IMAGE,
    PLACEHOLDER,
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


def admit(draft: Draft, at: At, identity: str, source: Store) -> tuple[Sample, Members]:
    """The sample of a draft and its tar members, JSON included. Raises `Refused`, and nothing else of a record's."""
    check_turns(draft)
    members: Members = []
    images = tuple(_image(path, number, source, members) for number, path in enumerate(draft.images))
    videos = tuple(_video(path, number, source, members) for number, path in enumerate(draft.videos))
    rate = RATE_TTS if at.corpus.kind is Kind.TTS else RATE
    audios = tuple(_audio(path, number, rate, source, members) for number, path in enumerate(draft.audios))
    sample = Sample(
        key=at.key,
        corpus=at.corpus.name,
        id=identity,
        kind=at.corpus.kind,
        language=language_of(at.corpus.language, " ".join(turn.text for turn in draft.turns)),
        conversations=draft.turns,
        images=images,
        audios=audios,
        videos=videos,
        boxes=draft.boxes,
        speaker=draft.speaker,
    )
    members.append(("json", canonical(sample.model_dump(mode="json", by_alias=True))))
    return sample, members


def media_paths(draft: Draft) -> tuple[str, ...]:
    """Everything that must be there for the draft to become a sample."""
    return draft.images + draft.videos + draft.audios


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
    found = Counter(PLACEHOLDER.findall("\n".join(turn.text for turn in turns)))
    for name, media in ((IMAGE, draft.images), (VIDEO, draft.videos), (AUDIO, draft.audios)):
        if found[name] != len(media):
            raise Refused("placeholders", f"{found[name]} {name} in the text, {len(media)} in the record")


def _image(path: str, number: int, source: Store, members: Members) -> ImageFacts:
    data = _load(path, source)
    extension, width, height = read_image(data, path)
    name = f"{number}.{extension}"
    members.append((name, data))
    return ImageFacts(member=name, width=width, height=height, digest=digest(data)[:32])


def _audio(path: str, number: int, rate: int, source: Store, members: Members) -> AudioFacts:
    flac, clip = read_audio(_load(path, source), rate=rate, where=path)
    name = f"{number}.flac"
    members.append((name, flac))
    return AudioFacts(
        member=name,
        samples=clip.samples,
        rate=clip.rate,
        source_rate=clip.source_rate,
        digest=digest(flac)[:32],
    )


def _video(path: str, number: int, source: Store, members: Members) -> VideoFacts:
    clip = read_video(_load(path, source), path)
    frames = []
    for position, seconds, jpeg in clip.frames:
        name = f"{number}.f{position:06d}.jpg"
        members.append((name, jpeg))
        frames.append(Frame(member=name, position=position, seconds=seconds, digest=digest(jpeg)[:32]))
    return VideoFacts(frames=tuple(frames), length=clip.length, fps=clip.fps, width=clip.width, height=clip.height)


def _load(path: str, source: Store) -> bytes:
    try:
        return source.read(path)
    except Outside as error:
        raise Refused("media-outside", str(error)) from error
    except NotThere as error:
        raise Refused("media-missing", f"no '{path}'") from error

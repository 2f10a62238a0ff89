"""The filters of a corpus: which of its records its catalog wants. Ranges, equality, membership; nothing is evaluated.

They work in two places, so that no medium is opened for a record that its words or its fields keep out: on the raw
record and its conversation when it is understood, and on the facts of its media when they are known. What is kept out
is a quarantine row `filtered` that says which filter did it, and on what value. Places in an image (`<box>`, in
`builders/reading/boxes.py`) are counted as drafted.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from tarsia.builders.reading.language import language_of
from tarsia.schemas.corpus import Corpus, bounds
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import PLACEHOLDER, AudioFacts, ImageFacts, Turn, VideoFacts

_SHOWN = 60  # characters of a value in a message


def filter_record(record: Any, corpus: Corpus) -> None:
    """Refuses a raw record whose fields are not those wanted. A path leads through objects: `meta.split`."""
    for path, wanted in corpus.filters.record.items():
        value = record
        for key in path.split("."):
            if not isinstance(value, dict) or key not in value:
                raise Refused("filtered", f"record.{path}: the record has no such field")
            value = value[key]
        some = wanted if isinstance(wanted, tuple) else (wanted,)
        if not any(_fits(value, one) for one in some):
            raise Refused("filtered", f"record.{path}: {_shown(value)} is not {' or '.join(map(_shown, some))}")


def _fits(value: Any, wanted: str | bool | int | float) -> bool:
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    within = bounds(wanted) if isinstance(wanted, str) and isinstance(value, int | float) else None
    return within[0] <= value <= within[1] if within else bool(value == wanted)


def _shown(value: Any) -> str:
    said = repr(value)
    return said if len(said) <= _SHOWN else f"{said[:_SHOWN]}…"


def filter_turns(turns: Sequence[Turn], corpus: Corpus) -> None:
    """Refuses a conversation that is too long, too short, in another language, or about something else."""
    wanted = corpus.filters
    if not wanted.model_fields_set:
        return  # as nearly always, and a tenth of the time that a record takes
    said = [PLACEHOLDER.sub("", turn.text).strip() for turn in turns]
    _check("questions", wanted.questions, [len(said[::2])])
    _check("question_chars", wanted.question_chars, map(len, said[::2]))
    _check("answer_chars", wanted.answer_chars, map(len, said[1::2]))
    whole = " ".join(turn.text for turn in turns)
    if wanted.language and language_of(corpus.language, whole) != wanted.language:
        raise Refused("filtered", f"language: it is not {wanted.language}")
    if wanted.contains and not any(words in whole for words in wanted.contains):
        raise Refused("filtered", f"contains: none of {', '.join(map(repr, wanted.contains))}")
    for words in wanted.lacks:
        if words in whole:
            raise Refused("filtered", f"lacks: {words!r} is in it")


def filter_media(
    images: Sequence[ImageFacts], audios: Sequence[AudioFacts], videos: Sequence[VideoFacts], corpus: Corpus
) -> None:
    """Refuses media of other sizes than those wanted."""
    wanted = corpus.filters
    if not wanted.model_fields_set:
        return
    sizes = [(image.width, image.height) for image in images] + [(video.width, video.height) for video in videos]
    _check("width", wanted.width, (width for width, _ in sizes))
    _check("height", wanted.height, (height for _, height in sizes))
    _check("ratio", wanted.ratio, (max(size) / min(size) for size in sizes))
    heard = [audio.samples / audio.rate for audio in audios]
    _check("seconds", wanted.seconds, [*heard, *(video.length / video.fps for video in videos)])


def _check(name: str, wanted: str | None, values: Iterable[float]) -> None:
    within = bounds(wanted) if wanted is not None else None
    if within is None:
        return
    for value in values:
        if not within[0] <= value <= within[1]:
            raise Refused("filtered", f"{name}: {round(value, 3):g} is not within {wanted}")

"""What stands in a context, token by token; how `tarsia pack` keeps it, and how it is read without a tokenizer.

    <context>.ids.npy      int32 (n,): the ids that the model is given, system prompt and fillers included
    <context>.spans.json   of each sample where it begins and ends, what is learnt of it, how its questions are met,
                           where its media stand and in which members they are, and the words of its recordings

Labels are not kept twice: they are the ids wherever something is learnt. Places count from the first token of the
context. What a trainer reads of fewer samples (one was broken; each shall be a row of its own) is moved together.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tarsia.builders.chat import Medium
from tarsia.manifests.seen import Seen, clip_of, media_of
from tarsia.manifests.stream import Context, Streamed
from tarsia.schemas import recipe
from tarsia.schemas.errors import Corrupt
from tarsia.schemas.identity import canonical

KINDS = (Medium.IMAGE, Medium.VIDEO, Medium.AUDIO)  # by their number in Chat.spans

Run = tuple[int, int]  # begin, end


class Stands(NamedTuple):
    """A medium and the ids that it fills."""

    medium: Seen
    begin: int
    end: int


class Asked(NamedTuple):
    """A question as the model meets it."""

    turn: int  # of the human turns, from 0
    modality: str  # `text`, or the media in it joined by +
    state: str  # written | spoken | noise
    class_at: int | None  # the token that bears the class of the state head, where the recipe has one


class Part(NamedTuple):
    """One sample: `begin` to `end` of the ids."""

    begin: int
    end: int
    learnt: Sequence[Run]
    questions: Sequence[Asked]
    media: Sequence[Stands]
    guides: Sequence[int]  # where the guide tokens before its first sound begin: none or one


@dataclass(frozen=True, slots=True, eq=False)
class Page:
    """A context as it is written: what opens it, then its samples one after the other."""

    filler: int
    ids: NDArray[np.int32]
    parts: tuple[Part, ...]


def kept(page: Page, context: Context, words: Sequence[Mapping[str, Any]]) -> list[tuple[str, bytes]]:
    """The two members that keep a page; `words` are the spellings of each sample's recordings."""
    file = io.BytesIO()
    np.lib.format.write_array(file, page.ids, version=(1, 0), allow_pickle=False)
    samples = [
        {
            "begin": part.begin,
            "end": part.end,
            "learnt": part.learnt,
            "questions": [question._asdict() for question in part.questions],
            "media": [_stands(stands, f"{slot:03d}.") for stands in part.media],
            "guides": part.guides,
            **spelt,
        }
        for slot, (part, spelt) in enumerate(zip(page.parts, words, strict=True))
    ]
    return [("ids.npy", file.getvalue()), ("spans.json", canonical({"context": context.number, "samples": samples}))]


def _stands(stands: Stands, prefix: str) -> dict[str, Any]:
    files = [prefix + member for member in stands.medium.files]
    return {"kind": stands.medium.kind.name.lower(), "begin": stands.begin, "end": stands.end, "members": files}


def page_of(context: Context, settings: recipe.Context) -> Page | None:
    """The page that pack kept of a context, if it was written under these settings. Raises `Corrupt` if it is another.

    Parts are those of the samples that are here, in their order.
    """
    written = context.written
    if not written or written.settings != settings:
        return None
    opening = written.writing.prompts[context.prompt] if settings.prompt == "context" else ()
    ids, parts = [np.array(opening, np.int32)], list[Part]()
    begin = len(opening)
    for part in context.samples:
        told = written.spans[part.slot]
        ids.append(written.ids[told["begin"] : told["end"]])
        parts.append(_moved(part, told, begin - told["begin"], settings))
        begin = parts[-1].end
    return Page(written.writing.filler, np.concatenate(ids), tuple(parts))


def _moved(part: Streamed, told: Mapping[str, Any], by: int, settings: recipe.Context) -> Part:
    questions = [
        Asked(one["turn"], one["modality"], one["state"], None if one["class_at"] is None else one["class_at"] + by)
        for one in told["questions"]
    ]
    learnt = [(begin + by, end + by) for begin, end in told["learnt"]]
    media = list(_media(part, told["media"], by, settings))
    guides = [begin + by for begin in told["guides"]]
    return Part(told["begin"] + by, told["end"] + by, learnt, questions, media, guides)


def _media(part: Streamed, told: Sequence[Mapping[str, Any]], by: int, settings: recipe.Context) -> Iterator[Stands]:
    own = media_of(part, settings)
    clips = {f"{part.slot:03d}.q{turn}.flac": turn for turn in part.heard}
    for one in told:
        begin, end, turn = one["begin"] + by, one["end"] + by, clips.get(one["members"][0])
        medium = next(own[Medium[one["kind"].upper()]]) if turn is None else clip_of(part, turn, settings)
        if medium.tokens != end - begin:
            raise Corrupt(
                f"sample {part.sample.key}: {medium.member} was packed as {end - begin} tokens, it is {medium.tokens}: "
                "another version packed it; pack the stage again"
            )
        yield Stands(medium, begin, end)

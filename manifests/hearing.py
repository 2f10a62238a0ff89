"""Which questions of the selected samples are heard instead of read, by the verdicts of the voices.

`speak` asks the same functions what is decided already, so that no plan hears a question that nobody had to speak.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tarsia.builders.columns import many, whole
from tarsia.builders.tables import plain
from tarsia.builders.tokens import audio_tokens
from tarsia.manifests.facts import Bools, Corpus, Int32s, column
from tarsia.manifests.select import Rows, heard, walk
from tarsia.schemas.errors import Pending
from tarsia.schemas.manifest import Ask
from tarsia.schemas.recipe import Context


class Questions(NamedTuple):
    """All questions of a corpus, flat: question `turn` of row `row` is at `first[row] + turn`."""

    first: Rows
    read: Int32s
    heard: Int32s
    speakable: Bools
    samples16: Rows  # of an accepted clip, else -1
    refused: Bools
    sidecar: Rows  # for each row: its row in the sidecar index, or -1


def questions_of(corpus: Corpus) -> Questions:
    """Costs and verdicts of every question of a corpus."""
    read, heard, speakable = (whole(corpus.costs[name]) for name in ("read", "heard", "speakable"))
    asked = Questions(
        first=plain(read.offsets).astype(np.int64)[:-1],
        read=plain(read.values),
        heard=plain(heard.values),
        speakable=speakable.values.to_numpy(zero_copy_only=False),
        samples16=np.full(len(read.values), -1, dtype=np.int64),
        refused=np.zeros(len(read.values), dtype=np.bool_),
        sidecar=np.full(len(corpus.index), -1, dtype=np.int64),
    )
    if corpus.speech is not None and len(corpus.speech):
        rows = column(corpus.speech, "row")
        fresh = rows >= 0
        asked.sidecar[rows[fresh]] = np.flatnonzero(fresh)
        for name in ("clips", "refused"):
            lists = whole(corpus.speech[name])
            parents, items = pc.list_parent_indices(lists).to_numpy(), lists.flatten()
            keep = fresh[parents]
            turns = pc.struct_field(items, "turn").to_numpy()[keep]
            at = asked.first[rows[parents[keep]]] + turns
            if name == "clips":
                asked.samples16[at] = pc.struct_field(items, "samples16").to_numpy()[keep]
            else:
                asked.refused[at] = True
    return asked


def lasting(corpus: Corpus) -> npt.NDArray[np.float64]:
    """The seconds of each sample, and those of the clips that were made of what had no sound."""
    unsaid = corpus.unsaid
    if not unsaid.any():
        return corpus.seconds
    asked = questions_of(corpus)
    made = np.maximum(asked.samples16[asked.first], 0) / 16_000
    return np.asarray(corpus.seconds + np.where(unsaid, made, 0.0))


class Said(NamedTuple):
    """What the sidecars of a corpus say of questions that have not changed since, question by question."""

    at: Rows  # where the question stands among all of the corpus
    clip: pa.Array  # the name of its clip; null: refused
    reason: pa.Array  # of the refusal; null: accepted


def said_of(corpus: Corpus, first: Rows) -> Said:
    """The decisions that stand; `first` is where each sample's questions begin."""
    parts = [Said(np.empty(0, np.int64), pa.array([], pa.string()), pa.array([], pa.string()))]
    if corpus.speech is not None and len(corpus.speech):
        rows = column(corpus.speech, "row")
        fresh = rows >= 0
        for name, field in (("clips", "clip"), ("refused", "reason")):
            lists = whole(corpus.speech[name])
            parents, items = pc.list_parent_indices(lists).to_numpy(), lists.flatten()
            items, parents = items.filter(pa.array(fresh[parents])), parents[fresh[parents]]
            at = first[rows[parents]] + pc.struct_field(items, "turn").to_numpy()
            said, none = pc.struct_field(items, field), pa.nulls(len(items), pa.string())
            parts.append(Said(at, said, none) if name == "clips" else Said(at, none, said))
    at, clip, reason = zip(*parts, strict=True)
    return Said(np.concatenate(at), pa.concat_arrays(clip), pa.concat_arrays(reason))


class Hearing(NamedTuple):
    """What becomes of the questions of selected samples, one entry a sample."""

    spoken: pa.ListArray | pa.ChunkedArray  # the turns that are heard, ascending
    tokens: Rows  # by which the sample is longer than when all is read, audio included
    audio: Rows  # tokens
    samples16: Rows
    speakable: Rows  # questions
    refused: Rows
    pending: Rows
    sidecar: Rows  # row of the sidecar index, -1 where nothing is heard
    waiting: int  # questions that a voice would have to say first, if it refused none


def silence(rows: Rows) -> Hearing:
    """Nothing is heard; the zeros are one zero, said many times."""
    none = np.broadcast_to(np.int64(0), len(rows))
    nothing = many(_grouped(np.zeros(1, np.int64), none[:0]), len(rows))
    return Hearing(nothing, none, none, none, none, none, none, np.broadcast_to(np.int64(-1), len(rows)), 0)


def hearing_of(corpus: Corpus, ask: Ask, rows: Rows, context: Context, *, pending_as_text: bool) -> Hearing:
    """The accepted questions that the walk meets first, as many as asked."""
    asked, order = questions_of(corpus), walk(rows, corpus.draws, corpus.questions)
    slots, at = order.places, asked.first[order.rows] + order.turns
    speakable = asked.speakable[at]
    refused = speakable & asked.refused[at]
    accepted = speakable & (asked.samples16[at] >= 0)
    undecided = speakable & ~accepted & ~refused
    chosen, waiting = heard(accepted, undecided, ask.spoken or 0)
    if waiting and not pending_as_text:
        raise Pending(
            f"corpus '{ask.corpus}': {waiting} questions that may be spoken have no verdict yet; "
            "run tarsia speak, or plan with --pending-as-text"
        )

    def by_sample(values: npt.NDArray[Any], of: Rows) -> Rows:
        return np.bincount(of, values, len(rows)).astype(np.int64)

    at, owners, turns = at[chosen], slots[chosen], order.turns[chosen]
    samples16, counts = asked.samples16[at], np.bincount(owners, minlength=len(rows))
    audio = _audio_tokens(samples16, context)
    return Hearing(
        spoken=_grouped(counts, turns[np.lexsort((turns, owners))]),
        tokens=by_sample(audio + asked.heard[at] - asked.read[at], owners),
        audio=by_sample(audio, owners),
        samples16=by_sample(samples16, owners),
        speakable=by_sample(speakable, slots),
        refused=by_sample(refused, slots),
        pending=by_sample(undecided, slots),
        sidecar=np.where(counts > 0, asked.sidecar[rows], -1),
        waiting=heard(accepted | undecided, undecided, ask.spoken or 0)[1] if waiting else 0,
    )


def _grouped(counts: Rows, values: npt.NDArray[Any]) -> pa.ListArray:
    """Values as lists of so many each."""
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.astype(np.int32)))


def _audio_tokens(samples16: Rows, context: Context) -> Rows:
    """`audio_tokens` of many lengths, each different one computed once."""
    lengths, which = np.unique(samples16, return_inverse=True)
    return np.array([audio_tokens(length, context.audio) for length in lengths.tolist()], np.int64)[which]

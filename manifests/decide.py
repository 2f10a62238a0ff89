"""What a stage selects of each corpus, what of it is heard, and what it then costs: the decisions of a plan.

`speak` asks the same functions what to synthesise, so a plan never hears a question that nobody was asked to speak.
Everything here is arithmetic on the tables of a snapshot, column by column: a stage may have twenty million samples.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tarsia.builders.tokens import TILE_TOKENS, audio_tokens
from tarsia.manifests.select import Rows, divide, heard, take, walk
from tarsia.schemas.errors import Pending
from tarsia.schemas.identity import Draws
from tarsia.schemas.lake import CorpusState, SpeechState
from tarsia.schemas.manifest import Ask
from tarsia.schemas.recipe import Recipe, Stage

Bools = npt.NDArray[np.bool_]
Int32s = npt.NDArray[np.int32]


class Corpus(NamedTuple):
    """What planning reads of one corpus; rows are in draw order, `shard` numbers its tars from 0."""

    state: CorpusState
    index: pa.Table
    shard: Int32s
    costs: pa.Table
    speech_state: SpeechState | None
    speech: pa.Table | None
    speech_shard: Int32s

    @property
    def draws(self) -> Draws:
        """The draws, sorted."""
        return cast(Draws, column(self.index, "draw"))

    @property
    def questions(self) -> Int32s:
        """Human turns of each sample."""
        return cast(Int32s, column(self.index, "questions"))

    @property
    def seconds(self) -> npt.NDArray[np.float64]:
        """Audio of each sample as it stands in the corpus."""
        return cast(npt.NDArray[np.float64], column(self.costs, "seconds"))


def column(table: pa.Table, name: str) -> Any:
    """A column without nulls as a numpy array."""
    return table.column(name).combine_chunks().to_numpy(zero_copy_only=False)


def choose(recipe: Recipe, stage: Stage, corpora: Sequence[Corpus]) -> list[tuple[Corpus, Ask, Rows]]:
    """The selected rows of every corpus that the stage asks for, in the order of its arc, with the ask."""
    chosen = []
    for kind, amount in stage.take.items():
        mine = [corpus for corpus in corpora if corpus.state.corpus.kind is kind]
        totals = [float(corpus.seconds.sum()) for corpus in mine]
        shares = divide(amount, [len(corpus.index) for corpus in mine], totals)
        for corpus, total, asked in zip(mine, totals, shares, strict=True):
            rows = take(corpus.draws, corpus.seconds, recipe.seed, asked)
            quota = stage.spoken.of(int(corpus.questions[rows].sum())) if stage.spoken else None
            ask = Ask(
                corpus=corpus.state.corpus.name,
                kind=kind,
                amount=str(amount),
                available=len(corpus.index),
                available_seconds=round(total, 6),
                samples=asked if isinstance(asked, int) else None,
                seconds=None if isinstance(asked, int) else round(asked, 6),
                spoken=quota,
            )
            chosen.append((corpus, ask, rows))
    return chosen


class Selected(NamedTuple):
    """The selected rows of one corpus, in the order of its arc, with what each costs in the stage."""

    corpus: Corpus
    ask: Ask
    rows: Rows
    tokens: Int32s
    audio: Int32s  # tokens
    seconds: npt.NDArray[np.float64]
    hearing: "Hearing"


def decide(corpus: Corpus, ask: Ask, rows: Rows, *, pending_as_text: bool) -> Selected:
    """What of the selected questions is heard, and what every selected sample costs."""
    hearing = _hearing(corpus, ask, rows, pending_as_text=pending_as_text) if ask.spoken is not None else _silence(rows)
    costs = picked(corpus.costs, rows)
    tiles, frames, audio = (column(costs, name).astype(np.int64) for name in ("tiles", "frames", "audio_tokens"))
    written = column(costs, "answers") + _sums(costs.column("read").combine_chunks()) + TILE_TOKENS * (tiles + frames)
    return Selected(
        corpus,
        ask,
        rows,
        (written + audio + hearing.tokens).astype(np.int32),
        (audio + hearing.audio).astype(np.int32),
        column(costs, "seconds") + hearing.samples16 / 16_000,
        hearing,
    )


def picked(table: pa.Table, rows: Rows) -> pa.Table:
    """Some rows of a table. An arc is one run of rows, or two: a view that copies nothing."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    if len(breaks) > 1:
        return table.take(pa.array(rows))
    runs = [run for run in np.split(rows, breaks) if len(run)]
    return pa.concat_tables([table.slice(0, 0), *(table.slice(int(run[0]), len(run)) for run in runs)])


def _sums(lists: pa.ListArray) -> Rows:
    """The sum of each list."""
    reached = np.concatenate([[0], np.cumsum(lists.values.to_numpy(), dtype=np.int64)])
    return np.asarray(np.diff(reached[lists.offsets.to_numpy()]))


# --- what is heard --------------------------------------------------------------------------------------------------


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
    read, heard, speakable = (corpus.costs.column(name).combine_chunks() for name in ("read", "heard", "speakable"))
    asked = Questions(
        first=read.offsets.to_numpy().astype(np.int64)[:-1],
        read=read.values.to_numpy(),
        heard=heard.values.to_numpy(),
        speakable=speakable.values.to_numpy(zero_copy_only=False),
        samples16=np.full(len(read.values), -1, dtype=np.int64),
        refused=np.zeros(len(read.values), dtype=np.bool_),
        sidecar=np.full(len(corpus.index), -1, dtype=np.int64),
    )
    if corpus.speech is not None and len(corpus.speech):
        rows, fresh = _said_of(corpus.index, corpus.draws, corpus.speech)
        asked.sidecar[rows[fresh]] = np.flatnonzero(fresh)
        for name in ("clips", "refused"):
            lists = corpus.speech.column(name).combine_chunks()
            parents, items = pc.list_parent_indices(lists).to_numpy(), lists.flatten()
            keep = fresh[parents]
            turns = pc.struct_field(items, "turn").to_numpy()[keep]
            at = asked.first[rows[parents[keep]]] + turns
            if name == "clips":
                asked.samples16[at] = pc.struct_field(items, "samples16").to_numpy()[keep]
            else:
                asked.refused[at] = True
    return asked


class Said(NamedTuple):
    """What the sidecars of a corpus say of questions that have not changed since, question by question."""

    at: Rows  # where the question stands among all of the corpus
    clip: pa.Array  # the name of its clip; null: refused
    reason: pa.Array  # of the refusal; null: accepted


def said_of(corpus: Corpus, first: Rows) -> Said:
    """The decisions that stand; `first` is where each sample's questions begin."""
    parts = [Said(np.empty(0, np.int64), pa.array([], pa.string()), pa.array([], pa.string()))]
    if corpus.speech is not None and len(corpus.speech):
        rows, fresh = _said_of(corpus.index, corpus.draws, corpus.speech)
        for name, field in (("clips", "clip"), ("refused", "reason")):
            lists = corpus.speech.column(name).combine_chunks()
            parents, items = pc.list_parent_indices(lists).to_numpy(), lists.flatten()
            items, parents = items.filter(pa.array(fresh[parents])), parents[fresh[parents]]
            at = first[rows[parents]] + pc.struct_field(items, "turn").to_numpy()
            said, none = pc.struct_field(items, field), pa.nulls(len(items), pa.string())
            parts.append(Said(at, said, none) if name == "clips" else Said(at, none, said))
    at, clip, reason = zip(*parts, strict=True)
    return Said(np.concatenate(at), pa.concat_arrays(clip), pa.concat_arrays(reason))


def _said_of(index: pa.Table, draws: Draws, speech: pa.Table) -> tuple[Rows, Bools]:
    """For each row of a sidecar index: the row of the corpus it belongs to, and whether that is still what was said."""
    rows = np.minimum(np.searchsorted(draws, column(speech, "draw")), len(index) - 1)
    same = pc.and_(
        pc.equal(index["key"].take(pa.array(rows)), speech["key"]),
        pc.equal(index["record"].take(pa.array(rows)), speech["record"]),
    )
    return rows, np.asarray(same.to_numpy(), dtype=np.bool_)


class Hearing(NamedTuple):
    """What becomes of the questions of selected samples, one entry a sample."""

    spoken: pa.ListArray  # the turns that are heard, ascending
    tokens: Rows  # by which the sample is longer than when all is read, audio included
    audio: Rows  # tokens
    samples16: Rows
    speakable: Rows  # questions
    refused: Rows
    pending: Rows
    sidecar: Rows  # row of the sidecar index, -1 where nothing is heard


def _silence(rows: Rows) -> Hearing:
    """Nothing is heard; the zeros are one zero, said many times."""
    none = np.broadcast_to(np.int64(0), len(rows))
    return Hearing(
        _grouped(none, none[:0]), none, none, none, none, none, none, np.broadcast_to(np.int64(-1), len(rows))
    )


def _hearing(corpus: Corpus, ask: Ask, rows: Rows, *, pending_as_text: bool) -> Hearing:
    """The accepted questions that the walk meets first, as many as asked."""
    asked, order = questions_of(corpus), walk(rows, corpus.draws, corpus.questions)
    slot_of = np.empty(len(corpus.index), np.int64)
    slot_of[rows] = np.arange(len(rows))
    slots, at = slot_of[order.rows], asked.first[order.rows] + order.turns
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
    audio = _audio_tokens(samples16)
    return Hearing(
        spoken=_grouped(counts, turns[np.lexsort((turns, owners))]),
        tokens=by_sample(audio + asked.heard[at] - asked.read[at], owners),
        audio=by_sample(audio, owners),
        samples16=by_sample(samples16, owners),
        speakable=by_sample(speakable, slots),
        refused=by_sample(refused, slots),
        pending=by_sample(undecided, slots),
        sidecar=np.where(counts > 0, asked.sidecar[rows], -1),
    )


def _grouped(counts: Rows, values: npt.NDArray[Any]) -> pa.ListArray:
    """Values as lists of so many each."""
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.astype(np.int32)))


def _audio_tokens(samples16: Rows) -> Rows:
    """`audio_tokens` of many lengths, each different one computed once."""
    lengths, which = np.unique(samples16, return_inverse=True)
    return np.array([audio_tokens(length) for length in lengths.tolist()], np.int64)[which]

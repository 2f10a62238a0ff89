"""Difference: two plans of a stage held against each other, sample by sample and context by context.

Nothing here loops over samples. A sample's place in a plan is known by 64 bits of its key and copy, what it is there
(its bytes, its speech, what is heard of it, its tokens) by 64 bits more, and a context by the sum of what it holds,
slot by slot; so two plans are two sorted columns, and what they share is where these meet. Of two plans of twenty
million samples a pair of names is alike by chance once in about 50,000 comparisons, and then a count is off by one.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tarsia.builders.tables import packed
from tarsia.schemas.errors import Corrupt
from tarsia.schemas.identity import Draws, redraws
from tarsia.schemas.model import Model

Rows = npt.NDArray[np.int64]

#: What is read of SAMPLES.
PLACED = ("key", "copy", "corpus", "context", "questions", "tokens", "seconds", "spoken", "length", "checksum",
          "speech_length", "speech_checksum")  # fmt: skip


class Sums(Model):
    """What some samples come to. Seconds are of audio at 16 kHz."""

    samples: int
    questions: int
    tokens: int
    seconds: float
    spoken: int  # questions that are heard


class Change(Model):
    """One corpus in two plans; of the samples in both some are read or heard otherwise, or cost something else."""

    corpus: str
    kept: int
    changed: int
    added: int
    removed: int
    before: Sums
    after: Sums
    waiting: int = 0  # questions of the plan after that a voice has to say first


class Difference(Model):
    """A stage in two plans: `before` and `after` are digests of manifests; none where there was no plan."""

    stage: str
    against: str | None  # the stage before, where it is another
    before: str | None
    after: str
    settings: tuple[str, ...]  # what was asked for differently, field by field
    lake: bool  # the part of the lake that the stage sees is another
    corpora: tuple[Change, ...]
    contexts_before: int
    contexts_after: int
    kept: int  # contexts that hold the same samples in the same slots
    in_place: int  # of these: under the same number
    bytes: int  # of samples and speech in contexts that are new: what `tarsia pack` has to read for them
    unplaced_before: int
    unplaced_after: int


class Placed(NamedTuple):
    """The placed samples of a plan in training order, in columns: 50 bytes a sample."""

    names: list[str]  # of corpora
    corpus: npt.NDArray[np.int16]  # number in names
    who: Draws  # key and copy
    what: Draws  # what it is in this plan
    context: npt.NDArray[np.int32]
    questions: npt.NDArray[np.int32]
    tokens: npt.NDArray[np.int32]
    seconds: npt.NDArray[np.float64]
    spoken: npt.NDArray[np.int32]
    bytes: Rows

    def __len__(self) -> int:
        return len(self.who)


_KINDS: dict[str, Any] = {
    "corpus": np.int16,
    "who": np.uint64,
    "what": np.uint64,
    "context": np.int32,
    "questions": np.int32,
    "tokens": np.int32,
    "seconds": np.float64,
    "spoken": np.int32,
    "bytes": np.int64,
}


def placed(tables: Iterable[pa.Table], count: int) -> Placed:
    """The `count` samples of a plan, of tables with the columns of SAMPLES that PLACED names, one behind the other."""
    whole = {name: np.empty(count, kind) for name, kind in _KINDS.items()}
    numbers, begin = dict[str, int](), 0
    for table in tables:
        end = begin + len(table)
        if end > count:
            break
        columns = {name: table[name].combine_chunks() for name in PLACED}
        of = columns["corpus"]
        codes = [numbers.setdefault(name, len(numbers)) for name in of.dictionary.to_pylist()]
        whole["corpus"][begin:end] = np.array(codes, np.int16)[_numbers(of.indices)]
        for name, values in _columns(columns).items():
            whole[name][begin:end] = values
        begin = end
    if begin != count:
        raise Corrupt(f"a plan of {count} placed samples has not as many rows")
    return Placed(list(numbers), **whole)


def _columns(columns: dict[str, Any]) -> dict[str, npt.NDArray[Any]]:
    number = {name: _numbers(columns[name]) for name in PLACED if name not in ("key", "corpus", "spoken")}
    stored = redraws(number["checksum"], "speech", number["speech_checksum"])
    told = redraws(_turns(columns["spoken"]), "tokens", number["tokens"].astype(np.uint64))
    return {
        "who": redraws(keyed(columns["key"]), "copy", number["copy"].astype(np.uint64)),
        "what": redraws(stored, "told", told),
        "spoken": _numbers(pc.list_value_length(columns["spoken"])),
        "bytes": number["length"] + number["speech_length"],
        **{name: number[name] for name in ("context", "questions", "tokens", "seconds")},
    }


def keyed(keys: pa.StringArray) -> Draws:
    """64 bits of each key, all of whose digits count."""
    both = np.frombuffer(packed(keys, 16).buffers()[1], ">u8").reshape(-1, 2)
    return redraws(both[:, 0].astype(np.uint64), "key", both[:, 1].astype(np.uint64))


def _turns(heard: pa.ListArray) -> Draws:
    """64 bits of which questions are heard."""
    sizes = _numbers(pc.list_value_length(heard)).astype(np.int64)
    each = redraws(_numbers(heard.flatten()).astype(np.uint64), "turn")
    sums: Draws = np.zeros(len(heard), np.uint64)
    some = sizes > 0
    begins = (np.cumsum(sizes) - sizes)[some]
    if len(begins):
        sums[some] = np.add.reduceat(each, begins)
    return sums


def _numbers(array: pa.Array) -> npt.NDArray[Any]:
    """An array of numbers, 0 for null."""
    full = array.fill_null(0) if array.null_count else array
    found: npt.NDArray[Any] = full.to_numpy(zero_copy_only=False)
    return found


# --- two of them ----------------------------------------------------------------------------------------------------


def met(before: Draws, after: Draws) -> Rows:
    """For each of `after` the row of `before` that bears the same name, or -1."""
    order = np.argsort(before)
    names = before[order]
    found = np.full(len(after), -1, np.int64)
    if len(names):
        mine = np.argsort(after)  # neighbours are looked up one after the other
        at = np.minimum(np.searchsorted(names, after[mine]), len(names) - 1)
        found[mine] = np.where(names[at] == after[mine], order[at], -1)
    return found


def corpora(before: Placed, after: Placed) -> Iterator[Change]:
    """What became of each corpus, in the order of their names."""
    names = sorted({*before.names, *after.names})
    where = met(before.who, after.who)
    there = where >= 0
    same = there.copy()
    same[there] = before.what[where[there]] == after.what[there]
    old, new = _sums(before, names), _sums(after, names)
    of = np.array([names.index(name) for name in after.names], np.int16)[after.corpus]
    both, kept = (np.bincount(of[rows], minlength=len(names)).tolist() for rows in (there, same))
    for at, name in enumerate(names):
        yield Change(
            corpus=name,
            kept=kept[at],
            changed=both[at] - kept[at],
            added=new[at].samples - both[at],
            removed=old[at].samples - both[at],
            before=old[at],
            after=new[at],
        )


def _sums(plan: Placed, names: list[str]) -> list[Sums]:
    """What the samples of each of these corpora come to."""

    def of(values: npt.NDArray[Any] | None) -> list[float]:
        sums = np.bincount(plan.corpus, values, len(plan.names)).tolist()
        return [sums[plan.names.index(name)] if name in plan.names else 0 for name in names]

    counted = zip(*map(of, (None, plan.questions, plan.tokens, plan.spoken, plan.seconds)), strict=True)
    return [
        Sums(samples=round(samples), questions=round(questions), tokens=round(tokens), spoken=round(spoken),
             seconds=round(seconds, 6))
        for samples, questions, tokens, spoken, seconds in counted
    ]  # fmt: skip


class Contexts(NamedTuple):
    """How many contexts of a plan stay, and what has to be read for the others."""

    kept: int
    in_place: int
    bytes: int


def contexts(before: Placed, after: Placed) -> Contexts:
    """Contexts of the plan after that hold the same samples in the same slots as one before."""
    was, now = _held(before), _held(after)
    stays = met(was, now) >= 0
    both = min(len(was), len(now))
    read = after.bytes[~stays[after.context]] if len(after) else np.empty(0, np.int64)
    return Contexts(int(stays.sum()), int((was[:both] == now[:both]).sum()), int(read.sum()))


def _held(plan: Placed) -> Draws:
    """64 bits of each context."""
    if not len(plan):
        return np.empty(0, np.uint64)
    starts = np.flatnonzero(np.diff(plan.context, prepend=np.int32(-1)))
    slot = np.arange(len(plan)) - starts[plan.context]
    return np.add.reduceat(redraws(plan.who ^ plan.what, "slot", slot.astype(np.uint64)), starts)

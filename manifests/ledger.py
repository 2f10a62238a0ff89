"""Ledger: what the shards' indexes say of every sample, a row each, read once for all stages that an audit looks at.

A sample is known here by its **row**. A manifest names the place of a sample's bytes, a tar and an offset, so that its
row is found among integers; everything else that it says of the sample is then compared column with column. What an
index says is held in 54 bytes a sample, names and keys as numbers.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tarsia.builders.columns import names_of, values_of, whole
from tarsia.builders.storage import Store
from tarsia.builders.tables import get_table
from tarsia.manifests.keys import Keys, words_of
from tarsia.schemas.errors import TarsiaError
from tarsia.schemas.identity import Draws
from tarsia.schemas.lake import CorpusState
from tarsia.schemas.shard import Shard

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Int64s = npt.NDArray[np.int64]

NOWHERE = -1  # the row of a sample that the ledger does not have

STEP = 1 << 18  # rows that are looked at together: what is gathered for them stays near, and its memory is used again

_NEAR = 1 << 12  # places in order that are searched for among those between the first and the last of them

_SOUND = ("audios.list.element.samples", "audios.list.element.rate")
_NUMBERS = {"questions": np.int32, "length": np.int64, "checksum": np.uint64}
_COLUMNS = ("key", "draw", "language", "modality", "offset", *_NUMBERS, *_SOUND)
_KINDS = {**_NUMBERS, "draw": np.uint64, "tail": np.uint64, "address": np.int64, "manner": np.uint16,
          "seconds": np.float64, "record": np.uint64}  # fmt: skip


def steps(count: int) -> Iterator[slice]:
    """So many rows, a step at a time."""
    return (slice(begin, min(begin + STEP, count)) for begin in range(0, count, STEP))


class Run(NamedTuple):
    """The rows of one corpus, in the order of its shards, and the numbers of these shards."""

    begin: int
    end: int
    shards: range

    @property
    def rows(self) -> slice:
        """Its part of a column of the ledger."""
        return slice(self.begin, self.end)

    def __len__(self) -> int:
        return self.end - self.begin


class Ledger:
    """The samples of some corpora by their row, each corpus in one run; as it stands in two snapshots, it has two.

    Of corpora that were `spoken` it knows the records, too.
    """

    def __init__(self, store: Store, states: Sequence[CorpusState], spoken: Collection[str] = ()) -> None:
        self._store, self._spoken = store, spoken
        self._runs: dict[tuple[str, ...], Run | TarsiaError] = {}
        self.manners: list[tuple[str | None, str | None]] = []  # language and modality by their number
        self.corpora: list[str] = []  # of each shard
        self.shards: list[Shard] = []
        self.undrawn: list[int] = []  # of each shard: how many keys do not begin with their draw
        self._columns: dict[str, Array] = {name: np.empty(0, kind) for name, kind in _KINDS.items()}
        self._begins, self._starts = [0], [0]
        apart = {_name(state): state for state in states}
        self._grow(sum(shard.samples for state in apart.values() for shard in state.shards))
        for name, state in apart.items():
            self._runs[name] = self._read(state)
        columns = {name: column[: self._begins[-1]] for name, column in self._columns.items()}
        del self._columns
        self.begins, self.starts = np.array(self._begins), np.array(self._starts)  # of shards: rows, addresses
        self.keys = Keys(columns["draw"], columns["tail"])
        self.manner: Array = columns["manner"]
        self.questions: Array = columns["questions"]
        self.lengths: Int64s = columns["length"]  # 0 where the sample was taken down
        self.checksums: Array = columns["checksum"]
        self.seconds: npt.NDArray[np.float64] = columns["seconds"]  # of its own audio
        self.records: Array = columns["record"]  # the first 64 bits of the digest of each
        self._place(columns["address"])

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def draws(self) -> Draws:
        """The draw of each sample, as its key has it."""
        return self.keys.draws

    def run(self, state: CorpusState) -> Run:
        """The rows of a corpus. Raises what was wrong with one of its indexes."""
        found = self._runs[_name(state)]
        if isinstance(found, TarsiaError):
            raise found
        return found

    def bits(self, rows: Array) -> Array:
        """One bit a sample, set for some rows; a sample that stands in two snapshots counts as one."""
        there = np.zeros(len(self), np.bool_)
        there[self.first(rows)] = True
        return np.packbits(there)

    def first(self, rows: Array) -> Array:
        """The rows of the same samples where they stand first; of most, the same rows."""
        found, firsts = rows, dict[str, Run]()
        for (corpus, *_), run in self._runs.items():
            if isinstance(run, Run) and firsts.setdefault(corpus, run) is not run:
                mine = np.flatnonzero((rows >= run.begin) & (rows < run.end))
                known = self.find(firsts[corpus], self.keys[rows[mine]])
                found = found.copy() if found is rows else found
                found[mine] = np.where(known == NOWHERE, rows[mine], known)
        return found

    def at(self, shards: Array, offsets: Array) -> tuple[Int64s, Int64s]:
        """The rows of the samples that begin at some offsets of shards, `NOWHERE` where none does, in their order.

        And the order: which of those that were asked for comes first, and so on. Neighbours are searched for in the
        same place, and whatever else is wanted of them lies close together too.
        """
        asked = np.where(shards < 0, -1, self.starts[shards] + offsets)
        asked[(offsets < 0) | (asked >= self.starts[shards + 1])] = -1
        order, rows = _order(asked), np.full(len(asked), NOWHERE)
        ordered = asked[order]
        for begin in range(0, len(ordered) if len(self._addresses) else 0, _NEAR):
            some = ordered[begin : begin + _NEAR]
            low, high = np.searchsorted(self._addresses, some[[0, -1]])
            met = low + np.searchsorted(self._addresses[low : high + 1], some)
            met[met == len(self._addresses)] = 0
            found = self._addresses[met] == some
            rows[begin : begin + _NEAR] = np.where(
                found, met if self._standing is None else self._standing[met], NOWHERE
            )
        return order, rows

    def find(self, run: Run, keys: Keys) -> Int64s:
        """Which rows of a corpus have these keys; `NOWHERE` where none has."""
        found, mine = np.full(len(keys), NOWHERE), self.keys[run.rows]
        at = np.searchsorted(mine.draws, keys.draws)
        waiting = np.arange(len(keys))
        while len(waiting):  # for more than one turn only where two draws are the same
            waiting = waiting[at[waiting] < len(mine)]
            waiting = waiting[mine.draws[at[waiting]] == keys.draws[waiting]]
            same = mine.tails[at[waiting]] == keys.tails[waiting]
            found[waiting[same]] = at[waiting[same]] + run.begin
            waiting = waiting[~same]
            at[waiting] += 1
        return found

    def key(self, row: int) -> str:
        """The key of a sample."""
        return self.keys.text(row)

    def _read(self, state: CorpusState) -> Run | TarsiaError:
        begin, first = self._begins[-1], len(self.shards)
        columns = (*_COLUMNS, "record") if state.corpus.name in self._spoken else _COLUMNS
        for shard in state.shards:
            try:
                table = get_table(self._store, shard.index, columns, verify=True, raw=True)
            except TarsiaError as error:
                return error
            self.shards.append(shard)
            self.corpora.append(state.corpus.name)
            self._take(table, self._begins[-1], self._begins[-1] + len(table))
        return Run(begin, self._begins[-1], range(first, len(self.shards)))

    def _grow(self, rows: int) -> None:
        """Makes room for so many rows, as many as the shards should have; zeros that nobody writes take none."""
        for name, column in self._columns.items():
            self._columns[name] = np.zeros((rows, *column.shape[1:]), column.dtype)
            self._columns[name][: len(column)] = column

    def _take(self, table: pa.Table, begin: int, end: int) -> None:
        """Writes an index into the rows from `begin` on, and lays its tar behind those before it."""
        if end > len(self._columns["draw"]):
            self._grow(2 * end)
        columns, to = {name: whole(table[name]) for name in table.column_names}, self._columns
        for name in _NUMBERS:
            to[name][begin:end] = values_of(columns[name])
        offsets, spelt = values_of(columns["offset"]), words_of(columns["key"])
        to["address"][begin:end] = offsets + self._starts[-1]
        to["draw"][begin:end], to["tail"][begin:end] = spelt[:, 0], spelt[:, 1]
        self.undrawn.append(int(np.count_nonzero(to["draw"][begin:end] != values_of(columns["draw"]))))
        if "record" in columns:
            to["record"][begin:end] = words_of(columns["record"])[:, 0]
        languages, modalities = (names_of(columns[name]) for name in ("language", "modality"))
        known = np.array([[self._manner(one, two) for two in modalities[1]] for one in languages[1]], np.uint16)
        to["manner"][begin:end] = known[languages[0], modalities[0]]
        if len(columns["audios"].flatten()):
            to["seconds"][begin:end] = _seconds(columns["audios"])
        self._begins.append(end)
        self._starts.append(self._starts[-1] + max(0, int(offsets.max(initial=0))) + 1)

    def _place(self, addresses: Int64s) -> None:
        """Where samples begin when tars lie end to end: one number for tar and offset, ascending."""
        self._standing: Int64s | None = None  # the rows of the addresses, where these are not all
        self._addresses = addresses
        if not (self.lengths > 0).all():
            self._standing = np.flatnonzero(self.lengths > 0)
            self._addresses = addresses[self._standing]
        if (self._addresses[1:] <= self._addresses[:-1]).any():  # never of a true index
            order = np.argsort(self._addresses, kind="stable")
            self._standing = order if self._standing is None else self._standing[order]
            self._addresses = self._addresses[order]

    def _manner(self, language: str | None, modality: str | None) -> int:
        if (language, modality) not in self.manners:
            self.manners.append((language, modality))
        return self.manners.index((language, modality))


def _order(numbers: Int64s) -> Int64s:
    """What puts numbers in order: sorted with their places in their last bits, a third of the time of `argsort`."""
    bits = len(numbers).bit_length()
    if not len(numbers) or numbers.max() >= 1 << (63 - bits) or numbers.min() < -1:
        return np.argsort(numbers)
    return np.sort(numbers << bits | np.arange(len(numbers))) & ((1 << bits) - 1)


def _name(state: CorpusState) -> tuple[str, ...]:
    """What a corpus is known by: its name and its indexes."""
    return state.corpus.name, *(shard.index.digest for shard in state.shards)


def _seconds(audios: pa.ListArray) -> npt.NDArray[np.float64]:
    """The seconds of audio in each sample."""
    parts = audios.flatten()
    lengths = pc.divide(pc.struct_field(parts, "samples").cast(pa.float64()), pc.struct_field(parts, "rate"))
    owners = values_of(pc.list_parent_indices(audios))
    return np.bincount(owners, values_of(lengths), len(audios)).astype(np.float64, copy=False)

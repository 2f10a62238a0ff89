"""Ledger: what the shards' indexes say of every sample, a row each, read once for all stages that an audit looks at.

A sample is known here by its **row**. A manifest names the place of a sample's bytes, a tar and an offset, so that its
row is found among integers; everything else that it says of the sample is then compared column with column. What an
index says is held in 70 bytes a sample, names as numbers.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tarsia.builders.storage import Store
from tarsia.builders.tables import get_table
from tarsia.schemas.errors import TarsiaError
from tarsia.schemas.identity import Draws
from tarsia.schemas.lake import CorpusState
from tarsia.schemas.shard import Shard

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Int64s = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]  # (samples, 4): the 32 hex digits of each as they are written

NOWHERE = -1  # the row of a sample that the ledger does not have

STEP = 1 << 18  # rows that are looked at together: what is gathered for them stays near, and its memory is used again

_SOUND = ("audios.list.element.samples", "audios.list.element.rate")
_NUMBERS = {"draw": np.uint64, "questions": np.int32, "length": np.int64, "checksum": np.uint64}
_COLUMNS = ("key", "language", "modality", "offset", *_NUMBERS, *_SOUND)
_KINDS = {**_NUMBERS, "address": np.int64, "manner": np.uint16, "seconds": np.float64}


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
    """The samples of some corpora by their row, each corpus in one run; as it stands in two snapshots, it has two."""

    def __init__(self, store: Store, states: Sequence[CorpusState]) -> None:
        self._store = store
        self._runs: dict[tuple[str, ...], Run | TarsiaError] = {}
        self.manners: list[tuple[str | None, str | None]] = []  # language and modality by their number
        self.corpora: list[str] = []  # of each shard
        self.shards: list[Shard] = []
        self._columns: dict[str, Array] = {name: np.empty(0, kind) for name, kind in _KINDS.items()}
        self._columns["keys"] = np.empty((0, 4), np.uint64)
        self._begins, self._starts = [0], [0]
        apart = {_name(state): state for state in states}
        self._grow(sum(shard.samples for state in apart.values() for shard in state.shards))
        for name, state in apart.items():
            self._runs[name] = self._read(state)
        columns = {name: column[: self._begins[-1]] for name, column in self._columns.items()}
        del self._columns
        self.begins, self.starts = np.array(self._begins), np.array(self._starts)  # of shards: rows, addresses
        self.keys: Keys = columns["keys"]
        self.draws: Draws = columns["draw"]
        self.manner: Array = columns["manner"]
        self.questions: Array = columns["questions"]
        self.lengths: Int64s = columns["length"]  # 0 where the sample was taken down
        self.checksums: Array = columns["checksum"]
        self.seconds: npt.NDArray[np.float64] = columns["seconds"]  # of its own audio
        self._place(columns["address"])

    def __len__(self) -> int:
        return len(self.draws)

    def run(self, state: CorpusState) -> Run:
        """The rows of a corpus. Raises what was wrong with one of its indexes."""
        found = self._runs[_name(state)]
        if isinstance(found, TarsiaError):
            raise found
        return found

    def bits(self, rows: Array) -> Array:
        """One bit a sample, set for some rows; a sample that stands in two snapshots counts as one."""
        there, first = np.zeros(len(self), np.bool_), dict[str, Run]()
        there[rows] = True
        for (corpus, *_), run in self._runs.items():
            if isinstance(run, Run) and first.setdefault(corpus, run) is not run:
                some = np.flatnonzero(there[run.rows]) + run.begin
                known = self.find(first[corpus], self.draws[some], self.keys[some])
                there[some[known != NOWHERE]] = False
                there[known[known != NOWHERE]] = True
        return np.packbits(there)

    def at(self, shards: Array, offsets: Array) -> Int64s:
        """The rows of the samples that begin at some offsets of shards; `NOWHERE` where none does."""
        asked = np.where(shards < 0, -1, self.starts[shards] + offsets)
        asked[(offsets < 0) | (asked >= self.starts[shards + 1])] = -1
        order = np.argsort(asked)  # in order, neighbours are searched for in the same place
        ordered = asked[order]
        met, rows = np.searchsorted(self._addresses, ordered), np.full(len(asked), NOWHERE)
        if not len(self._addresses):
            return rows
        met[met == len(self._addresses)] = 0
        found = self._addresses[met] == ordered
        rows[order] = np.where(found, met if self._standing is None else self._standing[met], NOWHERE)
        return rows

    def find(self, run: Run, draws: Draws, keys: Keys) -> Int64s:
        """Which rows of a corpus have these keys; `NOWHERE` where none has."""
        found, mine = np.full(len(keys), NOWHERE), self.draws[run.rows]
        at = np.searchsorted(mine, draws)
        waiting = np.arange(len(keys))
        while len(waiting):  # for more than one turn only where two draws are the same
            waiting = waiting[at[waiting] < len(mine)]
            waiting = waiting[mine[at[waiting]] == draws[waiting]]
            same = equal(self.keys[run.rows][at[waiting]], keys[waiting])
            found[waiting[same]] = at[waiting[same]] + run.begin
            waiting = waiting[~same]
            at[waiting] += 1
        return found

    def key(self, row: int) -> str:
        """The key of a sample."""
        return bytes(self.keys[row]).decode("ascii", "replace")

    def _read(self, state: CorpusState) -> Run | TarsiaError:
        begin, first = self._begins[-1], len(self.shards)
        for shard in state.shards:
            try:
                table = get_table(self._store, shard.index, _COLUMNS, verify=True)
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
        columns = {name: joined(table[name]) for name in table.column_names}
        for name in _NUMBERS:
            self._columns[name][begin:end] = values_of(columns[name])
        offsets = values_of(columns["offset"])
        self._columns["address"][begin:end] = offsets + self._starts[-1]
        self._columns["keys"][begin:end] = keys_of(columns["key"])
        languages, modalities = (names_of(columns[name]) for name in ("language", "modality"))
        known = np.array([[self._manner(one, two) for two in modalities[1]] for one in languages[1]], np.uint16)
        self._columns["manner"][begin:end] = known[languages[0], modalities[0]]
        if len(columns["audios"].flatten()):
            self._columns["seconds"][begin:end] = _seconds(columns["audios"])
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


def _name(state: CorpusState) -> tuple[str, ...]:
    """What a corpus is known by: its name and its indexes."""
    return state.corpus.name, *(shard.index.digest for shard in state.shards)


def _seconds(audios: pa.ListArray) -> npt.NDArray[np.float64]:
    """The seconds of audio in each sample."""
    parts = audios.flatten()
    lengths = pc.divide(pc.struct_field(parts, "samples").cast(pa.float64()), pc.struct_field(parts, "rate"))
    owners = values_of(pc.list_parent_indices(audios))
    return np.bincount(owners, values_of(lengths), len(audios)).astype(np.float64, copy=False)


# --- columns as arrays ----------------------------------------------------------------------------------------------


def joined(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece, which it mostly is already."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def values_of(array: pa.Array, missing: int = -1) -> Array:
    """Numbers as numpy has them; `missing`, or what it is without a sign, where there is none."""
    kind = np.dtype(str(array.type))  # (`to_pandas_dtype` would import pandas, a CPU-second)
    if not len(array):
        return np.empty(0, kind)
    found = np.frombuffer(array.buffers()[1], kind)[array.offset : array.offset + len(array)]
    if array.null_count:
        found = np.where(there(array), found, np.array(missing).astype(kind))
    return found


def there(array: pa.Array) -> Bools:
    """Where a column has a value."""
    return np.from_dlpack(array.is_valid().cast(pa.int8())).astype(np.bool_)


def names_of(array: pa.Array) -> tuple[Array, Sequence[str | None]]:
    """Names as numbers, and the names by number, the last of which is none."""
    coded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
    names = [*coded.dictionary.to_pylist(), None]
    codes = values_of(coded.indices)
    return (np.where(codes < 0, len(names) - 1, codes) if coded.indices.null_count else codes), names


def keys_of(array: pa.StringArray) -> Keys:
    """Keys as they are written, 32 digits each; zeros for what has another length."""
    if not len(array):
        return np.empty((0, 4), np.uint64)
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
    if array.null_count or (np.diff(ends) != 32).any():
        plain = [(key or "").encode() for key in array.to_pylist()]
        data = b"".join(key if len(key) == 32 else bytes(32) for key in plain)
        return np.frombuffer(data, np.uint64).reshape(-1, 4)
    return np.frombuffer(data, np.uint8)[ends[0] : ends[-1]].view(np.uint64).reshape(-1, 4)


def equal(some: Keys, others: Keys) -> Bools:
    """Which keys of two columns are the same."""
    same: Bools = (some == others).view(np.uint32).ravel() == 0x01010101
    return same


_DIGITS = np.zeros(256, np.uint64)
_DIGITS[[*b"0123456789abcdef"]] = range(16)


def draws_of(keys: Keys) -> Draws:
    """The draw that each key begins with."""
    digits = _DIGITS[np.ascontiguousarray(keys[:, :2]).view(np.uint8).reshape(-1, 16)]
    places = np.arange(60, -1, -4, dtype=np.uint64)
    draws: Draws = np.bitwise_or.reduce(digits << places, axis=1).astype(np.uint64)
    return draws

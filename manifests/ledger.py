"""Ledger: what the shards' indexes say of every sample, a row each, read once for all stages that an audit looks at.

A sample is known here by its **row**. A manifest names the place of a sample's bytes, a tar and an offset, so that its
row is found among integers; everything else that it says of the sample is then compared column with column. What an
index says is held in 70 bytes a sample, names as numbers.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tarsia.builders.storage import Store
from tarsia.builders.tables import get_table
from tarsia.schemas.errors import TarsiaError
from tarsia.schemas.identity import Draws
from tarsia.schemas.lake import CorpusState
from tarsia.schemas.shard import Shard, Stored

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Int64s = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]  # (samples, 4): the 32 hex digits of each as they are written

NOWHERE = -1  # the row of a sample that the ledger does not have

_SOUND = ("audios.list.element.samples", "audios.list.element.rate")
_NUMBERS = {"draw": np.uint64, "questions": np.int32, "offset": np.int64, "length": np.int64, "checksum": np.uint64}
_COLUMNS = ("key", "language", "modality", *_NUMBERS, *_SOUND)
_KINDS = {**_NUMBERS, "manner": np.uint16, "seconds": np.float64}


class Ledger:
    """The samples of some shards by their row; those of a corpus are in the order of its shards."""

    def __init__(self, store: Store, shards: Sequence[tuple[str, Shard]]) -> None:
        self._store = store
        self._numbers: dict[Stored, int] = {}
        self._broken: dict[Stored, TarsiaError] = {}
        self.manners: list[tuple[str | None, str | None]] = []  # language and modality by their number
        self.corpora: list[str] = []  # of each shard
        self.shards: list[Shard] = []
        self._columns = {name: np.empty(0, kind) for name, kind in _KINDS.items()}
        self._columns["keys"] = np.empty((0, 4), np.uint64)
        self._grow(sum(shard.samples for _, shard in shards))
        begins = [0]
        for corpus, shard in shards:
            if shard.index in self._numbers or shard.index in self._broken:
                continue
            try:
                table = get_table(store, shard.index, _COLUMNS, verify=True)
            except TarsiaError as error:
                self._broken[shard.index] = error
                continue
            self._numbers[shard.index] = len(self.shards)
            self.corpora.append(corpus)
            self.shards.append(shard)
            begins.append(begins[-1] + len(table))
            self._take(table, begins[-2], begins[-1])
        self.begins = np.array(begins)
        columns = {name: column[: begins[-1]] for name, column in self._columns.items()}
        del self._columns
        self.keys: Keys = columns["keys"]
        self.draws: Draws = columns["draw"]
        self.manner: Array = columns["manner"]
        self.questions: Array = columns["questions"]
        self.lengths: Int64s = columns["length"]  # 0 where the sample was taken down
        self.checksums: Array = columns["checksum"]
        self.seconds: npt.NDArray[np.float64] = columns["seconds"]  # of its own audio
        self._place(columns["offset"])

    def __len__(self) -> int:
        return len(self.draws)

    def number(self, shard: Shard) -> int:
        """The number of a shard. Raises what was wrong with its index."""
        if shard.index in self._broken:
            raise self._broken[shard.index]
        return self._numbers[shard.index]

    def rows(self, state: CorpusState) -> Int64s:
        """The rows of a corpus, in the order of its shards."""
        numbers = [self.number(shard) for shard in state.shards]
        runs = [np.arange(self.begins[number], self.begins[number + 1]) for number in numbers]
        return np.concatenate([np.empty(0, np.int64), *runs])

    def at(self, shards: Array, offsets: Array) -> Int64s:
        """The rows of the samples that begin at some offsets of shards; `NOWHERE` where none does."""
        known = (shards >= 0) & (offsets >= 0)
        known &= offsets < self._spans[np.where(known, shards, 0)] if len(self._spans) else False
        asked = np.where(known, self._starts[np.where(known, shards, 0)] + offsets, -1)
        order = np.argsort(asked)  # in order, neighbours are searched for in the same place
        ordered = asked[order]
        met = np.minimum(np.searchsorted(self._addresses, ordered), max(0, len(self._addresses) - 1))
        rows = np.full(len(asked), NOWHERE)
        if len(self._addresses):
            rows[order] = np.where(self._addresses[met] == ordered, self._standing[met], NOWHERE)
        return rows

    def find(self, rows: Int64s, draws: Draws, keys: Keys) -> Int64s:
        """Which of some rows, in draw order, have these keys; `NOWHERE` where none has."""
        found, mine = np.full(len(keys), NOWHERE), self.draws[rows]
        at = np.searchsorted(mine, draws)
        waiting = np.arange(len(keys))
        while len(waiting):  # for more than one turn only where two draws are the same
            waiting = waiting[at[waiting] < len(rows)]
            waiting = waiting[mine[at[waiting]] == draws[waiting]]
            same = equal(self.keys[rows[at[waiting]]], keys[waiting])
            found[waiting[same]] = rows[at[waiting[same]]]
            waiting = waiting[~same]
            at[waiting] += 1
        return found

    def key(self, row: int) -> str:
        """The key of a sample."""
        return self.keys[row].tobytes().decode("ascii", "replace")

    def _place(self, offsets: Int64s) -> None:
        """Lays the tars end to end, so that one number says where a sample begins."""
        begins, ends = self.begins[:-1], self.begins[1:]
        self._spans = np.ones(len(begins), np.int64)  # below which offsets of a shard may be
        some = ends > begins
        if some.any():
            self._spans[some] += np.maximum(np.maximum.reduceat(offsets, begins[some]), 0)
        self._starts = np.cumsum([0, *self._spans])[:-1]
        addresses = offsets + np.repeat(self._starts, ends - begins)
        self._standing: Array = np.flatnonzero(self.lengths > 0)
        self._addresses: Int64s = addresses[self._standing]
        if (self._addresses[1:] <= self._addresses[:-1]).any():  # never of a true index
            order = np.argsort(self._addresses, kind="stable")
            self._standing, self._addresses = self._standing[order], self._addresses[order]

    def _grow(self, rows: int) -> None:
        """Makes room for so many rows, as many as the shards should have; zeros that nobody writes take none."""
        for name, column in self._columns.items():
            self._columns[name] = np.zeros((rows, *column.shape[1:]), column.dtype)
            self._columns[name][: len(column)] = column

    def _take(self, table: pa.Table, begin: int, end: int) -> None:
        """Writes an index into the rows from `begin` on."""
        if end > len(self._columns["draw"]):
            self._grow(2 * end)
        columns = {name: joined(table[name]) for name in table.column_names}
        for name in _NUMBERS:
            self._columns[name][begin:end] = values_of(columns[name])
        self._columns["keys"][begin:end] = keys_of(columns["key"])
        languages, modalities = (names_of(columns[name]) for name in ("language", "modality"))
        known = np.array([[self._manner(one, two) for two in modalities[1]] for one in languages[1]], np.uint16)
        self._columns["manner"][begin:end] = known[languages[0], modalities[0]]
        if len(columns["audios"].flatten()):
            self._columns["seconds"][begin:end] = _seconds(columns["audios"])

    def _manner(self, language: str | None, modality: str | None) -> int:
        if (language, modality) not in self.manners:
            self.manners.append((language, modality))
        return self.manners.index((language, modality))


def _seconds(audios: pa.ListArray) -> npt.NDArray[np.float64]:
    """The seconds of audio in each sample."""
    parts = audios.flatten()
    lengths = pc.divide(pc.struct_field(parts, "samples").cast(pa.float64()), pc.struct_field(parts, "rate"))
    return np.bincount(values_of(pc.list_parent_indices(audios)), values_of(lengths), len(audios))


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
    return np.bitwise_or.reduce(digits << places, axis=1).astype(np.uint64)

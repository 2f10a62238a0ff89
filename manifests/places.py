"""Places: what reading a context needs of its manifest's tables, by number.

Only the row groups around what is asked are held, as arrays of a hundred bytes a row, so that any row of a table of
millions is there in milliseconds and the next ones at once. A window of contexts (`order.WINDOW`) may be asked in any
order, so as many groups are kept as hold one.
"""

import io
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from itertools import accumulate
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tarsia.builders.storage import Store
from tarsia.builders.tables import ROWS, plain, read_group, read_whole, whole_in
from tarsia.manifests.order import WINDOW
from tarsia.schemas.errors import Corrupt
from tarsia.schemas.manifest import Manifest
from tarsia.schemas.shard import Stored

Records = npt.NDArray[np.void]
Columns = dict[str, Any]  # Arrow arrays by name
Convert = Callable[[Columns], Records]


class Group(NamedTuple):
    """What figures are told apart by."""

    corpus: str
    kind: str
    language: str
    modality: str


class Place(NamedTuple):
    """A placed sample: what it counts for, and where its bytes lie."""

    key: bytes  # 32 hex digits
    group: Group
    questions: int
    tokens: int
    microseconds: int  # of audio at 16 kHz: whole numbers, so that sums do not depend on their order
    spoken: tuple[int, ...]
    shard: int
    offset: int
    length: int
    checksum: int
    speech_shard: int
    speech_offset: int
    speech_length: int
    speech_checksum: int


class Placed(NamedTuple):
    """A context and its samples."""

    prompt: str
    tokens: int
    samples: list[Place]


class Places:
    """The contexts of a manifest."""

    def __init__(self, store: Store, manifest: Manifest) -> None:
        tables = manifest.tables
        samples = sum(count.placed for count in manifest.counts) // max(1, manifest.contexts)
        self._contexts = Rows(store, tables["contexts"], ("prompt", "tokens", "first", "samples"), _contexts)
        self._samples = Rows(store, tables["samples"], _COLUMNS, places, keep=2 + WINDOW * samples // ROWS)

    def context(self, number: int) -> Placed:
        """One context by its number."""
        ((prompt, tokens, first, samples),) = self._contexts.rows(number, 1)
        return Placed(prompt, tokens, [Place._make(row) for row in self._samples.rows(first, samples)])


class Rows:
    """The rows of a stored table by their number, as tuples of what `convert` makes of its columns."""

    SMALL = 1 << 20  # bytes of a table that is read, and compared with its digest, as a whole

    def __init__(
        self, store: Store, stored: Stored, columns: tuple[str, ...], convert: Convert, *, keep: int = 2
    ) -> None:
        self._store, self._stored, self._columns, self._convert, self._keep = store, stored, columns, convert, keep
        self._division: pq.FileMetaData | None = None
        self._ends: list[int] = []
        self._groups: OrderedDict[int, Records] = OrderedDict()

    def rows(self, first: int, count: int) -> list[tuple[Any, ...]]:
        """So many rows from one on."""
        if self._division is None:
            self._open(first)
        if first < 0 or first + count > (self._ends[-1] if self._ends else 0):
            raise Corrupt(f"{self._store.url}/{self._stored.path} has no row {first + count - 1}")
        found: list[tuple[Any, ...]] = []
        while count > 0:
            group = bisect_right(self._ends, first)
            if group not in self._groups:
                self._open(first)
            begin = first - (self._ends[group - 1] if group else 0)
            part = self._groups[group][begin : begin + count].tolist()
            found += part
            first, count = first + len(part), count - len(part)
        return found

    def _open(self, row: int) -> None:
        """Reads the row group that holds a row, if there is one; the first time also how the table is divided.

        In this thread: Arrow's own, where they have just begun, abort a process that ends in the same moment.
        """
        with (
            whole_in(f"{self._store.url}/{self._stored.path}"),
            self._opened() as file,
            pq.ParquetFile(file, metadata=self._division, pre_buffer=False, page_checksum_verification=True) as table,
        ):
            if self._division is None:
                sizes = [table.metadata.row_group(number).num_rows for number in range(table.num_row_groups)]
                self._division, self._ends = table.metadata, list(accumulate(sizes))
            group = bisect_right(self._ends, row)
            if group < len(self._ends):
                read = read_group(table, group, self._columns).combine_chunks()
                columns = zip(read.column_names, read.columns, strict=True)
                self._groups[group] = self._convert({name: column.chunk(0) for name, column in columns})
        if len(self._groups) > self._keep:
            self._groups.popitem(last=False)

    def _opened(self) -> BinaryIO:
        if self._stored.bytes >= self.SMALL:
            return self._store.open(self._stored.path)
        return io.BytesIO(read_whole(self._store, self._stored))


_GROUP = Group._fields
_NUMBERS = {
    "questions": "i4", "tokens": "i4", "shard": "i4", "offset": "i8", "length": "i8", "checksum": "u8",
    "speech_shard": "i4", "speech_offset": "i8", "speech_length": "i8", "speech_checksum": "u8",
}  # fmt: skip
_COLUMNS = ("key", *_GROUP, "seconds", "spoken", *_NUMBERS)
_PLACE = np.dtype(
    [
        ("key", "S32"), ("group", "O"), ("questions", "i4"), ("tokens", "i4"), ("microseconds", "i8"), ("spoken", "O"),
        *[(name, kind) for name, kind in _NUMBERS.items() if name not in ("questions", "tokens")],
    ]
)  # fmt: skip


def places(columns: Columns) -> Records:
    """Rows of SAMPLES as records of `Place`; where there is no speech its numbers are 0."""
    rows = np.zeros(len(columns["key"]), _PLACE)
    for name, kind in _NUMBERS.items():
        rows[name] = _numbers(columns[name], kind)
    keys = columns["key"].cast(pa.binary(32))
    rows["key"] = np.frombuffer(keys.buffers()[1], "S32")[keys.offset : keys.offset + len(keys)]
    rows["microseconds"] = microseconds(columns["seconds"])
    numbers, groups = grouped(columns)
    rows["group"] = _objects(groups)[numbers]
    rows["spoken"] = _objects([()])[np.zeros(len(rows), np.int64)]
    for row in np.flatnonzero(plain(pc.list_value_length(columns["spoken"]))).tolist():
        rows["spoken"][row] = tuple(columns["spoken"][row].as_py())
    return rows


def microseconds(seconds: Any) -> npt.NDArray[np.int64]:
    """Seconds of audio, in whole microseconds."""
    found: npt.NDArray[np.int64] = np.rint(plain(seconds) * 1e6).astype(np.int64)
    return found


def grouped(columns: Columns) -> tuple[npt.NDArray[np.int64], list[Group]]:
    """For each row of SAMPLES the number of its group, and the groups by number."""
    names = [columns[name].dictionary.to_pylist() for name in _GROUP]
    shape = [len(values) for values in names]
    codes = np.zeros(len(columns["key"]), np.int64)
    for name, size in zip(_GROUP, shape, strict=True):
        codes = codes * size + plain(columns[name].indices)
    found, numbers = np.unique(codes, return_inverse=True)
    which = np.transpose(np.unravel_index(found, shape)).tolist()
    return numbers, [Group(*(values[one] for values, one in zip(names, row, strict=True))) for row in which]


def _numbers(array: Any, kind: str) -> npt.NDArray[Any]:
    """An Arrow array of numbers, 0 for null. (`fill_null` would import pandas too.)"""
    found = np.frombuffer(array.buffers()[1], kind)[array.offset : array.offset + len(array)]
    return np.where(plain(array.is_valid().cast(pa.int8())), found, found.dtype.type(0))


def _objects(values: list[Any]) -> npt.NDArray[np.object_]:
    array = np.empty(len(values), np.object_)
    for number, value in enumerate(values):
        array[number] = value
    return array


def _contexts(columns: Columns) -> Records:
    rows = np.zeros(len(columns["prompt"]), [("prompt", "O"), ("tokens", "i4"), ("first", "i8"), ("samples", "i4")])
    rows["prompt"] = _objects(columns["prompt"].dictionary.to_pylist())[plain(columns["prompt"].indices)]
    for name in ("tokens", "first", "samples"):
        rows[name] = plain(columns[name])
    return rows

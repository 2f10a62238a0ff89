"""Columns of a known length, filled table after table: what thousands of shards say, side by side in one place.

Tables that are joined at the end stand twice for a moment, once in pieces and once whole; of thirty million rows that
moment is what a machine must be bought for. Here each piece is copied to where it stays and let go, so that its memory,
still warm, serves the next one.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tarsia.builders.tables import packed, plain
from tarsia.schemas.errors import Corrupt

Words = npt.NDArray[np.uint64]


def words(digits: pa.FixedSizeBinaryArray) -> Words:
    """Each value as the big-endian numbers of 64 bits that it is made of; of a key, the first is its draw.

    A view where the bytes lie: cheap until it is computed with.
    """
    width = digits.type.byte_width
    data = digits.buffers()[1]
    mine = memoryview(data)[digits.offset * width : (digits.offset + len(digits)) * width] if data else b""
    return np.frombuffer(mine, ">u8").reshape(-1, width // 8)


def whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column as one array, copied only where it lies in pieces. (`combine_chunks` copies a single one too.)"""
    if isinstance(column, pa.ChunkedArray):
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return column


def values_of(array: pa.Array, missing: int = -1) -> npt.NDArray[Any]:
    """Numbers as numpy has them; `missing`, or what it is without a sign, where there is none."""
    if not array.null_count:
        return plain(array)
    kind = np.dtype(str(array.type))  # (`to_pandas_dtype` would import pandas, a CPU-second)
    values = np.frombuffer(array.buffers()[1], kind)[array.offset : array.offset + len(array)]
    return np.where(there(array), values, np.array(missing).astype(kind))


def there(array: pa.Array) -> npt.NDArray[np.bool_]:
    """Where a column has a value."""
    return plain(array.is_valid().cast(pa.int8())).astype(np.bool_)


def names_of(array: pa.Array) -> tuple[npt.NDArray[Any], Sequence[str | None]]:
    """Names as numbers, and the names by number, the last of which is none."""
    coded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
    names = [*coded.dictionary.to_pylist(), None]
    codes = values_of(coded.indices)
    return (np.where(codes < 0, len(names) - 1, codes) if coded.indices.null_count else codes), names


def many(value: pa.Array, count: int) -> pa.ChunkedArray:
    """One value, `count` times: a chunk of some thousands, again and again, that is in memory once."""
    some = value.take(pa.array(np.zeros(min(count, 1 << 16), np.int32)))
    times, rest = divmod(count, max(1, len(some)))
    return pa.chunked_array([*[some] * times, some[:rest]], value.type)


class Columns:
    """A table of `rows` rows, filled from the first to the last.

    A schema may hold numbers, lists of numbers, names (dictionaries with 16-bit codes) and hex digits as the bytes that
    they spell.
    """

    def __init__(self, schema: pa.Schema, rows: int) -> None:
        self._schema, self._rows, self._filled = schema, rows, 0
        self._columns = [_column(field.type, rows) for field in schema]

    def add(self, table: pa.Table) -> None:
        """The next rows: the columns of the schema, by name. `Corrupt` where one of them has no value."""
        begin, self._filled = self._filled, self._filled + len(table)
        if self._filled > self._rows:
            raise Corrupt(f"shards have {self._filled} rows or more, where {self._rows} are listed")
        for name, column in zip(self._schema.names, self._columns, strict=True):
            at = begin
            for chunk in table[name].chunks:
                if chunk.null_count:
                    raise Corrupt(f"column '{name}' has rows without a value")
                column.put(at, chunk)
                at += len(chunk)

    def table(self) -> pa.Table:
        """All of them. `Corrupt` where they are fewer than was said."""
        if self._filled < self._rows:
            raise Corrupt(f"shards have {self._filled} rows, where {self._rows} are listed")
        return pa.table([column.array() for column in self._columns], self._schema)


class _Column(Protocol):
    def put(self, at: int, chunk: Any) -> None:
        """The rows from `at` on."""

    def array(self) -> pa.Array:
        """All rows, as one array."""


def _column(kind: pa.DataType, rows: int) -> _Column:
    if pa.types.is_fixed_size_binary(kind):
        return _Digits(kind, rows)
    if pa.types.is_dictionary(kind):
        return _Names(rows)
    return _Lists(kind, rows) if pa.types.is_list(kind) else _Numbers(kind, rows)


class _Numbers:
    def __init__(self, kind: pa.DataType, rows: int) -> None:
        self._values = np.empty(rows, kind.to_pandas_dtype())

    def put(self, at: int, chunk: Any) -> None:
        self._values[at : at + len(chunk)] = plain(chunk)

    def array(self) -> pa.Array:
        return pa.array(self._values)


class _Digits:
    def __init__(self, kind: pa.DataType, rows: int) -> None:
        self._kind, self._values = kind, np.empty((rows, kind.byte_width), np.uint8)

    def put(self, at: int, chunk: Any) -> None:
        spelt = packed(chunk, self._kind.byte_width).buffers()[1]
        self._values[at : at + len(chunk)] = np.frombuffer(spelt, np.uint8).reshape(-1, self._kind.byte_width)

    def array(self) -> pa.Array:
        values = self._values
        return pa.FixedSizeBinaryArray.from_buffers(self._kind, len(values), [None, pa.py_buffer(values)])


class _Names:
    def __init__(self, rows: int) -> None:
        self._codes, self._names = np.empty(rows, np.int16), dict[str, int]()

    def put(self, at: int, chunk: Any) -> None:
        codes = [self._names.setdefault(name, len(self._names)) for name in chunk.dictionary.to_pylist()]
        self._codes[at : at + len(chunk)] = np.array(codes, np.int16)[plain(chunk.indices)]

    def array(self) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(self._codes), pa.array(list(self._names), pa.string()))


class _Lists:
    """Where the list of each row begins, and the values of all of them."""

    def __init__(self, kind: pa.DataType, rows: int) -> None:
        self._kind, self._begins = kind, np.zeros(rows + 1, np.int32)
        self._values = [pa.array([], kind.value_type)]

    def put(self, at: int, chunk: Any) -> None:
        begins = plain(chunk.offsets)
        self._begins[at + 1 : at + 1 + len(chunk)] = begins[1:] + (self._begins[at] - begins[0])
        self._values.append(chunk.flatten())

    def array(self) -> pa.Array:
        return pa.ListArray.from_arrays(pa.array(self._begins), pa.concat_arrays(self._values), type=self._kind)

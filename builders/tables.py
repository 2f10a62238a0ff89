"""Parquet in, Parquet out, and a digest of rows that no library version can change.

Bytes of a Parquet file depend on the library that wrote them; under one lock file they are the same every time. What
the rows *say* is digested apart, column by column, so that two versions can be compared.
"""

import io
import struct
from binascii import Error as NotHex
from binascii import hexlify, unhexlify
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from blake3 import blake3

from tarsia.builders.storage import Store
from tarsia.schemas.errors import Corrupt
from tarsia.schemas.identity import digest
from tarsia.schemas.shard import Stored

ROWS = 1 << 16  # a row group: small enough to read one in a hurry

#: Columns, and fields of structs, whose text is hardly ever twice the same: a dictionary of it only costs time.
ONCE = {"key", "id", "record", "said", "content", "digest", "clip"}

#: Numbers that have nothing to do with their neighbours.
DRAWN = {"draw", "checksum", "speech_checksum"}


def to_parquet(table: pa.Table) -> bytes:
    """The table as Parquet: row groups of `ROWS`, keys as the UUIDs that they spell; same rows, same bytes."""
    sink, schema = io.BytesIO(), _stored(table.schema)
    pq.write_table(as_schema(table, schema), sink, row_group_size=ROWS, **_written(schema))
    return sink.getvalue()


def _stored(schema: pa.Schema) -> pa.Schema:
    """What a table is stored as: the 32 hex digits of a key take 16 bytes, and need no compression."""
    is_key = [field.name == "key" and pa.types.is_string(field.type) for field in schema]
    return pa.schema([pa.field("key", pa.uuid()) if key else field for key, field in zip(is_key, schema, strict=True)])


def spelt(table: pa.Table) -> pa.Table:
    """A table as it was before it was stored."""
    fields = [pa.field("key", pa.string()) if field.type == pa.uuid() else field for field in table.schema]
    return as_schema(table, pa.schema(fields))


def _written(schema: pa.Schema) -> dict[str, Any]:
    """How Parquet is written: numbers by their differences, names by number, other text with zstd.

    Thousands of indexes are read for every plan. Numbers and names packed by bits are no smaller with zstd, and take
    half as long again to read.
    """
    leaves = {path: (path.rsplit(".", 1)[-1], kind) for field in schema for path, kind in _leaves(field)}
    numbers = {path: name for path, (name, kind) in leaves.items() if pa.types.is_integer(kind)}
    return {
        "compression": {path: "zstd" if pa.types.is_floating(kind) or _of_text(kind) else "none"
                        for path, (_, kind) in leaves.items()},
        "column_encoding": {path: "PLAIN" if name in DRAWN else "DELTA_BINARY_PACKED"
                            for path, name in numbers.items()},
        "use_dictionary": [path for path, (name, _) in leaves.items() if path not in numbers and name not in ONCE],
        "write_page_checksum": True,
    }  # fmt: skip


def _leaves(field: pa.Field) -> Iterator[tuple[str, pa.DataType]]:
    """What Parquet calls the columns of a field, and what they hold."""
    kind, inside = field.type, ""
    while pa.types.is_list(kind):
        kind, inside = kind.value_type, f"{inside}.list.element"
    if not pa.types.is_struct(kind):
        yield f"{field.name}{inside}", kind
        return
    for inner in kind:
        yield from ((f"{field.name}{inside}.{path}", leaf) for path, leaf in _leaves(inner))


def put_table(store: Store, path: str, table: pa.Table) -> Stored:
    """Stores a table as `<path>-<digest8>.parquet`."""
    data = to_parquet(table)
    name = digest(data)
    stored = Stored(path=f"{path}-{name[:8]}.parquet", bytes=len(data), digest=name)
    store.replace(stored.path, data)
    return stored


def put_tables(store: Store, path: str, tables: Iterable[pa.Table], schema: pa.Schema, *, rows: int = ROWS) -> Stored:
    """Stores the rows of many tables as `put_table` would as one, never holding more of them than a row group.

    `schema`: what they are, or can be cast to. `rows`: how many make a group; fewer where they are long.
    """
    state, size = blake3(), 0
    with store.spool() as file:
        kept = _stored(schema)
        with pq.ParquetWriter(file, kept, **_written(kept)) as writer:
            held, waiting = [kept.empty_table()], 0
            for table in tables:
                held.append(as_schema(table, kept))
                waiting += len(table)
                while waiting > rows:
                    whole = pa.concat_tables(held)
                    writer.write_table(whole.slice(0, rows))
                    held, waiting = [whole.slice(rows)], waiting - rows
            writer.write_table(pa.concat_tables(held).combine_chunks())
        file.flush()
        file.seek(0)
        while chunk := file.read(1 << 20):
            state.update(chunk)
            size += len(chunk)
        stored = Stored(path=f"{path}-{state.hexdigest()[:8]}.parquet", bytes=size, digest=state.hexdigest())
        store.publish(file, stored.path)
    return stored


def get_table(
    store: Store, stored: Stored, columns: Sequence[str] | None = None, *, verify: bool = False, raw: bool = False
) -> pa.Table:
    """A stored table, or some columns of it. `verify` compares the whole file with its digest.

    `raw`: as it is stored, keys as UUIDs.
    """
    with whole_in(f"{store.url}/{stored.path}"):
        if verify or stored.bytes < 1 << 20:
            table = _all(pq.ParquetFile(pa.BufferReader(read_whole(store, stored))), columns)
        else:
            with store.open(stored.path) as file:
                table = _all(opened(file), columns)
    return table if raw else spelt(table)


def _all(parquet: pq.ParquetFile, columns: Sequence[str] | None) -> pa.Table:
    with parquet:
        return parquet.read(columns=list(columns) if columns else None, use_threads=False)


def read_whole(store: Store, stored: Stored) -> bytes:
    """A stored object. `Corrupt` where it is not what was written."""
    data = store.read(stored.path)
    _same(store, stored, digest(data))
    return data


def _same(store: Store, stored: Stored, found: str) -> None:
    if found != stored.digest:
        raise Corrupt(f"{store.url}/{stored.path}: not the bytes that were written (BLAKE3 differs)")


def in_groups(store: Store, stored: Stored, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Some columns of a stored table, a row group at a time."""
    with store.open(stored.path) as file, whole_in(f"{store.url}/{stored.path}"), opened(file) as parquet:
        for group in range(parquet.num_row_groups):
            yield read_group(parquet, group, columns)


def read_group(parquet: pq.ParquetFile, group: int, columns: Sequence[str]) -> pa.Table:
    """Some columns of a row group."""
    return spelt(parquet.read_row_group(group, columns=list(columns), use_threads=False))


@contextmanager
def open_table(store: Store, stored: Stored) -> Iterator[pq.ParquetFile]:
    """A stored table, compared with its digest, to be read column by column."""
    with store.fetch(stored.path) as file:
        state = blake3()
        while chunk := file.read(1 << 20):
            state.update(chunk)
        _same(store, stored, state.hexdigest())
        with pq.ParquetFile(file) as table:
            yield table


def read_parquet(file: BinaryIO, where: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet file, or some columns of it; `Corrupt` says `where` if its bytes are not those that were written.

    (`pq.read_table` would import pandas, a CPU-second in every process.)
    """
    with whole_in(where):
        return spelt(_all(opened(file), columns))


def opened(file: BinaryIO, metadata: pq.FileMetaData | None = None) -> pq.ParquetFile:
    """A Parquet file whose pages are compared with their checksums. Only what comes from a bucket is read ahead.

    That is done by threads of Arrow's, which abort a process that ends while they have just begun.
    """
    is_bucket = isinstance(file, io.BufferedReader) and not isinstance(file.raw, io.FileIO)
    return pq.ParquetFile(file, metadata=metadata, pre_buffer=is_bucket, page_checksum_verification=True)


@contextmanager
def whole_in(where: str) -> Iterator[None]:
    """Says which table it is whose bytes Arrow cannot read, or finds to be others than were written."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk
            raise
        raise Corrupt(f"{where}: cannot be read: {error}") from error


def get_tables(store: Store, many: Iterable[Stored], schema: pa.Schema, columns: Sequence[str]) -> pa.Table:
    """Several stored tables end to end, some columns of them, with the schema's types even when there are none.

    Hex digits come as the bytes they spell where the schema says so: `key` and `record` in half the memory. Of lists of
    structs, only the fields are read that the schema has.
    """
    wanted = pa.schema([schema.field(name) for name in columns])
    paths = [path for field in wanted for path, _ in _leaves(field)]
    parts = (get_table(store, stored, paths, raw=True).select(list(columns)) for stored in many)
    return pa.concat_tables([wanted.empty_table(), *(as_schema(part, wanted) for part in parts)]).combine_chunks()


def as_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the types of a schema that has the same columns; hex digits become bytes and bytes hex digits.

    `Corrupt` where text is to become a key and is none.
    """
    columns = [_as(column, field.type) for column, field in zip(table.columns, schema, strict=True)]
    return pa.table(columns, schema)


def _as(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if column.type == kind:
        return column
    if column.type == pa.uuid():
        return _as(pa.chunked_array([chunk.storage for chunk in column.chunks], pa.binary(16)), kind)
    if kind == pa.uuid():
        if pc.min(pc.binary_length(column)).as_py() == 0:
            raise Corrupt("a key is empty")
        chunks = _as(column, pa.binary(16)).chunks
        return pa.chunked_array([pa.ExtensionArray.from_storage(kind, chunk) for chunk in chunks], kind)
    if pa.types.is_fixed_size_binary(kind):
        return pa.chunked_array([packed(chunk, kind.byte_width) for chunk in column.chunks], kind)
    if pa.types.is_fixed_size_binary(column.type) and pa.types.is_string(kind):
        return pa.chunked_array([spelled(chunk) for chunk in column.chunks], kind)
    return column.cast(kind)


_SMALL = np.uint64(0x2020202020202020)  # the bit that 0 to 9 and a to f have, and A to F have not


def packed(digits: pa.StringArray, width: int) -> pa.FixedSizeBinaryArray:
    """Strings of `2 * width` hex digits as the bytes that they spell; empty ones (of what was taken down) as zeros.

    `Corrupt` where one is neither.
    """
    _, offsets, data = digits.buffers()
    ends = np.frombuffer(offsets, np.int32)[digits.offset : digits.offset + len(digits) + 1] if offsets else np.zeros(1)
    lengths = np.diff(ends)
    if digits.null_count or not ((lengths == 2 * width) | (lengths == 0)).all():
        raise Corrupt(f"a key or a digest is not {2 * width} hex digits long")
    text = memoryview(data)[ends[0] : ends[-1]] if lengths.any() else b""
    if np.bitwise_and.reduce(np.frombuffer(text, np.uint64)) & _SMALL != _SMALL:
        raise Corrupt("a key or a digest has a hex digit that is a capital")
    try:
        spelt = unhexlify(text)
    except NotHex as error:
        raise Corrupt(f"a key or a digest is not made of hex digits: {error}") from None
    if not lengths.all():
        spread = np.zeros((len(digits), width), np.uint8)
        spread[lengths > 0] = np.frombuffer(spelt, np.uint8).reshape(-1, width)
        spelt = spread.tobytes()
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(digits), [None, pa.py_buffer(spelt)])


def spelled(digits: pa.FixedSizeBinaryArray) -> pa.StringArray:
    """The hex digits of bytes."""
    width = digits.type.byte_width
    data = digits.buffers()[1]
    mine = memoryview(data)[digits.offset * width : (digits.offset + len(digits)) * width] if data else b""
    ends = pa.py_buffer(np.arange(0, 2 * width * (len(digits) + 1), 2 * width, dtype=np.int32))
    return pa.StringArray.from_buffers(len(digits), ends, pa.py_buffer(hexlify(mine)))


def rows_digest(table: pa.Table) -> str:
    """BLAKE3 of what the rows say: names, lengths and values of the columns, little-endian, whatever the encoding."""
    return columns_digest(zip(table.column_names, table.columns, strict=True))


def columns_digest(columns: Iterable[tuple[str, pa.Array | pa.ChunkedArray]]) -> str:
    """`rows_digest` of columns that come one at a time; bytes of a fixed size count as the hex digits they spell."""
    state = blake3()
    for name, array in columns:
        state.update(name.encode() + b"\0")
        chunks = array.chunks if isinstance(array, pa.ChunkedArray) else [array]
        is_key = array.type == pa.uuid()
        _feed(state, [chunk.storage for chunk in chunks] if is_key else chunks, pa.binary(16) if is_key else array.type)
    return state.hexdigest()


_PIECE = 1 << 17  # values that are spelt out at once; a multiple of 8


def _feed(state: Any, chunks: Sequence[pa.Array], kind: pa.DataType) -> None:
    if any(len(chunk) % 8 for chunk in chunks[:-1]):  # a bit a value: chunks have to end where bytes do
        chunks = [pa.concat_arrays(chunks)]
    state.update(struct.pack("<q", sum(map(len, chunks))))

    def pieces(each: Callable[[pa.Array], pa.Array] = lambda piece: piece) -> Iterator[pa.Array]:
        return (each(chunk.slice(begin, _PIECE)) for chunk in chunks for begin in range(0, len(chunk), _PIECE))

    for piece in pieces():
        there = plain(piece.is_valid().cast(pa.uint8())) if piece.null_count else np.ones(len(piece), np.uint8)
        state.update(np.packbits(there))
    if pa.types.is_struct(kind):
        for index in range(kind.num_fields):
            _feed(state, [pc.struct_field(chunk, index) for chunk in chunks], kind.field(index).type)
    elif pa.types.is_list(kind):
        for piece in pieces():
            state.update(_numbers(pc.list_value_length(piece).fill_null(0), "<i8"))
        _feed(state, [chunk.flatten() for chunk in chunks], kind.value_type)
    elif pa.types.is_dictionary(kind) or pa.types.is_fixed_size_binary(kind) or _of_text(kind):
        for piece in pieces(_lengths):
            state.update(_numbers(piece, "<i8"))
        for piece in pieces(_spelt):
            _, offsets, data = piece.buffers()
            ends = np.frombuffer(offsets, dtype=np.int32)[piece.offset : piece.offset + len(piece) + 1]
            if len(ends) and data is not None:
                state.update(memoryview(data)[ends[0] : ends[-1]])
    else:
        for piece in pieces():
            full = piece.fill_null(pa.scalar(0).cast(kind)) if piece.null_count else piece
            state.update(_numbers(full, None))


def _lengths(piece: pa.Array) -> pa.Array:
    """How long each text is; of names, the length of each is measured once."""
    if pa.types.is_fixed_size_binary(piece.type):
        return pa.array(np.full(len(piece), 2 * piece.type.byte_width))
    if pa.types.is_dictionary(piece.type):
        return pc.binary_length(piece.dictionary).cast(pa.int64()).take(piece.indices).fill_null(0)
    return pc.binary_length(piece).fill_null(0)


def _of_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_binary(kind))


def _spelt(piece: pa.Array) -> pa.Array:
    """Text or bytes, without nulls."""
    if pa.types.is_fixed_size_binary(piece.type):
        return spelled(piece)
    if pa.types.is_dictionary(piece.type):
        piece = piece.cast(piece.type.value_type)
    return piece.fill_null("" if pa.types.is_string(piece.type) else b"") if piece.null_count else piece


def _numbers(array: pa.Array, dtype: str | None) -> Any:
    values = plain(array.cast(pa.uint8()) if pa.types.is_boolean(array.type) else array)
    return np.ascontiguousarray(values, dtype or values.dtype.newbyteorder("<")).view(np.uint8)


def plain(array: pa.Array) -> npt.NDArray[Any]:
    """An Arrow array of numbers without nulls, as numpy's. (`to_numpy` would import pandas, a CPU-second.)"""
    found: npt.NDArray[Any] = np.from_dlpack(array)
    return found

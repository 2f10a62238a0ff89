"""Parquet in, Parquet out, and a digest of rows that no library version can change.

Bytes of a Parquet file depend on the library that wrote them; under one lock file they are the same every time. What
the rows *say* is digested apart, column by column, so that two versions can be compared.
"""

import io
import struct
from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from blake3 import blake3

from tarsia.builders.storage import Store
from tarsia.schemas.errors import Corrupt
from tarsia.schemas.identity import digest
from tarsia.schemas.shard import Stored

ROWS = 1 << 16  # a row group: small enough to read one in a hurry


def to_parquet(table: pa.Table) -> bytes:
    """The table as Parquet: zstd, row groups of `ROWS`, the same bytes for the same rows."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=ROWS, write_page_checksum=True)
    return sink.getvalue()


def put_table(store: Store, path: str, table: pa.Table) -> Stored:
    """Stores a table as `<path>-<digest8>.parquet`."""
    data = to_parquet(table)
    name = digest(data)
    stored = Stored(path=f"{path}-{name[:8]}.parquet", bytes=len(data), digest=name)
    store.replace(stored.path, data)
    return stored


def put_tables(store: Store, path: str, tables: Iterable[pa.Table], schema: pa.Schema) -> Stored:
    """Stores many tables of one schema as `<path>-<digest8>.parquet`, never holding more of them than a row group."""
    state, size = blake3(), 0
    with store.spool() as file:
        with pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer:
            held = schema.empty_table()
            for table in tables:
                held = pa.concat_tables([held, table])
                while len(held) >= ROWS:
                    writer.write_table(held.slice(0, ROWS))
                    held = held.slice(ROWS)
            writer.write_table(held.combine_chunks())
        file.flush()
        file.seek(0)
        while chunk := file.read(1 << 20):
            state.update(chunk)
            size += len(chunk)
        stored = Stored(path=f"{path}-{state.hexdigest()[:8]}.parquet", bytes=size, digest=state.hexdigest())
        store.publish(file, stored.path)
    return stored


def get_table(store: Store, stored: Stored, columns: Sequence[str] | None = None, *, verify: bool = False) -> pa.Table:
    """A stored table, or some columns of it. `verify` compares the whole file with its digest."""
    if verify or stored.bytes < 1 << 20:
        data = store.read(stored.path)
        if digest(data) != stored.digest:
            raise Corrupt(f"{store.url}/{stored.path}: not the bytes that were written (BLAKE3 differs)")
        return read_parquet(io.BytesIO(data), columns)
    with store.open(stored.path) as file:
        return read_parquet(file, columns)


def read_parquet(file: BinaryIO, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet file, or some columns of it. (`pq.read_table` would import pandas, a CPU-second in every process.)"""
    with pq.ParquetFile(file) as parquet:
        return parquet.read(columns=list(columns) if columns else None)


def get_tables(store: Store, many: Iterable[Stored], schema: pa.Schema, columns: Sequence[str]) -> pa.Table:
    """Several stored tables end to end, some columns of them, with the schema's types even when there are none."""
    wanted = pa.schema([schema.field(name) for name in columns])
    parts = [get_table(store, stored, columns).select(list(columns)).cast(wanted) for stored in many]
    return pa.concat_tables([wanted.empty_table(), *parts]).combine_chunks()


def rows_digest(table: pa.Table) -> str:
    """BLAKE3 of what the rows say: names, lengths and values of the columns, little-endian, whatever the encoding."""
    state = blake3()
    for name in table.column_names:
        state.update(name.encode() + b"\0")
        array = table.column(name).combine_chunks()
        for piece in array.chunks if isinstance(array, pa.ChunkedArray) else [array]:
            _feed(state, piece)
    return state.hexdigest()


def _feed(state: Any, array: pa.Array) -> None:
    state.update(struct.pack("<q", len(array)))
    state.update(np.packbits(array.is_valid().to_numpy(zero_copy_only=False)).tobytes())
    kind = array.type
    if pa.types.is_dictionary(kind):
        array = array.cast(kind.value_type)
        kind = kind.value_type
    if pa.types.is_struct(kind):
        for index in range(kind.num_fields):
            _feed(state, pc.struct_field(array, index))
    elif pa.types.is_list(kind):
        state.update(_numbers(pc.list_value_length(array).fill_null(0), "<i8"))
        _feed(state, array.flatten())
    elif pa.types.is_string(kind) or pa.types.is_binary(kind):
        full = array.fill_null("" if pa.types.is_string(kind) else b"")
        state.update(_numbers(pc.binary_length(full), "<i8"))
        _, offsets, data = full.buffers()
        ends = np.frombuffer(offsets, dtype=np.int32)[full.offset : full.offset + len(full) + 1]
        if len(ends) and data is not None:
            state.update(memoryview(data)[ends[0] : ends[-1]])
    else:
        full = array.fill_null(pa.scalar(0).cast(kind)).to_numpy(zero_copy_only=False)
        state.update(full.astype(full.dtype.newbyteorder("<")).tobytes())


def _numbers(array: pa.Array, dtype: str) -> bytes:
    return bytes(array.to_numpy(zero_copy_only=False).astype(dtype).tobytes())

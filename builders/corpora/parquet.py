"""Parquet and Arrow tables with media in them, the form of nearly all data sets on the Hugging Face hub today.

Images stand as bytes, as lists of bytes, or as the hub's pair of bytes and path; sounds and clips likewise. Beside them
stand captions, transcripts, questions with answers, or whole conversations:

    image: struct<bytes: binary, path: string>, text: string
    images: list<string>, image_bytes: list<binary>, text: string                     Data-Juicer
    images: list<struct<bytes, path>>, messages: list<struct<role, content>>

What a column holds is seen from its content (see `reading/rows.py`). Rows have no bytes of their own in such files, so
a record's place is the number of its row. Parquet is read some 8 MB of rows at a time, an Arrow file batch by batch as
it was written. A row group that breaks off is one fault, and the next is read. Large Parquet files are read by several
tasks, each some row groups; an Arrow file does not say how many rows a batch has until it is read, so it is one task's.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from tarsia.builders.corpora import At, Fault, Part, Raw
from tarsia.builders.reading.rows import draft_row, raw_of
from tarsia.builders.storage import Store
from tarsia.schemas.sample import Draft

RECORD = "one row"
FILES = ("**/*.parquet", "**/*.arrow", "**/*.feather")

_WHOLE = Part(0, 1 << 62)
_BATCH = 8 << 20  # bytes of rows, about, that are in memory at once


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The rows of the table, each with its media."""
    yield from read_part(source, file, _WHOLE)


def split(source: Store, file: str, size: int) -> Iterator[Part]:
    """Row groups that take about `size` bytes together, by the numbers of their rows."""
    if not file.endswith(".parquet"):
        return
    with source.open(file) as stream, suppress(pa.ArrowException):
        about = pq.ParquetFile(stream, pre_buffer=False).metadata
        groups = [about.row_group(number) for number in range(about.num_row_groups)]
        begin = end = held = 0
        for group in groups:
            end += group.num_rows
            held += sum(group.column(number).total_compressed_size for number in range(group.num_columns))
            if held >= size or group is groups[-1]:
                yield Part(begin, end)
                begin, held = end, 0


def read_part(source: Store, file: str, part: Part) -> Iterator[Raw | Fault]:
    """The rows of some row groups."""
    with source.open(file) as stream:
        try:
            yield from _parquet(stream, part) if file.endswith(".parquet") else _arrow(stream)
        except pa.ArrowException as error:
            yield Fault("table-broken", f"{error}"[:500], b"", 0, stream.seek(0, 2))


def _parquet(stream: BinaryIO, part: Part) -> Iterator[Raw | Fault]:
    table, row = pq.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20), 0
    for group in range(table.num_row_groups):
        about = table.metadata.row_group(group)
        rows = max(1, min(1024, _BATCH * about.num_rows // max(1, about.total_byte_size)))
        end = row + about.num_rows
        if not part.begin <= row < part.end:
            row = end
            continue
        try:
            for batch in table.iter_batches(rows, row_groups=[group]):
                yield from _rows(batch, row)
                row += len(batch)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of the disk and not of the table
            yield Fault("table-broken", f"rows {row} to {end} of row group {group}: {error}"[:500], b"", row, end)
            row = end


def _arrow(stream: BinaryIO) -> Iterator[Raw | Fault]:
    """Files and streams of Arrow: `datasets` keeps the second kind under the name of the first."""
    row = 0
    try:
        file = pa.ipc.open_file(stream)
        batches = (file.get_batch(number) for number in range(file.num_record_batches))
    except pa.ArrowInvalid:
        stream.seek(0)
        batches = iter(pa.ipc.open_stream(stream))
    for batch in batches:
        yield from _rows(batch, row)
        row += len(batch)


def _rows(batch: pa.RecordBatch, row: int) -> Iterator[Raw]:
    for number in range(len(batch)):
        (cells,) = batch.slice(number, 1).to_pylist()
        yield raw_of(cells, row + number)


def draft(record: Any, at: At) -> Draft:
    """What the row says about its media."""
    return draft_row(record, at)

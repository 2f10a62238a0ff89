"""From raw files to slices in draw order: the first half of ingest, where no media is touched.

Reading finds who the records are; draw order needs to know all of them. So records are scanned into **slices** (Arrow
files of raw records), identities are settled over the whole corpus, and each slice is sorted by key. A leaf of the trie
is then a run of rows in every slice. Nothing ever holds a corpus: a slice is bounded, and what the driver keeps is 16
bytes a record.

Identity: a record's own id where it is unique in its corpus; id and record digest where ids collide; the record digest
where there is none; and an occurrence number where even that repeats. Never a position.
"""

import io
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from tarsia.builders.corpora import At, Fault, Reader, find
from tarsia.builders.storage import Store
from tarsia.schemas.corpus import Corpus
from tarsia.schemas.errors import Refused
from tarsia.schemas.identity import Draws, canonical, checksum, digest, key_of
from tarsia.schemas.sample import Draft

MEDIA = ("images", "videos", "audios")
SLICE_ROWS = 1 << 17  # records of a slice, at most
SLICE_BYTES = 64 << 20  # of raw records, at most

SCANNED = pa.schema(
    [
        ("id", pa.string()),
        ("record", pa.string()),  # digest of the canonical raw record
        ("raw", pa.binary()),
        ("code", pa.string()),  # of a fault, else null
        ("message", pa.string()),
        ("file", pa.dictionary(pa.int32(), pa.string())),
        ("begin", pa.int64()),
        ("end", pa.int64()),
    ]
)
SORTED = pa.schema([("key", pa.string()), *SCANNED])


def scan(reader: Reader, source: Store, files: Sequence[str]) -> Iterator[pa.Table]:
    """The raw records of some files, in slices of the schema SCANNED."""
    rows: list[tuple[Any, ...]] = []
    size = 0
    for file in files:
        for found in reader.read(source, file):
            row: tuple[Any, ...]
            if isinstance(found, Fault):
                raw = found.raw
                row = (None, digest(file.encode() + b"\0" + raw)[:32], raw, found.code, found.message)
            else:
                raw = canonical(found.record)
                row = (found.id, digest(raw)[:32], raw, None, None)
            rows.append((*row, file, found.begin, found.end))
            size += len(raw)
            if len(rows) >= SLICE_ROWS or size >= SLICE_BYTES:
                yield _table(rows)
                rows, size = [], 0
    if rows:
        yield _table(rows)


def _table(rows: list[tuple[Any, ...]]) -> pa.Table:
    columns = list(zip(*rows, strict=True))
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, SCANNED, strict=True)], SCANNED)


def who(table: pa.Table) -> npt.NDArray[np.uint64]:
    """What the settling of identities needs of a slice: rows of (hash of id or 0, hash of record), 16 bytes each."""
    ids = [0 if own is None else max(1, checksum(own.encode())) for own in table["id"].to_pylist()]
    records = [int(record[:16], 16) for record in table["record"].to_pylist()]
    return np.array([ids, records], dtype=np.uint64).T.copy()


class Marks(NamedTuple):
    """What a row needs besides its id: did its id collide, and which occurrence of its equals is it."""

    collided: npt.NDArray[np.bool_]
    occurrence: npt.NDArray[np.uint32]


def settle(rows: npt.NDArray[np.uint64]) -> Marks:
    """Identities over all rows of a corpus, in reading order (which only numbers records that are equal anyway)."""
    ids, records = rows[:, 0], rows[:, 1]
    order = np.lexsort((records, ids))
    by_id, by_record = ids[order], records[order]
    same_id = np.r_[False, by_id[1:] == by_id[:-1]]
    collided = np.zeros(len(rows), dtype=np.bool_)
    collided[order] = (same_id | np.r_[same_id[1:], False]) & (by_id != 0)
    fresh = ~(same_id & np.r_[False, by_record[1:] == by_record[:-1]])
    first = np.maximum.accumulate(np.where(fresh, np.arange(len(rows)), 0))
    occurrence = np.zeros(len(rows), dtype=np.uint32)
    occurrence[order] = (np.arange(len(rows)) - first).astype(np.uint32)
    return Marks(collided, occurrence)


def sort(table: pa.Table, marks: Marks, corpus: str) -> pa.Table:
    """A slice in key order, of the schema SORTED; its ids become what samples are called."""
    keys, names = [], []
    columns = (table["id"].to_pylist(), table["record"].to_pylist(), marks.collided, marks.occurrence)
    for own, record, collided, occurrence in zip(*columns, strict=True):
        parts = [own if own is not None else ""] + [record] * bool(collided or own is None)
        parts += [str(occurrence)] * bool(occurrence)
        keys.append(key_of(corpus, "\0".join(parts)))
        short = [part[:12] if part is record else part for part in parts]
        names.append("#".join(short))
    sorted_ = table.set_column(0, "id", pa.array(names)).add_column(0, "key", pa.array(keys))
    return sorted_.take(pa.array(np.argsort(np.array(keys, dtype="S32"), kind="stable"))).combine_chunks()


def draws(keys: Sequence[str]) -> Draws:
    """The draws of sorted keys."""
    return np.array([int(key[:16], 16) for key in keys], dtype=np.uint64)


def to_arrow(table: pa.Table) -> bytes:
    """A slice as an Arrow file, in batches that can be read alone."""
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(table, max_chunksize=1024)
    return sink.getvalue()


def rows_of(store: Store, path: str, begin: int, end: int) -> Iterator[dict[str, Any]]:
    """Some rows of a stored slice, as dicts; only the batches that hold them are read."""
    with store.open(path) as file, pa.ipc.open_file(file) as reader:
        for number in range(begin // 1024, -(-end // 1024)):
            batch = reader.get_batch(number)
            first = number * 1024
            yield from batch.slice(max(0, begin - first), min(end, first + 1024) - max(begin, first)).to_pylist()


def understand(row: dict[str, Any], corpus: Corpus) -> Draft:
    """The draft of a row, its media paths below the corpus's root. Raises `Refused`."""
    if row["code"] is not None:
        raise Refused(row["code"], row["message"])
    draft = find(corpus.format).draft(orjson.loads(row["raw"]), At(corpus, row["file"], row["key"]))
    if not corpus.media:
        return draft
    media = {name: tuple(f"{corpus.media}/{path}" for path in getattr(draft, name)) for name in MEDIA}
    return draft.model_copy(update=media)

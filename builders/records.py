"""From raw files to slices in draw order: the first half of ingest, where no media is opened.

Reading finds who the records are; draw order needs to know all of them. So records are scanned into **slices** (Arrow
files of raw records), identities are settled over the whole corpus, and each slice is sorted by key, its records
understood as drafts. A leaf of the trie is then a run of rows in every slice. Nothing ever holds a corpus: a slice is
bounded, and what the driver keeps is 16 bytes a record.

Identity: a record's own id where it is unique in its corpus; id and record digest where ids collide; the record digest
where there is none; and an occurrence number where even that repeats. Never a position, never a file.
"""

import io
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from heapq import merge
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from tarsia.builders.corpora import At, Fault, Part, Raw, Reader, Span
from tarsia.builders.duplicates import asked_of, said_of
from tarsia.builders.filters import filter_record, filter_turns
from tarsia.builders.media import CARRIED, to_rows
from tarsia.builders.reading.parts import excerpt
from tarsia.builders.storage import Store
from tarsia.schemas.corpus import Corpus
from tarsia.schemas.errors import Refused, StorageFault, TarsiaError
from tarsia.schemas.identity import Draws, canonical, checksum, digest, key_of
from tarsia.schemas.sample import Draft

MEDIA = ("images", "videos", "audios")
SLICE_ROWS = 1 << 17  # records of a slice, at most
SLICE_BYTES = 64 << 20  # of raw records and what they carry, at most
NOBODY = "0" * 32  # the key under which records are understood to be compared: chance then treats all alike
BATCH = 256  # rows that are read together: a leaf takes a few hundred of each slice
FAULT_KEPT = 1 << 16  # bytes of a record that no JSON can hold which are kept to be looked at

Run = tuple[str, int, int]  # a run of rows of a sorted slice: its path, the first row, the row after the last

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
        ("media", CARRIED),
    ]
)
SORTED = pa.schema(
    [
        *SCANNED,
        ("key", pa.string()),
        ("draft", pa.string()),  # JSON; null where the record is refused
        ("said", pa.string()),  # see builders/duplicates.py
        ("asked", pa.uint64()),
    ]
)


def slices_of(
    reader: Reader, source: Store, files: Sequence[tuple[str, Part | None]], name: str = ""
) -> Iterator[tuple[pa.Table, list[bytes]]]:
    """The raw records of some files, or parts of files, in slices of the schema SCANNED.

    With each slice come the bytes that its records carry, for a file `<name>-<number>.media`.
    """
    rows: list[tuple[Any, ...]] = []
    media: list[bytes] = []
    size = held = number = 0

    def store(data: bytes) -> Span:
        nonlocal held
        media.append(data)
        held += len(data)
        return Span(f"{name}-{number:05d}.media", held - len(data), len(data))

    for file, part in files:
        for found in found_in(reader, source, file) if part is None else _part_of(reader, source, file, part):
            carried = to_rows(found.media, store) if isinstance(found, Raw) else []
            rows.append((*_row(found), file, found.begin, found.end, carried))
            size += len(rows[-1][2])
            if len(rows) >= SLICE_ROWS or size + held >= SLICE_BYTES:
                yield _table(rows), media
                rows, media, size, held, number = [], [], 0, 0, number + 1
    if rows:
        yield _table(rows), media


def _part_of(reader: Reader, source: Store, file: str, part: Part) -> Iterator[Raw | Fault]:
    """What a reader finds in a part of a file, placed in the whole."""
    if alone := getattr(reader, "read_part", None):
        yield from found_in(reader, source, file, lambda: alone(source, file, part))
        return
    shift = part.begin - len(part.lead)
    for found in found_in(reader, excerpt(source, file, part), file):
        begin, end = (min(max(part.begin, place + shift), part.end) for place in (found.begin, found.end))
        yield found._replace(begin=begin, end=end)


def found_in(
    reader: Reader, source: Store, file: str, read: Callable[[], Iterator[Raw | Fault]] | None = None
) -> Iterator[Raw | Fault]:
    """What a reader finds in a file; where the reader trips, the rest of the file is one fault."""
    end = 0
    try:
        for found in read() if read else reader.read(source, file):
            end = found.end
            yield found if isinstance(found, Fault) else _canonical(found, source, file)
    except (TarsiaError, MemoryError):
        raise
    except OSError as error:
        raise StorageFault(f"cannot read '{file}' in {source.url}: {error}") from error
    except Exception as error:
        size = max(end, entry.size if (entry := source.entry(file)) else 0)
        yield Fault("reader-failed", f"{type(error).__name__}: {error}", b"", end, size)


def _canonical(found: Raw, source: Store, file: str) -> Raw | Fault:
    try:
        return found._replace(record=bytes(memoryview(canonical(found.record))))  # orjson's own are kilobytes too large
    except TypeError as error:  # nested too deeply, or no JSON at all
        raw = source.read_range(file, found.begin, min(FAULT_KEPT, found.end - found.begin))
        return Fault("record-shape", f"{error}", raw, found.begin, found.end)


def _row(found: Raw | Fault) -> tuple[Any, ...]:
    if isinstance(found, Fault):
        return None, digest(b"fault\0" + found.raw)[:32], found.raw, found.code, found.message
    own = None if found.id is None else f"{found.id}".replace("\0", "\N{REPLACEMENT CHARACTER}")  # \0 joins identities
    return own, digest(found.record)[:32], found.record, None, None


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

    def to_bytes(self) -> bytes:
        """Four bytes a row."""
        return (self.occurrence * np.uint32(2) + self.collided).astype("<u4").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Marks":
        """What `to_bytes` gave."""
        both = np.frombuffer(data, dtype="<u4")
        return cls(both % 2 == 1, both // 2)


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


Named = tuple[tuple[str, ...], ...]  # the media that a draft names, by sort, as MEDIA has them


def in_order(
    table: pa.Table, marks: Marks, corpus: Corpus, reader: Reader, gone: Collection[str] = frozenset()
) -> tuple[pa.Table, list[Named]]:
    """A slice in key order, its records understood, of the schema SORTED, and which media each row names.

    Its ids become what samples are called. Records whose key is in `gone` are left out.
    """
    keys, names = [], []
    identities = (table["id"].to_pylist(), table["record"].to_pylist(), marks.collided, marks.occurrence)
    for own, record, collided, occurrence in zip(*identities, strict=True):
        parts = [own if own is not None else ""] + [record] * bool(collided or own is None)
        parts += [str(occurrence)] * bool(occurrence)
        keys.append(key_of(corpus.name, "\0".join(parts)))
        short = [part[:12] if part is record else part for part in parts]
        names.append("#".join(short))
    rows = np.argsort(np.array(keys, dtype="S32"), kind="stable")
    order = pa.array([row for row in rows.tolist() if keys[row] not in gone] if gone else rows, pa.int64())
    table = table.set_column(0, "id", pa.array(names, pa.string())).append_column("key", pa.array(keys, pa.string()))
    table = table.take(order).combine_chunks()
    if not len(table):
        return SORTED.empty_table(), []
    raw = zip(*(table[name].to_pylist() for name in ("key", "file", "raw", "code", "message")), strict=True)
    understood = [_understood(corpus, reader, *row) for row in raw]
    fresh = dict(zip(_Understood._fields, zip(*understood, strict=True), strict=True))
    columns = [pa.array(fresh[one.name], one.type) if one.name in fresh else table[one.name] for one in SORTED]
    return pa.table(columns, SORTED), [row.named for row in understood]


class _Understood(NamedTuple):
    """A row's draft as JSON and what it is compared by, or the code and message of its refusal."""

    draft: str | None
    said: str | None
    asked: int
    code: str | None = None
    message: str | None = None
    named: Named = ((),) * len(MEDIA)


def _understood(
    corpus: Corpus, reader: Reader, key: str, file: str, raw: bytes, code: str | None, message: str | None
) -> _Understood:
    if code is not None:
        return _Understood(None, None, 0, code, message)
    record, at = orjson.loads(raw), At(corpus, file, key)
    try:
        draft = understand(record, at, reader)
    except Refused as error:
        return _Understood(None, None, 0, error.code, error.message)
    compared = draft
    if at.drawn:
        with suppress(Refused):  # what chance may refuse is then compared as it is
            compared = understand(record, At(corpus.model_copy(update={"template": None}), file, NOBODY), reader)
    named = draft.images, draft.videos, draft.audios
    return _Understood(draft.model_dump_json(by_alias=True), said_of(compared), asked_of(compared), named=named)


def understand(record: Any, at: At, reader: Reader) -> Draft:
    """The draft of a raw record, its media paths below the corpus's root. Raises `Refused`, and nothing else."""
    filter_record(record, at.corpus)
    try:
        draft = reader.draft(record, at)
    except (Refused, MemoryError):
        raise
    except Exception as error:  # the reader's mistake or the record's: it is looked at in the quarantine
        raise Refused("reader-failed", f"{type(error).__name__}: {error}") from error
    filter_turns(draft.turns, at.corpus)
    if not (at.corpus.media or at.corpus.strip):
        return draft
    return draft.model_copy(
        update={name: tuple(_placed(path, at.corpus) for path in getattr(draft, name)) for name in MEDIA}
    )


def _placed(path: str, corpus: Corpus) -> str:
    """Where a medium lies below the root; what the record carries itself (@) stays as it is."""
    if path.startswith("@"):
        return path
    path = path.removeprefix(corpus.strip)
    return f"{corpus.media}/{path}" if corpus.media else path


def draws(keys: Sequence[str]) -> Draws:
    """The draws of sorted keys."""
    return np.array([int(key[:16], 16) for key in keys], dtype=np.uint64)


def to_arrow(table: pa.Table) -> bytes:
    """A slice as an Arrow file, in batches that can be read alone."""
    sink = io.BytesIO()
    with arrow_writer(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=BATCH)
    return sink.getvalue()


def arrow_writer(file: BinaryIO, schema: pa.Schema) -> Any:
    """Writes a slice, table by table; batches are of `BATCH` rows, so that a row is found by its number."""
    return pa.ipc.new_file(file, schema, options=pa.ipc.IpcWriteOptions(compression="lz4"))


def read_slice(store: Store, path: str, columns: Sequence[str] = SORTED.names) -> pa.Table:
    """A stored slice, or some of its columns."""
    with store.open(path) as file, pa.ipc.open_file(file, options=_only(columns)) as reader:
        return reader.read_all()


def rows_of(store: Store, path: str, begin: int, end: int, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Some rows of a sorted slice, as dicts; only the batches that hold them are read.

    No file stays open between them: a leaf takes rows of every slice, and of those there may be thousands.
    """
    for number in range(begin // BATCH, -(-end // BATCH)):
        first = number * BATCH
        low, high = max(begin, first), min(end, first + BATCH)
        with store.open(path) as file, pa.ipc.open_file(file, options=_only(columns)) as reader:
            rows = reader.get_batch(number).slice(low - first, high - low).to_pylist()
        yield from rows


def merged(store: Store, parts: Sequence[Run], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows of several sorted slices as one, in the order of their keys."""
    return merge(*(rows_of(store, *part, columns) for part in parts), key=lambda row: str(row["key"]))


def _only(columns: Sequence[str]) -> pa.ipc.IpcReadOptions:
    return pa.ipc.IpcReadOptions(included_fields=[SORTED.names.index(name) for name in columns])

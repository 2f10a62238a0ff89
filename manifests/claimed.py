"""What a manifest claims, as arrays: its tables read a column at a time, each sample beside its row of the ledger.

**Chosen** is what the stage selected: the samples that were placed, as SAMPLES has them, and behind them those that
were not. A column whose values are compared with the ledger's is let go of at once; the others take 50 bytes a sample.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tarsia.builders.columns import names_of, there, values_of, whole
from tarsia.builders.storage import Store
from tarsia.builders.tables import columns_digest, open_table, spelt
from tarsia.manifests.findings import Book
from tarsia.manifests.keys import Bools, Keys, keys_in, words_of
from tarsia.manifests.ledger import NOWHERE, Array, Int64s, Ledger, steps
from tarsia.schemas.lake import Snapshot
from tarsia.schemas.manifest import CONTEXTS, SAMPLES, UNPLACED, Manifest

_SCHEMAS = {"contexts": CONTEXTS, "unplaced": UNPLACED, "samples": SAMPLES}
_NAMES = ("corpus", "kind", "language", "modality")
_SPEECH = ("speech_shard", "speech_offset", "speech_length", "speech_checksum")
_BOTH = ("key", *_NAMES, "copy", "questions", "tokens", "seconds")  # of the placed and of the others
_OPTIONAL = (*_SPEECH, "padded_seconds")


class Group(NamedTuple):
    """What samples are counted by."""

    corpus: str | None
    kind: str | None
    language: str | None
    modality: str | None

    @property
    def seen(self) -> str:
        """What of it is looked at: the system prompt is chosen by that."""
        return next((name for name in ("video", "image") if name in (self.modality or "")), "text")


class Some(NamedTuple):
    """A column that most rows have nothing in: which have, ascending, and what."""

    at: Int64s
    values: Array


class Chosen(NamedTuple):
    """The samples of a stage. Figures of all of them: first the placed, then the others."""

    placed: int  # how many of them are
    rows: Array  # of the ledger; NOWHERE: it has no such sample
    copies: Array
    groups: Array  # by their number in Claimed.groups
    questions: Array
    tokens: Array
    seconds: Array

    def __len__(self) -> int:
        return len(self.rows)


class Met(NamedTuple):
    """Which rows of the ledger were chosen, and how often."""

    rows: Array  # ascending
    times: Array
    wrong: Array  # rows whose copies are not 0, 1, 2 …
    twice: int  # of how many samples the same copy is there again

    def within(self, begin: int, end: int) -> tuple[Array, Array]:
        """The rows from one to another, and their times."""
        part = slice(*np.searchsorted(self.rows, [begin, end]))
        return self.rows[part], self.times[part]


class Desk:
    """The arrays that one stage after the other is written into: each is as long as the longest stage needs it."""

    def __init__(self, manifests: Sequence[Manifest]) -> None:
        self._most = max([0, *(max(one.contexts, sum(part.selected for part in one.counts)) for one in manifests)])
        self._arrays: dict[str, Array] = {}

    def room(self, name: str, count: int, kind: npt.DTypeLike) -> Array:
        """So many values of a kind, that are written before they are read; what nobody writes takes no memory."""
        if name not in self._arrays or len(self._arrays[name]) < count:
            self._arrays.pop(name, None)  # its memory first
            self._arrays[name] = np.empty(max(count, self._most), kind)
        return self._arrays[name][:count]


class Claimed(NamedTuple):
    """A manifest, and its tables beside the lake that it was planned from."""

    manifest: Manifest
    where: str
    source: Snapshot
    ledger: Ledger
    book: Book
    contexts: Mapping[str, Array]  # CONTEXTS; prompts by their number in `prompts`
    prompts: list[str | None]
    groups: list[Group]
    chosen: Chosen
    samples: Mapping[str, Array]  # of the placed: context, slot, tiles, frames, audio_tokens
    heard: Some  # turns
    speech: Mapping[str, Some]
    lying: Bools  # of the placed: whether their bytes are not where and what they are in the ledger
    reasons: pa.Array  # of the others
    strangers: Mapping[int, str]  # keys of the chosen that the ledger does not have
    met: Met

    def key(self, number: int) -> str:
        """The key of one of the chosen."""
        return self.strangers.get(number) or self.ledger.key(self.chosen.rows[number])

    def of_groups(self, values: Sequence[Any] | Array, part: slice = slice(None)) -> Array:
        """What some of the chosen have, given what each group has."""
        return np.asarray(values if len(values) else [0])[self.chosen.groups[part]]

    def number(self, group: Group) -> int:
        """How the ledger numbers the language and modality of a group; -1 where it has none such."""
        manner = (group.language, group.modality)
        return self.ledger.manners.index(manner) if manner in self.ledger.manners else -1


def claimed(store: Store, manifest: Manifest, source: Snapshot, ledger: Ledger, book: Book, desk: Desk) -> Claimed:
    """Reads the tables of a manifest."""
    with ExitStack() as opened:
        tables = {name: opened.enter_context(open_table(store, manifest.tables[name])) for name in _SCHEMAS}
        return _claimed(tables, manifest, source, ledger, book, desk)


def _claimed(
    tables: Mapping[str, pq.ParquetFile], manifest: Manifest, source: Snapshot, ledger: Ledger, book: Book, desk: Desk
) -> Claimed:
    counts = {name: table.metadata.num_rows for name, table in tables.items()}
    every, placed = counts["samples"] + counts["unplaced"], counts["samples"]
    names: dict[str, dict[str | None, int]] = {name: {} for name in ("prompt", *_NAMES)}

    def read(name: str, part: slice, rows: int) -> dict[str, Any]:
        prefix = "context " if name == "contexts" else ""
        room = {field.name: desk.room(prefix + field.name, rows, _kind(field))[part]
                for field in _SCHEMAS[name] if _kind(field) is not None}  # fmt: skip
        return _read(tables[name], manifest, name, room, names, book)

    contexts = read("contexts", slice(None), counts["contexts"])
    unplaced = read("unplaced", slice(placed, None), every)
    samples = read("samples", slice(0, placed), every)
    both = {field: desk.room(field, every, _kind(SAMPLES.field(field))) for field in _BOTH}
    numbers, groups = _grouped([both[name] for name in _NAMES], [list(names[name]) for name in _NAMES], desk)
    rows = desk.room("row", every, np.int32)
    lying = _lay(manifest, source, ledger, samples, groups, numbers, rows)
    unknown = np.concatenate([np.flatnonzero(rows[:placed] == NOWHERE), np.arange(placed, every)])
    keys = keys_in(both["key"][unknown])
    rows[unknown] = _by_key(source, ledger, keys, [groups[number].corpus for number in numbers[unknown].tolist()])
    missing = np.flatnonzero(rows[unknown] == NOWHERE)
    strangers = {int(unknown[number]): keys.text(number) for number in missing.tolist()}
    copies, questions, tokens, seconds = (both[name] for name in ("copy", "questions", "tokens", "seconds"))
    chosen = Chosen(placed, rows, copies, numbers, questions, tokens, seconds)
    return Claimed(
        manifest=manifest,
        where=f"{manifest.model}/{manifest.name}",
        source=source,
        ledger=ledger,
        book=book,
        contexts=contexts,
        prompts=list(names["prompt"]),
        groups=groups,
        chosen=chosen,
        samples=samples,
        heard=samples["spoken"],
        speech={name: samples[name] for name in _SPEECH},
        lying=lying,
        reasons=unplaced["reason"],
        strangers=strangers,
        met=_met(chosen, strangers),
    )


# --- reading --------------------------------------------------------------------------------------------------------


def _kind(field: pa.Field) -> Any:
    """What a column is written into: names as numbers, a key as two; none where it is read as a whole."""
    if field.name == "key":
        return np.dtype((">u8", 2))
    if pa.types.is_dictionary(field.type):
        return np.uint16
    if field.name in (*_SPEECH, "spoken", "reason"):
        return None
    return np.dtype(str(field.type))


def _read(
    table: pq.ParquetFile,
    manifest: Manifest,
    name: str,
    room: Mapping[str, Array],
    names: Mapping[str, dict[str | None, int]],
    book: Book,
) -> dict[str, Any]:
    """The columns of a table as the checks use them, one read after the other while their logical digest is taken."""
    where, schema, kept = f"{manifest.model}/{manifest.name}", _SCHEMAS[name], dict[str, Any]()
    book.equal(where, f"columns of '{name}'", schema.names, table.schema_arrow.names)

    def columns() -> Iterator[tuple[str, pa.Array | pa.ChunkedArray]]:
        for field in schema:
            if field.name in room:
                kept[field.name] = room[field.name]
                column = _written(table, field, room[field.name], names.get(field.name, {}))
            elif field.name == "reason":
                column = kept[field.name] = _whole(table, field)
            else:
                kept[field.name], column = _some(table, field)
            if field.name not in _OPTIONAL:
                missing = f"rows of '{name}' without {field.name}: {column.null_count}"
                book.check(where, not column.null_count, missing)
            yield field.name, column

    book.equal(where, f"logical digest of '{name}'", manifest.rows.get(name), columns_digest(columns()))
    return kept


def _whole(table: pq.ParquetFile, field: pa.Field) -> pa.Array:
    return whole(spelt(table.read(columns=[field.name], use_threads=False)).column(0).cast(field.type))


def _written(table: pq.ParquetFile, field: pa.Field, room: Array, names: dict[str | None, int]) -> pa.Array:
    """Writes a column where its room is, row group by row group; what stands there, as Arrow has it."""
    begin, plain = 0, True
    for group in range(table.num_row_groups):
        read = table.read_row_group(group, columns=[field.name], use_threads=False).column(0)
        piece = whole(read if read.type in (field.type, pa.uuid()) else read.cast(field.type))
        part, plain = room[begin : begin + len(piece)], plain and not piece.null_count
        if field.name == "key":
            part[:] = words_of(piece)
            plain = plain and bool((part[:, 0] | part[:, 1]).all())
        elif pa.types.is_dictionary(field.type):
            numbers, known = names_of(piece)
            part[:] = np.array([names.setdefault(one, len(names)) for one in known], np.uint16)[numbers]
        elif field.name == "padded_seconds":
            part[:] = np.where(there(piece), values_of(piece), np.nan)
        else:
            part[:] = values_of(piece)
        begin += len(piece)
    if not plain:
        return _whole(table, field)
    if pa.types.is_dictionary(field.type):
        numbers = pa.Array.from_buffers(pa.uint16(), len(room), [None, pa.py_buffer(room)])
        return pa.DictionaryArray.from_arrays(numbers, pa.array(list(names), pa.string()))
    if field.name == "key":
        return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(room), [None, pa.py_buffer(room)])
    return pa.Array.from_buffers(field.type, len(room), [None, pa.py_buffer(room)])


def _some(table: pq.ParquetFile, field: pa.Field) -> tuple[Some, pa.ChunkedArray]:
    """What a column has that is mostly empty, and the column; its row groups without anything are the same memory."""
    empty, chunks, begin = pa.nulls(0, field.type), list[pa.Array](), 0
    at, values = [np.empty(0, np.int64)], [values_of(empty.flatten() if pa.types.is_list(field.type) else empty)]
    for group in range(table.num_row_groups):
        piece = whole(table.read_row_group(group, columns=[field.name], use_threads=False).column(0).cast(field.type))
        if piece.null_count == len(piece):
            empty = empty if len(empty) >= len(piece) else pa.nulls(len(piece), field.type)
            piece = empty[: len(piece)]
        elif pa.types.is_list(field.type):
            lengths = values_of(pc.list_value_length(piece), missing=0)
            at.append(begin + np.repeat(np.arange(len(piece)), lengths))
            values.append(values_of(piece.flatten()))
        else:
            has = np.flatnonzero(there(piece))
            at.append(begin + has)
            values.append(values_of(piece)[has])
        chunks.append(piece)
        begin += len(piece)
    return Some(np.concatenate(at), np.concatenate(values)), pa.chunked_array(chunks, field.type)


def _grouped(columns: Sequence[Array], names: Sequence[list[str | None]], desk: Desk) -> tuple[Array, list[Group]]:
    """The number of each row's group, and the groups by number."""
    shape = [max(1, len(known)) for known in names]
    codes, seen = desk.room("group", len(columns[0]), np.int32), np.zeros(int(np.prod(shape)), np.bool_)
    for part in steps(len(codes)):
        code = codes[part]
        code[:] = 0
        for column, size in zip(columns, shape, strict=True):
            code *= size
            code += column[part]
        seen[code] = True
    there = np.flatnonzero(seen)
    number = np.zeros(len(seen), np.int32)
    number[there] = np.arange(len(there))
    for part in steps(len(codes)):
        codes[part] = number[codes[part]]
    places = np.transpose(np.unravel_index(there, shape)).tolist()
    return codes, [Group(*(known[one] for known, one in zip(names, place, strict=True))) for place in places]


# --- the rows of the ledger -----------------------------------------------------------------------------------------


def _lay(
    manifest: Manifest,
    source: Snapshot,
    ledger: Ledger,
    samples: Mapping[str, Array],
    groups: Sequence[Group],
    numbers: Array,
    rows: Array,
) -> Bools:
    """Writes the rows of the placed by the place of their bytes, where key and corpus agree; which lie otherwise."""
    tars = {shard.tar.path: number for state in source.corpora
            for shard, number in zip(state.shards, ledger.run(state).shards, strict=True)}  # fmt: skip
    known = np.array([*(tars.get(stored.path, -1) for stored in manifest.shards), -1])
    names = sorted({*ledger.corpora})
    homes = np.array([*map(names.index, ledger.corpora), -1])  # of the ledger's shards
    claims = np.array([names.index(one.corpus) if one.corpus in names else -2 for one in groups])
    count = len(samples["key"])
    lying = np.zeros(count, np.bool_)
    for part in steps(count):
        named = samples["shard"][part]
        shards = known[np.where((named >= 0) & (named < len(known)), named, -1)]
        order, row = ledger.at(shards, samples["offset"][part])
        same = (row != NOWHERE) & (homes[shards] == claims[numbers[part]])[order]
        same &= ledger.keys[row].same(keys_in(samples["key"][part][order]))
        row[~same] = NOWHERE
        rows[part][order] = row
        same &= ledger.lengths[row] == samples["length"][part][order]
        lying[part][order] = ~same | (ledger.checksums[row] != samples["checksum"][part][order])
    return lying


def _by_key(source: Snapshot, ledger: Ledger, keys: Keys, corpora: Sequence[str | None]) -> Array:
    """The rows of samples by corpus and key."""
    rows, homes = np.full(len(keys), NOWHERE, np.int32), np.array(corpora, object)
    for state in source.corpora:
        mine = np.flatnonzero(homes == state.corpus.name)
        if len(mine):
            rows[mine] = ledger.find(ledger.run(state), keys[mine])
    return rows


def _met(chosen: Chosen, strangers: Mapping[int, str]) -> Met:
    """Every copy of every sample, in order: of each sample the copies must be 0, 1, 2 …"""
    rows = np.sort(chosen.rows[chosen.rows != NOWHERE] if strangers else chosen.rows)
    if not chosen.copies.any() and not strangers and (rows[1:] > rows[:-1]).all():
        return Met(rows, np.broadcast_to(np.int64(1), rows.shape), rows[:0], 0)
    pairs = chosen.rows.astype(np.int64) << 32 | chosen.copies.astype(np.uint32)
    pairs = np.sort(pairs[chosen.rows != NOWHERE])
    begins = np.flatnonzero(np.diff(rows, prepend=-1))
    times = np.diff(begins, append=len(rows))
    counted = np.arange(len(rows)) - np.repeat(begins, times)
    wrong = np.unique(rows[pairs & 0xFFFFFFFF != counted])
    unknown = {(key, int(chosen.copies[number])) for number, key in strangers.items()}
    twice = int((pairs[1:] == pairs[:-1]).sum()) + len(strangers) - len(unknown)
    return Met(rows[begins], times, wrong, twice)

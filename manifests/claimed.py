"""What a manifest claims, as arrays: its tables read a column at a time, each sample beside its row of the ledger.

**Chosen** is what the stage selected: the samples that were placed, as SAMPLES has them, and behind them those that
were not. A column whose values are compared with the ledger's is let go of at once; the others take 50 bytes a sample.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tarsia.builders.storage import Store
from tarsia.builders.tables import columns_digest, open_table
from tarsia.manifests.findings import Book
from tarsia.manifests.ledger import (
    NOWHERE,
    Array,
    Bools,
    Int64s,
    Keys,
    Ledger,
    draws_of,
    equal,
    joined,
    keys_of,
    names_of,
    there,
    values_of,
)
from tarsia.schemas.lake import Snapshot
from tarsia.schemas.manifest import CONTEXTS, SAMPLES, UNPLACED, Manifest

_NAMES = ("corpus", "kind", "language", "modality")
_SPEECH = ("speech_shard", "speech_offset", "speech_length", "speech_checksum")
_OPTIONAL = (*_SPEECH, "padded_seconds")
_STEP = 1 << 18  # rows that are compared at once, so that what is gathered for it stays near


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

    def of_groups(self, values: Any) -> Array:
        """What each of the chosen has, given what its group has."""
        return np.asarray(values)[self.chosen.groups]

    def number(self, group: Group) -> int:
        """How the ledger numbers the language and modality of a group; -1 where it has none such."""
        manner = (group.language, group.modality)
        return self.ledger.manners.index(manner) if manner in self.ledger.manners else -1


def claimed(store: Store, manifest: Manifest, source: Snapshot, ledger: Ledger, book: Book) -> Claimed:
    """Reads the tables of a manifest."""
    contexts, samples, unplaced = (
        _read(store, manifest, name, schema, book)
        for name, schema in (("contexts", CONTEXTS), ("samples", SAMPLES), ("unplaced", UNPLACED))
    )
    contexts["prompt"], prompts = contexts["prompt"]
    numbers, groups = _grouped(samples, unplaced)
    keys, placed = samples.pop("key"), len(samples["context"])
    rows, lying = _placed(manifest, source, ledger, samples, keys, groups, numbers[:placed])
    unknown = np.concatenate([np.flatnonzero(rows == NOWHERE), np.arange(placed, len(numbers))])
    asked = np.concatenate([keys[unknown[unknown < placed]], unplaced["key"]])
    rows = np.concatenate([rows, np.full(len(numbers) - placed, NOWHERE, np.int32)])
    rows[unknown] = _by_key(source, ledger, asked, [groups[number].corpus for number in numbers[unknown].tolist()])
    missing = rows[unknown] == NOWHERE
    spelt = (key.tobytes().decode("ascii", "replace") for key in asked[missing])
    strangers = dict(zip(unknown[missing].tolist(), spelt, strict=True))
    chosen = Chosen(placed, rows, groups=numbers, **_joined(samples, unplaced))
    return Claimed(
        manifest=manifest,
        where=f"{manifest.model}/{manifest.name}",
        source=source,
        ledger=ledger,
        book=book,
        contexts=contexts,
        prompts=list(prompts),
        groups=groups,
        chosen=chosen,
        samples={name: samples[name] for name in ("context", "slot", "tiles", "frames", "audio_tokens")},
        heard=samples["spoken"],
        speech={name: samples[name] for name in _SPEECH},
        lying=lying,
        reasons=unplaced["reason"],
        strangers=strangers,
        met=_met(chosen, strangers),
    )


def _joined(samples: dict[str, Any], unplaced: dict[str, Any]) -> dict[str, Array]:
    names = {"copies": "copy", "questions": "questions", "tokens": "tokens", "seconds": "seconds"}
    return {mine: np.concatenate([samples.pop(name), unplaced[name]]) for mine, name in names.items()}


# --- reading --------------------------------------------------------------------------------------------------------


def _read(store: Store, manifest: Manifest, name: str, schema: pa.Schema, book: Book) -> dict[str, Any]:
    """The columns of a table as the checks use them, one read after the other while their logical digest is taken."""
    where, kept = f"{manifest.model}/{manifest.name}", dict[str, Any]()
    table = open_table(store, manifest.tables[name])
    book.equal(where, f"columns of '{name}'", schema.names, table.schema_arrow.names)

    def columns() -> Iterator[tuple[str, pa.Array]]:
        for field in schema:
            read = table.read(columns=[field.name], use_threads=False).column(0)
            column = joined(read if read.type == field.type else read.cast(field.type))
            if field.name not in _OPTIONAL:
                missing = f"rows of '{name}' without {field.name}: {column.null_count}"
                book.check(where, not column.null_count, missing)
            kept[field.name] = _kept(field.name, column)
            yield field.name, column

    book.equal(where, f"logical digest of '{name}'", manifest.rows.get(name), columns_digest(columns()))
    return kept


def _kept(name: str, column: pa.Array) -> Any:
    if name == "reason":
        return column
    if name == "key":
        return keys_of(column)
    if name in _NAMES or name == "prompt":
        return names_of(column)
    if name == "spoken":
        lengths = values_of(pc.list_value_length(column), missing=0)
        return Some(np.repeat(np.arange(len(column)), lengths), values_of(column.flatten()))
    if name in _SPEECH:
        at = np.flatnonzero(there(column)) if column.null_count < len(column) else np.empty(0, np.int64)
        return Some(at, values_of(column)[at])
    if name == "padded_seconds":
        return np.where(there(column), values_of(column), np.nan)
    return values_of(column)


def _grouped(*tables: dict[str, Any]) -> tuple[Array, list[Group]]:
    """The number of each row's group, of tables one behind the other, and the groups by number."""
    known = [list(dict.fromkeys(one for table in tables for one in table[name][1])) for name in _NAMES]
    codes, stride = [np.zeros(len(table["copy"]), np.int32) for table in tables], 1
    for names, name in zip(known, _NAMES, strict=True):
        for code, table in zip(codes, tables, strict=True):
            mine, spelt = table.pop(name)
            code += np.array([names.index(one) * stride for one in spelt], np.int32)[mine]
        stride *= len(names)
    code = np.concatenate(codes)
    there = np.flatnonzero(np.bincount(code, minlength=1))[: len(code)]
    number = np.zeros(stride, np.int16)
    number[there] = np.arange(len(there))
    places = np.unravel_index(there, [len(names) for names in known], order="F")
    return number[code], [Group(*(names[one] for names, one in zip(known, row, strict=True)))
                          for row in np.transpose(places).tolist()]  # fmt: skip


# --- the rows of the ledger -----------------------------------------------------------------------------------------


def _placed(
    manifest: Manifest,
    source: Snapshot,
    ledger: Ledger,
    samples: dict[str, Any],
    keys: Keys,
    groups: Sequence[Group],
    numbers: Array,
) -> tuple[Array, Bools]:
    """The rows of placed samples by the place of their bytes, where key and corpus agree; and which lie otherwise."""
    tars = {shard.tar.path: ledger.number(shard) for state in source.corpora for shard in state.shards}
    known = np.array([*(tars.get(stored.path, -1) for stored in manifest.shards), -1])
    named = samples.pop("shard")
    shards = known[np.where((named >= 0) & (named < len(manifest.shards)), named, -1)]
    rows = ledger.at(shards, samples.pop("offset")).astype(np.int32)
    names = sorted({*ledger.corpora})
    homes = np.array([*map(names.index, ledger.corpora), -1])  # of the ledger's shards
    claims = np.array([names.index(one.corpus) if one.corpus in names else -2 for one in groups] or [-2])
    lengths, checksums = samples.pop("length"), samples.pop("checksum")
    lying = np.zeros(len(rows), np.bool_)
    for begin in range(0, len(rows), _STEP):
        part = slice(begin, begin + _STEP)
        row = rows[part]
        same = (row != NOWHERE) & (homes[shards[part]] == claims[numbers[part]])
        same &= equal(ledger.keys[row], keys[part])
        row[~same] = NOWHERE
        lying[part] = ~same | (ledger.lengths[row] != lengths[part]) | (ledger.checksums[row] != checksums[part])
    return rows, lying


def _by_key(source: Snapshot, ledger: Ledger, keys: Keys, corpora: Sequence[str | None]) -> Array:
    """The rows of samples by corpus and key."""
    rows, homes = np.full(len(keys), NOWHERE, np.int32), np.array(corpora, object)
    for state in source.corpora:
        mine = np.flatnonzero(homes == state.corpus.name)
        if len(mine):
            rows[mine] = ledger.find(ledger.rows(state), draws_of(keys[mine]), keys[mine])
    return rows


def _met(chosen: Chosen, strangers: Mapping[int, str]) -> Met:
    """Every copy of every sample, in order: of each sample the copies must be 0, 1, 2 …"""
    pairs = chosen.rows.astype(np.int64) << 32 | chosen.copies.astype(np.uint32)
    pairs = np.sort(pairs[chosen.rows != NOWHERE] if strangers else pairs)
    rows = (pairs >> 32).astype(np.int32)
    begins = np.flatnonzero(np.diff(rows, prepend=-1))
    times = np.diff(begins, append=len(rows))
    counted = np.arange(len(rows)) - np.repeat(begins, times)
    wrong = np.unique(rows[pairs & 0xFFFFFFFF != counted])
    unknown = {(key, int(chosen.copies[number])) for number, key in strangers.items()}
    twice = int((pairs[1:] == pairs[:-1]).sum()) + len(strangers) - len(unknown)
    return Met(rows[begins], times, wrong, twice)

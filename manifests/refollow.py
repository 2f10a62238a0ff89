"""A repaired plan beside the one that it follows: what it says to have kept it has kept, and moved no more.

A context that stayed has its samples in its slots, so the two tables are compared by these, a row group of the parent's
at a time. Only the samples of contexts that differ are looked for by their keys: one of them must have changed.
"""

from collections.abc import Iterator

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from tarsia.builders.columns import values_of, whole
from tarsia.builders.storage import Store
from tarsia.builders.tables import open_table
from tarsia.manifests.claimed import Claimed, Some
from tarsia.manifests.keys import Bools, keys_of
from tarsia.manifests.ledger import NOWHERE, Array, Int64s
from tarsia.schemas.errors import Corrupt
from tarsia.schemas.identity import digest_of
from tarsia.schemas.manifest import Manifest, parent_path

_FIGURES = ("tokens", "tiles", "frames", "audio_tokens")
_WHAT = ("key", "corpus", "copy", "context", "slot", *_FIGURES, "checksum", "speech_checksum", "spoken")


def check_repair(stage: Claimed, store: Store) -> None:
    """Compares a repaired plan, if it is one, with its parent, whose manifest and tables the lake keeps."""
    manifest, book, told = stage.manifest, stage.book, stage.manifest.repaired
    if told is None:
        return
    where = f"{stage.where} repaired"
    parent = parent_of(store, manifest, told.parents[-1])
    before = parent.repaired
    book.equal(where, "digest of the parent", told.parents[-1], digest_of(parent.model_dump(mode="json")))
    book.equal(where, "parents before it", told.parents[:-1], before.parents if before else ())
    book.equal(where, "contexts of the first", told.first, before.first if before else parent.contexts)
    book.equal(where, "contexts of the parent", told.before, parent.contexts)
    for name in ("stage", "seed", "context", "pool", "vocabulary", "prompts"):
        book.equal(where, f"{name} of the parent", getattr(parent, name), getattr(manifest, name))
    book.check(where, manifest.contexts >= parent.contexts, "a repair never has fewer contexts than its parent")
    with open_table(store, parent.tables["samples"]) as samples:
        moved = _moved(stage, parent, samples)
        book.equal(where, "contexts kept", told.kept, int((~moved).sum()))
        if manifest.contexts > parent.contexts and manifest.capacity == parent.capacity:
            moved[_touched(stage, samples, moved)] = False
            book.equal(where, "contexts that a repair moved without need", 0, int(moved.sum()))


def _moved(stage: Claimed, parent: Manifest, samples: pq.ParquetFile) -> Bools:
    """Which contexts of the parent hold today other samples, or others in other slots."""
    sizes = np.bincount(stage.samples["context"], minlength=parent.contexts)
    first, left = np.cumsum(sizes) - sizes, sizes[: parent.contexts].copy()
    moved = np.zeros(parent.contexts, np.bool_)
    for table in _groups(samples):
        context, slot = (values_of(whole(table[name])) for name in ("context", "slot"))
        at = np.where((slot >= 0) & (slot < sizes[context]), first[context] + slot, NOWHERE)
        moved[context[~_same(stage, table, at)]] = True
        left -= np.bincount(context, minlength=parent.contexts)
    return np.asarray(moved | (left != 0))


def _touched(stage: Claimed, samples: pq.ParquetFile, moved: Bools) -> Array:
    """The contexts, of those that moved, with a sample that is not any more what it was."""
    parts = [table.filter(pa.array(moved[values_of(whole(table["context"]))])) for table in _groups(samples)]
    lost = pa.concat_tables(parts).unify_dictionaries() if parts else None
    if not lost:
        return np.empty(0, np.int32)
    return np.asarray(values_of(whole(lost["context"]))[~_same(stage, lost, _anywhere(stage, lost))])


def _groups(samples: pq.ParquetFile) -> Iterator[pa.Table]:
    return (samples.read_row_group(group, list(_WHAT), use_threads=False) for group in range(samples.num_row_groups))


def _anywhere(stage: Claimed, table: pa.Table) -> Int64s:
    """Which of the placed samples have the keys of some of the parent's, and are the same copy; `NOWHERE` for none."""
    ledger, chosen = stage.ledger, stage.chosen
    keys, copies = keys_of(whole(table["key"])), values_of(whole(table["copy"]))
    rows = np.full(len(keys), NOWHERE)
    for state in stage.source.corpora:
        mine = np.flatnonzero(values_of(pc.equal(table["corpus"], state.corpus.name).combine_chunks().cast(pa.int8())))
        rows[mine] = ledger.find(ledger.run(state), keys[mine])
    asked = np.zeros(len(ledger) + 1, np.bool_)  # the last is nowhere
    asked[rows[rows != NOWHERE]] = True
    some = np.flatnonzero(asked[chosen.rows[: chosen.placed]])
    named = _named(chosen.rows[some], chosen.copies[some])
    order = np.argsort(named)
    wanted = _named(rows, copies)
    met = np.minimum(np.searchsorted(named[order], wanted), len(some) - 1)
    return (
        np.where(named[order[met]] == wanted, some[order[met]], NOWHERE) if len(some) else np.full(len(keys), NOWHERE)
    )


def _named(rows: Array, copies: Array) -> Int64s:
    return np.asarray(rows.astype(np.int64) << 32 | copies.astype(np.uint32))


def _same(stage: Claimed, table: pa.Table, at: Int64s) -> Bools:
    """Whether samples of the parent are what the placed samples at some places are; at `NOWHERE` is none."""
    ledger, chosen = stage.ledger, stage.chosen
    column = {name: whole(table[name]) for name in ("key", "copy", *_FIGURES, "checksum", "speech_checksum")}
    rows = chosen.rows[at]
    same = (at != NOWHERE) & (rows != NOWHERE) & ~stage.lying[at]
    same &= ledger.keys[rows].same(keys_of(column["key"]))
    same &= ledger.checksums[rows] == values_of(column["checksum"])
    now = {"copy": chosen.copies, "tokens": chosen.tokens, **stage.samples}
    for name in ("copy", *_FIGURES):
        same &= now[name][at] == values_of(column[name])
    spoken = table["spoken"].combine_chunks()
    owners = values_of(pc.list_parent_indices(spoken))
    same &= _equal(stage.heard, at, owners, values_of(spoken.flatten()))
    speech = column["speech_checksum"]
    has = np.flatnonzero(values_of(speech.is_valid().cast(pa.int8())))
    return np.asarray(same & _equal(stage.speech["speech_checksum"], at, has, values_of(speech)[has]))


def _equal(now: Some, at: Int64s, owners: Int64s, values: Array) -> Bools:
    """Whether each sample has the values that are named with its number, `owners` ascending, and no others."""
    begins = np.searchsorted(now.at, at)
    equal = np.searchsorted(now.at, at, "right") - begins == np.bincount(owners, minlength=len(at))
    asked = equal[owners]
    owners, values, inside = (
        owners[asked],
        values[asked],
        (np.arange(len(owners)) - np.searchsorted(owners, owners))[asked],
    )
    equal[owners[now.values[begins[owners] + inside] != values]] = False
    return np.asarray(equal)


def parent_of(store: Store, manifest: Manifest, digest: str) -> Manifest:
    """A manifest that this one repaired, by its digest."""
    path = parent_path(manifest.model, manifest.name, digest)
    try:
        return Manifest.model_validate(orjson.loads(store.read(path)))
    except (ValidationError, orjson.JSONDecodeError) as error:
        raise Corrupt(f"{store.url}/{path} cannot be read: {error}") from error

"""`tarsia takedown`: records leave the lake, their places stay, and no later ingest brings them back.

    find      which records are meant        by id, key, digest or raw file (pipelines/meant.py)
    bury      tombstones, written first      from here on every ingest keeps them out
    erase     what held them, written anew   shards, sidecars, quarantine, origins, comparisons (pipelines/erase.py)
    receipt   what was erased where          then verdicts and clips, records of tasks, and slices on their way
    publish   the next snapshot              last

Each step may be done twice, so whoever was interrupted runs the same command again. What the old objects hold is gone
when the manifests that point into them are planned anew and the lake is pruned; the receipt names both.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from tarsia.builders.codes import without
from tarsia.builders.duplicates import put_duplicates
from tarsia.builders.lake import Lake
from tarsia.builders.storage import Store
from tarsia.builders.tables import get_table, get_tables
from tarsia.builders.tombstones import put_forbidden, put_tombstones, read_forbidden, read_tombstones, tombstone
from tarsia.builders.wanted import Wanted
from tarsia.pipelines.commits import clear, forget, paths_in
from tarsia.pipelines.erase import (
    Segment,
    contents_without,
    origins_without,
    phrases_of,
    quarantine_without,
    questions_of,
    segments,
    shard_tasks,
    silence,
    speech_tasks,
)
from tarsia.pipelines.meant import Found, find
from tarsia.pipelines.overtake import quiet_down, sweep
from tarsia.pipelines.pool import Pool, finish
from tarsia.pipelines.progress import Progress
from tarsia.pipelines.tasks import recorded
from tarsia.schemas.errors import Exists, TarsiaError, UnknownName, UserError
from tarsia.schemas.identity import canonical, digest_of, draw_of
from tarsia.schemas.lake import CodesState, CorpusState, Snapshot, SpeechState
from tarsia.schemas.model import Model
from tarsia.schemas.shard import QUARANTINE, TOMBSTONES, Shard, Stored

_RECEIPTS = "tombstones/receipts"


class Erased(Model):
    """What was taken down of one corpus, in records."""

    corpus: str
    samples: int
    quarantined: int


class Receipt(Model):
    """What was erased where, and what is still to be done. Names nobody: of records, only how many."""

    number: int
    request: str  # digest of the list
    records: tuple[Erased, ...]
    forbidden: int  # digests that no corpus may hold from now on
    rewritten: dict[str, int]  # objects, by folder
    clips: int  # that nobody else asks for
    lying: tuple[str, ...]  # objects that hold what was erased until `prune`
    stages: dict[str, int]  # manifests that still place it: contexts
    packs: tuple[str, ...]  # packed tars that hold it


class Takedown(Model):
    """The report of one run. Without a receipt all of it had been taken down before."""

    receipt: Receipt | None
    known: int  # lines that had been taken down before
    unknown: tuple[str, ...]  # lines that nothing in the lake is called


def takedown(
    lake: Lake,
    wanted: Sequence[Wanted],
    pool: Pool,
    *,
    files: Sequence[str] = (),
    corpus: str | None = None,
    quiet: bool = False,
) -> Takedown:
    """Takes down what a list names, and every record that came from raw `files`, and publishes a snapshot.

    `corpus`: only of this one. `UserError` where nothing of it is there.
    """
    sweep(lake)
    request = digest_of([sorted([one.corpus or "", one.id] for one in wanted), sorted(files), corpus])
    while True:
        snapshot = lake.snapshot()
        names = {state.corpus.name for state in snapshot.corpora}
        for name in [*[one.corpus for one in wanted if one.corpus], *([corpus] if corpus else [])]:
            if name not in names:
                raise UnknownName("corpus", name, names, lake.url)
        found = find(lake.store, snapshot, wanted, files, corpus)
        if not any(found.keys.values()):
            return _nothing(lake, found, request)
        try:
            receipt = _take_down(lake, snapshot, found, request, pool, quiet=quiet)
        except _MovedOnError:
            continue
        return Takedown(receipt=receipt, known=found.known, unknown=found.unknown)


class _MovedOnError(TarsiaError):
    """Somebody else published a snapshot meanwhile."""


def _nothing(lake: Lake, found: Found, request: str) -> Takedown:
    """All of it was taken down before; a mistake where none of it ever stood here."""
    receipts = [Receipt.model_validate_json(lake.store.read(entry.path)) for entry in lake.store.list(_RECEIPTS)]
    done = any(receipt.request == request for receipt in receipts)
    if not found.known and not done:
        raise UserError(f"{lake.url}: nothing of the list stands here: {_some(found.unknown) or 'no such file'}")
    return Takedown(receipt=None, known=found.known, unknown=() if done else found.unknown)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# --- bury, erase, publish -------------------------------------------------------------------------------------------


def _take_down(lake: Lake, snapshot: Snapshot, found: Found, request: str, pool: Pool, *, quiet: bool) -> Receipt:
    store = lake.store
    if found.digests:
        put_forbidden(store, read_forbidden(store) | found.digests)
    touched = [state for state in snapshot.corpora if found.keys[state.corpus.name]]
    buried = {state.corpus.name: _bury(store, state, found.keys[state.corpus.name]) for state in touched}
    changed, said = _erase(lake, snapshot, found, buried, pool, quiet=quiet)
    quiet_down(store, said, buried)
    silenced = segments(store, said, changed)
    receipt = _receipt(lake, snapshot, changed, found, buried, silenced, request)
    for segment in silenced:
        silence(store, segment)
    forget(lake, changed, buried)
    fresh = {shard.tar.path for state in changed.corpora for shard in state.shards}
    for state in touched:
        old = [shard for shard in state.shards if shard.tar.path not in fresh]
        for path in phrases_of(store, state.corpus.name, old):
            store.delete(path)
    clear(store, *(f"{top}/{name}" for name in buried for top in ("work", "looks")))
    lake.publish(lambda newest: _onto(newest, snapshot, changed))
    return receipt


def _onto(newest: Snapshot, before: Snapshot, changed: Snapshot) -> Snapshot:
    if newest.number != before.number:
        raise _MovedOnError("a newer snapshot stands")
    return changed


class _Buried(NamedTuple):
    """The tombstones of a corpus, old and new, and which of the new ones were samples."""

    stored: Stored
    samples: set[str]


def _bury(store: Store, state: CorpusState, keys: set[str]) -> _Buried:
    """Writes the tombstones of a corpus."""
    values = pa.array(sorted(keys), pa.string())
    rows = {row["key"]: row for row in read_tombstones(store, state.corpus.name).to_pylist()}
    samples = set[str]()
    for shard in state.shards:
        index = get_table(store, shard.index, ("key", "draw", "language", "modality", "questions", "audios"))
        for row in index.filter(pc.is_in(index["key"], value_set=values)).to_pylist():
            rows.setdefault(row["key"], tombstone(row))
            samples.add(row["key"])
    for key in keys:
        rows.setdefault(key, {"key": key, "draw": draw_of(key), "sample": False})
    stored = put_tombstones(
        store, state.corpus.name, pa.Table.from_pylist([rows[key] for key in sorted(rows)], TOMBSTONES)
    )
    assert stored
    return _Buried(stored, samples)


def _erase(
    lake: Lake, snapshot: Snapshot, found: Found, buried: dict[str, _Buried], pool: Pool, *, quiet: bool
) -> tuple[Snapshot, set[str]]:
    """The snapshot without what was taken down, and what voices were given of it."""
    store, said = lake.store, set[str]()
    corpora, speech = list[CorpusState](), list[SpeechState]()
    everywhere = pa.array(sorted(set().union(*found.keys.values())), pa.string())
    for state in snapshot.corpora:
        name = state.corpus.name
        if name in buried:
            keys = pa.array(sorted(found.keys[name]), pa.string())
            tasks = shard_tasks(lake.url, state, sorted(buried[name].samples), buried[name].stored)
            fresh = {task.shard.leaf: task for task in tasks}
            spoken = [shard for one in snapshot.speech if one.corpus == name for shard in one.shards]
            said |= questions_of(store, [task.shard for task in tasks], spoken, keys)
            results = finish(tasks, pool, Progress(f"erase {name}", "shards", quiet=quiet))
            made = dict(zip(fresh, map(Shard.model_validate, results), strict=True))
            corpora.append(_without(store, state, keys, everywhere, made, buried[name].stored))
        else:
            corpora.append(state.model_copy(update=_quarantine(store, state, everywhere.slice(0, 0), everywhere)))
    for sidecars in snapshot.speech:
        name = sidecars.corpus
        if name in buried:
            keys = pa.array(sorted(found.keys[name]), pa.string())
            leaves_ = speech_tasks(store, lake.url, sidecars, keys, buried[name].stored)
            todo = [one for one in leaves_ if not isinstance(one, Shard)]
            written = iter(finish(todo, pool, Progress(f"erase speech of {name}", "shards", quiet=quiet)))
            shards = tuple(one if isinstance(one, Shard) else Shard.model_validate(next(written)) for one in leaves_)
            speech += [sidecars.model_copy(update={"shards": shards})] if shards else []
        else:
            speech.append(sidecars)
    changed = snapshot.model_copy(
        update={"corpora": tuple(corpora), "speech": tuple(speech), "codes": _codes(store, snapshot, found.keys)}
    )
    contents = {state.corpus.name: state.contents for state in corpora if state.contents}
    if contents != {state.corpus.name: state.contents for state in snapshot.corpora if state.contents}:
        duplicates, repeats = put_duplicates(store, contents)
        changed = changed.model_copy(update={"duplicates": duplicates, "repeats": repeats})
    return changed, said


def _codes(store: Store, snapshot: Snapshot, keys: dict[str, set[str]]) -> tuple[CodesState, ...]:
    """What codecs made of the corpora, without what was taken down."""
    gone = {name: pa.array(sorted(mine), pa.string()) for name, mine in keys.items() if mine}
    states = (without(store, one, gone[one.corpus]) if one.corpus in gone else one for one in snapshot.codes)
    return tuple(one for one in states if one.shards)


def _without(
    store: Store, state: CorpusState, keys: pa.Array, everywhere: pa.Array, made: dict[str, Shard], gone: Stored
) -> CorpusState:
    """A corpus without some records, its shards as they were made."""
    return state.model_copy(
        update={
            "shards": tuple(made.get(shard.leaf, shard) for shard in state.shards),
            "origins": origins_without(store, state, keys),
            "contents": contents_without(store, state, keys),
            "tombstones": gone,
            "taken_down": len(get_table(store, gone, ("key",))),
            **_quarantine(store, state, keys, everywhere),
        }
    )


def _quarantine(store: Store, state: CorpusState, keys: pa.Array, everywhere: pa.Array) -> dict[str, Any]:
    stored = quarantine_without(store, state, keys, everywhere)
    rows = get_tables(store, [stored] if stored else [], QUARANTINE, ("code",))
    counts = {row["values"]: row["counts"] for row in pc.value_counts(rows["code"].combine_chunks()).to_pylist()}
    return {"quarantine": stored, "quarantined": dict(sorted(counts.items()))}


# --- the receipt ----------------------------------------------------------------------------------------------------


def _receipt(
    lake: Lake,
    before: Snapshot,
    after: Snapshot,
    found: Found,
    buried: dict[str, _Buried],
    silenced: Sequence[Segment],
    request: str,
) -> Receipt:
    """Stores what is about to be erased, before anything is."""
    old, new = (set(paths_in(snapshot.model_dump(mode="json"))) for snapshot in (before, after))
    keys = set().union(*found.keys.values())
    lying = old - new | {path for segment in silenced for path in segment.tars}
    folders = [path.split("/")[0] for path in new - old] + ["verdicts"] * len(silenced)
    stages, packs = _still(lake.store, pa.array(sorted(keys), pa.string()))
    receipt = Receipt(
        number=0,
        request=request,
        records=tuple(
            Erased(
                corpus=name,
                samples=len(one.samples & found.keys[name]),
                quarantined=len(found.keys[name] - one.samples),
            )
            for name, one in sorted(buried.items())
        ),
        forbidden=len(found.digests),
        rewritten={folder: folders.count(folder) for folder in sorted(set(folders))},
        clips=sum(pc.sum(pc.and_(segment.goes, segment.rows["tar"].is_valid())).as_py() for segment in silenced),
        lying=tuple(sorted(lying)),
        stages=stages,
        packs=packs,
    )
    return _stored(lake.store, receipt)


def _still(store: Store, keys: pa.Array) -> tuple[dict[str, int], tuple[str, ...]]:
    """The manifests that place some samples, each with how many contexts, and the packed tars that hold them."""
    stages, packs = dict[str, int](), list[str]()
    for entry in store.list("stages"):
        folder, _, name = entry.path.rpartition("/")
        if name != "manifest.json":
            continue
        tables = orjson.loads(store.read(entry.path))["tables"]
        rows = get_table(store, Stored.model_validate(tables["samples"]), ("key", "context"))
        contexts = pc.unique(rows.filter(pc.is_in(rows["key"], value_set=keys))["context"]).to_pylist()
        if contexts:
            stages[folder.removeprefix("stages/")] = len(contexts)
            packs += _packs(store, folder, contexts)
    return stages, tuple(packs)


def _packs(store: Store, folder: str, contexts: Iterable[int]) -> list[str]:
    if store.entry(f"{folder}/packed.json") is None:
        return []
    hit = list(contexts)
    shards = recorded(store, f"{folder}/packed.json")["shards"]
    return [
        shard["objects"][0]["path"]
        for shard in shards
        if any(shard["first"] <= one < shard["first"] + shard["contexts"] for one in hit)
    ]


def _stored(store: Store, receipt: Receipt) -> Receipt:
    """The receipt under the next free number; the last one where it says the same."""
    while True:
        known = [entry.path for entry in store.list(_RECEIPTS)]
        last = Receipt.model_validate_json(store.read(known[-1])) if known else None
        if last and last == receipt.model_copy(update={"number": last.number}):
            return last
        numbered = receipt.model_copy(update={"number": last.number + 1 if last else 1})
        try:
            store.create(f"{_RECEIPTS}/{numbered.number:08d}.json", canonical(numbered.model_dump(mode="json")))
        except Exists:
            continue
        return numbered

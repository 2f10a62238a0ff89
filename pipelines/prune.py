"""`tarsia prune`: deletes what no kept snapshot and no manifest needs.

Kept are the newest snapshots, those that a standing manifest was planned from (its audit reads them), and the plan that
a repaired one follows; what they name; packed tars of manifests as they stand; caches (costs, spoken forms) of shards
that stay; clips that a verdict names. Verdicts, calibrations and tombstones are never touched.

Work in flight is left alone: whatever was written less than a day ago, and all that belongs to a corpus, or to speech,
that has something under `work/`. A record under `commits/` goes before the object that it names, since a resumed task
trusts its record; so whoever is interrupted here leaves nothing that misleads, and runs the same command again.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

import orjson
import pyarrow.compute as pc
from pydantic import ValidationError

from tarsia.builders.lake import Lake
from tarsia.builders.storage import Store
from tarsia.builders.tables import read_parquet
from tarsia.manifests.stream import manifest_digest
from tarsia.pipelines.commits import paths_in
from tarsia.pipelines.tasks import recorded
from tarsia.schemas.errors import Corrupt, NotThere
from tarsia.schemas.lake import Snapshot
from tarsia.schemas.manifest import Manifest, parent_path
from tarsia.schemas.model import Model

HOURS = 24.0  # objects younger than this may be somebody's work
_OURS = (
    "clips", "codec", "contents", "corpora", "costs", "duplicates", "excluded", "looks", "origins", "quarantine",
    "speech", "spoken", "stages",
)  # fmt: skip


class Pruned(Model):
    """What was deleted, or would be, and what keeps objects that hold something taken down."""

    snapshots: tuple[int, ...]  # kept
    objects: dict[str, int]  # deleted, by folder
    bytes: int
    waiting: dict[str, int]  # objects that hold what was taken down, by what still needs them


class _Planned(NamedTuple):
    name: str
    folder: str
    manifest: Manifest
    snapshot: int | None


def prune(
    lake: Lake, *, keep: int = 1, hours: float = HOURS, dry_run: bool = False, now: float | None = None
) -> Pruned:
    """Deletes what nothing needs and is older than `hours`; `keep`: so many of the newest snapshots stay.

    `NotThere` where there is no snapshot at all: what lies there is not known to be a lake's.
    """
    store = lake.store
    lake.snapshot()  # a folder that holds none may be anybody's
    snapshots = {number: lake.snapshot(number) for number in lake.numbers()}
    plans = list(_plans(store, snapshots))
    kept = sorted({*sorted(snapshots)[-keep:], *(one.snapshot for one in plans if one.snapshot)})
    needs = _needs(store, snapshots, kept, plans)
    needed = set().union(*needs.values())
    until = (time.time() if now is None else now) - hours * 3600
    written = store.modified()
    needed |= _in_flight(store, written, until)
    clips = _clips(store)
    names = {path.rpartition("/")[2].removesuffix(".tar") for path in needed if path.endswith(".tar")}
    old = [path for path, when in written.items() if when < until and not _is_needed(path, needed | clips, names)]
    going = [path for path in old if path.split("/")[0] in _OURS]
    past = [path for path in old if path.startswith("snapshots/") and int(path[10:18]) not in kept]
    records = list(_records(store, written, {*written} - {*going}))
    sizes = {entry.path: entry.size for entry in store.list()}
    if not dry_run:
        for path in (*records, *past, *sorted(going, key=lambda path: not path.endswith(".json"))):
            store.delete(path)
    gone = [*records, *past, *going]
    return Pruned(
        snapshots=tuple(kept),
        objects=dict(sorted(Counter(path.split("/")[0] for path in gone).items())),
        bytes=sum(sizes.get(path, 0) for path in gone),
        waiting=_waiting(store, needs, {*written} - {*gone}),
    )


def _plans(store: Store, snapshots: dict[int, Snapshot]) -> Iterator[_Planned]:
    """Every manifest that stands, with the snapshot it was planned from."""
    for entry in store.list("stages"):
        if not entry.path.endswith("/manifest.json"):
            continue
        try:
            manifest = Manifest.model_validate(orjson.loads(store.read(entry.path)))
        except (ValidationError, orjson.JSONDecodeError) as error:
            raise Corrupt(f"{store.url}/{entry.path} cannot be read, so nobody knows what it needs: {error}") from error
        folder = entry.path.rpartition("/")[0]
        parts = ((number, snapshots[number].part(manifest.stage.wants, manifest.pool)) for number in sorted(snapshots))
        found = [number for number, part in parts if part.digest == manifest.lake]
        yield _Planned(folder.removeprefix("stages/"), folder, manifest, found[-1] if found else None)


def _needs(
    store: Store, snapshots: dict[int, Snapshot], kept: Iterable[int], plans: Iterable[_Planned]
) -> dict[str, set[str]]:
    """The paths that each stage, and each snapshot that no stage was planned from, needs."""
    listed = {number: set(paths_in(snapshots[number].model_dump(mode="json"))) for number in kept}
    needs: dict[str, set[str]] = {}
    for one in plans:
        mine = needs[f"stage {one.name}"] = {f"{one.folder}/manifest.json"}
        mine |= set(paths_in(one.manifest.model_dump(mode="json"))) | listed.get(one.snapshot or 0, set())
        if one.manifest.repaired:
            path = parent_path(one.manifest.model, one.manifest.name, one.manifest.repaired.parents[-1])
            mine |= {path, *paths_in(orjson.loads(store.read(path))["tables"])}
        if store.entry(f"{one.folder}/packed.json"):
            packed = recorded(store, f"{one.folder}/packed.json")
            if packed["manifest"] == manifest_digest(one.manifest):
                mine |= {f"{one.folder}/packed.json", *paths_in(packed)}
    planned = {one.snapshot for one in plans}
    return needs | {f"snapshot {number}": paths for number, paths in listed.items() if number not in planned}


def _in_flight(store: Store, written: dict[str, float], until: float) -> set[str]:
    """What unfinished work counts on: what young records name, and those of corpora that are being worked on."""
    busy = {entry.path.split("/")[1] for entry in store.list("work")}
    found = set[str]()
    for path, when in written.items():
        parts = path.split("/")
        if parts[0] != "commits":
            continue
        is_speech = parts[1] == "speech" and bool(busy & {"speech", "speak"})
        if when >= until or is_speech or parts[1] == "looks" or (parts[1] == "corpora" and parts[2] in busy):
            found |= _named_in(store, path)
    return found


def _named_in(store: Store, path: str) -> set[str]:
    """What a record names; nothing where a twin has deleted it since it was listed."""
    with suppress(NotThere):
        return set(paths_in(recorded(store, path)))
    return set()


def _clips(store: Store) -> set[str]:
    """The tars that verdicts name."""
    found = set[str]()
    for entry in store.list("verdicts"):
        with store.open(entry.path) as file:
            tars = read_parquet(file, f"{store.url}/{entry.path}", ["tar"])["tar"]
            found |= set(pc.unique(tars).drop_null().to_pylist())
    return found


def _is_needed(path: str, needed: set[str], shards: set[str]) -> bool:
    """Whether an object is named, or is a cache of a shard that is."""
    parts = path.split("/")
    if parts[0] == "costs":
        return parts[-1].rpartition("-")[0] in shards
    if parts[0] == "spoken":
        return parts[3] in shards
    return path in needed


def _records(store: Store, written: dict[str, float], stays: set[str]) -> Iterator[str]:
    """The records that name an object which is not there, or is going."""
    for path in written:
        if path.startswith("commits/") and not stays.issuperset(_named_in(store, path)):
            yield path


def _waiting(store: Store, needs: dict[str, set[str]], stays: set[str]) -> dict[str, int]:
    """By stage or snapshot: how many objects of receipts are still there for it; the rest is young."""
    receipts = (orjson.loads(store.read(entry.path)) for entry in store.list("tombstones/receipts"))
    lying = {path for receipt in receipts for path in receipt["lying"]} & stays
    found = {name: len(paths & lying) for name, paths in needs.items() if paths & lying}
    young = len(lying - set().union(*needs.values()))
    return found | ({"written not long ago, or in flight": young} if young else {})

"""Records of finished tasks, and when one must not be trusted any more.

A task that is recorded is not run again, so a record must not outlive what it names. Whatever takes objects out of the
lake, or makes one that it must not hold any more, takes the records first.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from tarsia.builders.lake import Lake
from tarsia.builders.storage import Store
from tarsia.pipelines.tasks import recorded
from tarsia.schemas.lake import Snapshot


def paths_in(value: Any) -> Iterator[str]:
    """The paths of all objects that are named in a record, a snapshot or a manifest."""
    if isinstance(value, dict):
        if {"path", "bytes", "digest"} <= value.keys():
            yield value["path"]
        for one in value.values():
            yield from paths_in(one)
    elif isinstance(value, list):
        for one in value:
            yield from paths_in(one)


def clear(store: Store, *folders: str) -> None:
    """Removes all below some folders, records first: what is recorded must be there. One listing for all of a top."""
    within = tuple(f"{folder}/" for folder in folders)
    tops = sorted({folder.partition("/")[0] for folder in folders})
    mine = [entry.path for top in tops for entry in store.list(top) if entry.path.startswith(within)]
    for path in sorted(mine, key=lambda path: not path.endswith(".json")):
        store.delete(path)


def forget(lake: Lake, snapshot: Snapshot, corpora: Iterable[str]) -> None:
    """Takes back what is recorded of corpora, but for the leaves that a snapshot holds; looks can be had again."""
    kept = set(paths_in(snapshot.model_dump(mode="json")))
    pools = sorted({entry.path.split("/")[2] for entry in lake.store.list("commits/speech")})
    for corpus in corpora:
        for folder in (f"corpora/{corpus}", f"looks/{corpus}", *(f"speech/{pool}/{corpus}" for pool in pools)):
            for entry in list(lake.store.list(f"commits/{folder}")):
                named = set(paths_in(recorded(lake.store, entry.path)))
                if not named or not named <= kept:
                    lake.store.delete(entry.path)

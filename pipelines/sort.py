"""Slices in draw order: their records understood, with a stamp of each that says all that its sample is made from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tarsia.builders.corpora import find
from tarsia.builders.duplicates import numbers
from tarsia.builders.lake import Lake
from tarsia.builders.media import Media
from tarsia.builders.reading.unanswered import Unanswered
from tarsia.builders.records import MEDIA, Marks, Named, draws, in_order, to_arrow
from tarsia.builders.storage import Entry, Store
from tarsia.builders.tables import get_table, put_table
from tarsia.pipelines.coming import Coming, Step
from tarsia.pipelines.pool import Pool, finish
from tarsia.pipelines.progress import Progress
from tarsia.schemas.identity import canonical, checksum
from tarsia.schemas.shard import ORIGINS, Stored

_TOLD = ("key", "record", "id", "draft", "said", "code", "message")  # what of a row its sample depends on


@dataclass(frozen=True)
class Sort(Step):
    """Puts one slice in key order, understands its records, and looks which versions of their media are there.

    What was taken down ends here: nothing of it is written.
    """

    slice: str
    gone: Stored | None
    is_compared: bool  # an evaluation set, whose answers nobody needs

    def run(self) -> Any:
        """Where the sorted slice lies, how many rows it has, what they show, where its origins are."""
        store = self.store
        with store.open(f"{self.slice}.arrow") as file, pa.ipc.open_file(file) as reader:
            scanned = reader.read_all()
        marks = Marks.from_bytes(store.read(f"{self.slice}.marks"))
        reader = find(self.corpus.format)
        reader = Unanswered(reader) if self.is_compared else reader
        table, named = in_order(scanned, marks, self.corpus, reader, self._taken_down(store))
        path = self.record.removesuffix(".json")
        store.replace(f"{path}.arrow", to_arrow(table))
        columns = draws(table["key"].to_pylist()), self._stamps(table, named), numbers(table["said"]), table["asked"]
        store.replace(f"{path}.stamps", np.array(columns, dtype=np.uint64).tobytes())
        origins = put_table(store, f"origins/{self.corpus.name}/part", table.select(ORIGINS.names).cast(ORIGINS))
        shows = [name for number, name in enumerate(MEDIA) if any(paths[number] for paths in named)]
        return {"path": path, "rows": len(table), "shows": shows, "origins": origins.model_dump(mode="json")}

    def _stamps(self, table: pa.Table, named: Sequence[Named]) -> list[int]:
        """A hash of each row: what was understood of it, and which versions of its media are there."""
        source, there = self.source, self._there(table, named)
        told = zip(*(table[name].to_pylist() for name in _TOLD), strict=True)
        stamps = []
        for row, paths, carried in zip(told, named, table["media"].to_pylist(), strict=True):
            media = Media(source, carried, known=there)
            stamps.append(checksum(canonical((row, [media.version(path) for sort in paths for path in sort]))))
        return stamps

    def _there(self, table: pa.Table, named: Sequence[Named]) -> dict[str, Entry | None]:
        """All files of the corpus that the rows name, with their versions."""
        carried = pc.list_flatten(table["media"])
        elsewhere = carried.filter(pc.is_null(pc.struct_field(carried, "checksum")))
        files = {path for paths in named for sort in paths for path in sort if not path.startswith("@")}
        return self.source.entries(files.union(pc.unique(pc.struct_field(elsewhere, "path")).to_pylist()))

    def _taken_down(self, store: Store) -> set[str]:
        return set(get_table(store, self.gone, ("key",))["key"].to_pylist()) if self.gone else set()


def sort(corpora: Sequence[Coming], lake: Lake, pool: Pool, *, quiet: bool) -> None:
    """Sorts the slices of some corpora."""
    tasks = [
        Sort(lake.url, one.corpus, f"{one.work}/sort/{number:05d}.json", path, one.gone, one.is_compared)
        for one in corpora
        for number, path in enumerate(one.slices)
    ]
    results = iter(finish(tasks, pool, Progress("sort", "slices", quiet=quiet)))
    for one in corpora:
        one.sorted = [next(results) for _ in one.slices]

"""The first half of ingest: raw files are read into slices, and who their records are is settled over the corpus."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tarsia.builders.corpora import Part, find
from tarsia.builders.lake import Lake
from tarsia.builders.records import Marks, settle, slices_of, to_arrow, who
from tarsia.pipelines.coming import Coming, Step
from tarsia.pipelines.pool import Pool, finish
from tarsia.pipelines.progress import Progress
from tarsia.pipelines.tasks import grouped
from tarsia.schemas.corpus import Corpus

SCAN_BYTES = 64 << 20  # of raw files that one task scans, about, where the reader does not say otherwise

File = tuple[str, Part | None]  # a file, or a part of a large one


@dataclass(frozen=True)
class Split(Step):
    """Looks where a large file of a corpus may be cut."""

    file: str
    size: int

    def run(self) -> Any:
        """The parts; none where the file is read whole."""
        split = find(self.corpus.format).split  # type: ignore[attr-defined]
        return [list(part) for part in split(self.source, self.file, self.size)]


@dataclass(frozen=True)
class Scan(Step):
    """Reads some raw files of a corpus, or parts of them, into slices."""

    files: tuple[File, ...]

    def run(self) -> Any:
        """Paths of the slices, and of what settling needs."""
        store, out = self.store, []
        name = self.record.removesuffix(".json")
        slices = slices_of(find(self.corpus.format), self.source, self.files, name)
        for number, (table, media) in enumerate(slices):
            path = f"{name}-{number:05d}"
            if media:
                with store.spool() as file:
                    file.writelines(media)
                    store.publish(file, f"{path}.media")
            store.replace(f"{path}.arrow", to_arrow(table))
            store.replace(f"{path}.who", who(table).tobytes())
            out.append(path)
        return out


def scan(corpora: Sequence[Coming], lake: Lake, pool: Pool, *, quiet: bool) -> None:
    """Reads all raw files of some corpora; each then has its slices, marked with what tells their records apart."""
    loads = _loads(corpora, lake, pool, quiet)
    tasks = [
        Scan(lake.url, one.corpus, f"{one.work}/scan/{number:05d}.json", files)
        for one, mine in zip(corpora, loads, strict=True)
        for number, files in enumerate(mine)
    ]
    results = iter(finish(tasks, pool, Progress("scan", "groups of raw files", quiet=quiet)))
    for one, mine in zip(corpora, loads, strict=True):
        one.slices = [path for _ in mine for path in next(results)]
        one.identities = _settled(one.slices, lake)


def _loads(corpora: Sequence[Coming], lake: Lake, pool: Pool, quiet: bool) -> list[list[tuple[File, ...]]]:
    """For each corpus its files, and the parts of large ones, in groups that are a task each."""
    tasks = [
        Split(lake.url, one.corpus, f"{one.work}/split/{number:05d}.json", entry.path, size)
        for one in corpora
        for number, entry in enumerate(one.files)
        if entry.size > (size := _load_bytes(one.corpus)) and hasattr(find(one.corpus.format), "split")
    ]
    found = zip(tasks, finish(tasks, pool, Progress("split", "large files", quiet=quiet)), strict=True)
    parts = {(task.corpus.name, task.file): tuple(Part(*part) for part in result) for task, result in found}
    loads = []
    for one in corpora:
        sized = (
            ((entry.path, part), part.end - part.begin if part else entry.size)
            for entry in one.files
            for part in parts.get((one.corpus.name, entry.path)) or (None,)
        )
        loads.append(grouped(sized, _load_bytes(one.corpus)))
    return loads


def _load_bytes(corpus: Corpus) -> int:
    """Bytes of raw files that one task scans, about."""
    return int(getattr(find(corpus.format), "PART", SCAN_BYTES))


def _settled(slices: Sequence[str], lake: Lake) -> dict[str, int]:
    """Marks the slices of a corpus; how many records bear which sort of identity."""
    rows = [np.frombuffer(lake.store.read(f"{path}.who"), dtype=np.uint64) for path in slices]
    everyone = np.concatenate([np.empty(0, np.uint64), *rows]).reshape(-1, 2)
    marks = settle(everyone)
    begin = 0
    for path, part in zip(slices, rows, strict=True):
        end = begin + len(part) // 2
        lake.store.replace(f"{path}.marks", Marks(marks.collided[begin:end], marks.occurrence[begin:end]).to_bytes())
        begin = end
    missing = everyone[:, 0] == 0
    counts = {
        "own id": len(everyone) - int((missing | marks.collided).sum()),
        "id and record": int(marks.collided.sum()),
        "record": int(missing.sum()),
        "repeated": int((marks.occurrence > 0).sum()),
    }
    return {name: count for name, count in counts.items() if count}

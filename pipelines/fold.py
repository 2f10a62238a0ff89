"""Many sorted slices become few, before every leaf takes its rows of each.

A leaf has a few rows of each slice, and reads a batch for them: with hundreds of slices (tens of gigabytes of text)
looking for rows would cost more than all else together. So groups of slices are merged into one, a stretch of draws at
a time, and no leaf looks into more than `FEW` of them, or a 64th of all.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tarsia.builders.lake import Lake
from tarsia.builders.records import BATCH, SORTED, arrow_writer
from tarsia.pipelines.coming import Coming, Step
from tarsia.pipelines.pool import Pool, finish
from tarsia.pipelines.progress import Progress
from tarsia.schemas.identity import Draws

FEW = 32  # slices that leaves are built from
MOST = 64  # slices that one task merges, with a batch of each in memory
LONG = 16 * BATCH  # rows of a slice; shorter ones hold long records, of which there are few leaves


@dataclass(frozen=True)
class Fold(Step):
    """Merges some sorted slices into one."""

    slices: tuple[str, ...]

    def run(self) -> Any:
        """The path of the slice, without its ending."""
        store, path = self.store, self.record.removesuffix(".json")
        stamps = [np.frombuffer(store.read(f"{one}.stamps"), np.uint64).reshape(4, -1) for one in self.slices]
        together = np.concatenate(stamps, axis=1)
        with store.spool() as file, ExitStack() as opened:
            slices = [opened.enter_context(store.open(f"{one}.arrow")) for one in self.slices]
            _write(_merged(slices, [each[0] for each in stamps]), file)
            store.publish(file, f"{path}.arrow")
        store.replace(f"{path}.stamps", together[:, np.argsort(together[0], kind="stable")].tobytes())
        return path


def fold(corpora: Sequence[Coming], lake: Lake, pool: Pool, *, quiet: bool) -> None:
    """Gives each sorted corpus the slices that its leaves are built from."""
    groups = [_groups(one) for one in corpora]
    tasks = [
        Fold(lake.url, one.corpus, f"{one.work}/fold/{number:05d}.json", slices)
        for one, mine in zip(corpora, groups, strict=True)
        for number, slices in enumerate(mine)
    ]
    results = iter(finish(tasks, pool, Progress("fold", "groups of slices", quiet=quiet)))
    for one, mine in zip(corpora, groups, strict=True):
        one.folded = [next(results) for _ in mine] or [part["path"] for part in one.sorted]


def _groups(one: Coming) -> list[tuple[str, ...]]:
    """The slices that become one; none where there are few of them, or few leaves."""
    paths, rows = [part["path"] for part in one.sorted], sum(part["rows"] for part in one.sorted)
    size = min(MOST, -(-len(paths) // FEW))
    if size < 2 or rows < LONG * len(paths):
        return []
    return [tuple(paths[begin : begin + size]) for begin in range(0, len(paths), size)]


def _merged(files: Sequence[BinaryIO], draws: Sequence[Draws]) -> Iterator[pa.Table]:
    """The rows of all slices in key order: stretches of draws that have about a batch of rows of each."""
    slices = [pa.ipc.open_file(file) for file in files]
    names = _names(slices)
    readers = [_Slice(one, names) for one in slices]
    everyone, step = np.sort(np.concatenate(draws)), BATCH * len(files)
    begins = [0] * len(files)
    for bound in [*np.unique(everyone[step::step]), None]:
        ends = [len(mine) if bound is None else int(np.searchsorted(mine, bound)) for mine in draws]
        parts = [reader.rows(*run) for reader, *run in zip(readers, begins, ends, strict=True)]
        yield pa.concat_tables(parts).combine_chunks().sort_by("key")
        begins = ends


def _names(slices: Sequence[Any]) -> pa.Array:
    """The raw files of all slices; an Arrow file has one dictionary for all of its batches."""
    known = [one.get_batch(0)["file"].dictionary for one in slices if one.num_record_batches]
    return pa.concat_arrays(known).unique() if known else pa.array([], pa.string())


class _Slice:
    """A sorted slice that is read from its begin to its end, the batch that was read last kept."""

    def __init__(self, reader: Any, names: pa.Array) -> None:
        self._reader, self._names = reader, names
        self._number, self._batch = -1, pa.table({})

    def rows(self, begin: int, end: int) -> pa.Table:
        """Some of its rows."""
        batches = range(begin // BATCH, -(-end // BATCH)) if begin < end else ()
        parts = [self._rows(number, max(begin - number * BATCH, 0), end - number * BATCH) for number in batches]
        return pa.concat_tables([SORTED.empty_table(), *parts])

    def _rows(self, number: int, begin: int, end: int) -> pa.Table:
        if number != self._number:
            table = pa.Table.from_batches([self._reader.get_batch(number)])
            place = table.column_names.index("file")
            named = pa.DictionaryArray.from_arrays(self._codes(table["file"].chunk(0)), self._names)
            self._number, self._batch = number, table.set_column(place, SORTED.field("file"), named)
        return self._batch.slice(begin, end - begin)

    def _codes(self, files: pa.DictionaryArray) -> pa.Array:
        """The numbers of the files of a batch among the names of all."""
        return pc.index_in(files.dictionary, value_set=self._names).take(files.indices)


def _write(tables: Iterator[pa.Table], file: BinaryIO) -> None:
    """Writes a sorted slice, every batch but the last of `BATCH` rows."""
    held = None
    with arrow_writer(file, SORTED) as writer:
        for table in tables:
            held = table if held is None else pa.concat_tables([held, table])
            whole = len(held) // BATCH * BATCH
            writer.write_table(held.slice(0, whole).combine_chunks(), max_chunksize=BATCH)
            held = held.slice(whole)
        if held is not None and len(held):
            writer.write_table(held.combine_chunks())

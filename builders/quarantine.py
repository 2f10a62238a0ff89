"""What was refused, as a table: the reason, the place, and the raw record where it is not too large, or taken down."""

from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import groupby, islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tarsia.builders.duplicates import Refusals
from tarsia.builders.records import BATCH, read_slice, rows_of
from tarsia.builders.storage import Store
from tarsia.builders.tables import put_tables
from tarsia.schemas.shard import QUARANTINE, Stored

TAKEN_DOWN = "taken-down"  # the code of a record that shows what no corpus may hold
_ROWS = 1 << 10  # a row group, since rows may be long
RAW_KEPT = 1 << 20  # bytes of a refused record that the quarantine keeps; beyond, its place alone


def put_quarantine(store: Store, corpus: str, slices: Sequence[str], refused: Refusals) -> Stored:
    """Stores every refusal as a row, in the order of keys. `slices`: the sorted slices that hold the records."""
    keys = pa.array(list(refused), pa.string())
    rows = merge(*(_refused(store, path, refused, keys) for path in slices), key=lambda row: str(row["key"]))
    tables = (pa.Table.from_pylist(some, QUARANTINE) for some in iter(lambda: list(islice(rows, BATCH)), []))
    return put_rows(store, corpus, tables)


def put_rows(store: Store, corpus: str, tables: Iterable[pa.Table]) -> Stored:
    """Stores rows of QUARANTINE, of a corpus, that are in the order of keys."""
    return put_tables(store, f"quarantine/{corpus}/rows", tables, QUARANTINE, rows=_ROWS)


def _refused(store: Store, path: str, refused: Refusals, keys: pa.Array) -> Iterator[dict[str, Any]]:
    """The refused records of a slice, by their `keys`; only its keys are read whole."""
    found = pc.is_in(read_slice(store, path, ("key",))["key"], value_set=keys)
    numbers = pc.indices_nonzero(found).to_numpy()
    for _, batch in groupby(numbers, lambda number: number // BATCH):
        within = [int(number) for number in batch]
        for row in rows_of(store, path, within[0], within[-1] + 1, ("key", "id", "file", "begin", "end", "raw")):
            if row["key"] in refused:
                yield _told(row, *refused[row["key"]])


def _told(row: dict[str, Any], code: str, message: str) -> dict[str, Any]:
    kept = row if code != TAKEN_DOWN else row | {"id": None, "raw": None}
    raw = kept["raw"] if kept["raw"] is not None and len(kept["raw"]) <= RAW_KEPT else None
    return kept | {"raw": raw, "code": code, "message": message}

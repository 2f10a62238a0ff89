"""Repair: a plan that follows another after a small change of the lake, and leaves alone what that leaves alone.

A context is **dissolved** when one of its samples vanished, was taken down, lost its selection or is not what it was
(its bytes, its speech, its cost); all others keep their number and their samples. What is left of the dissolved
contexts and what is new is packed as any plan packs, in the order of the stage, into the freed numbers from first to
last; what finds none comes after all others. So a run that stands anywhere in the parent goes on: what it has seen has
not moved.

No number is ever left empty, since an order with holes would be another thing for every reader. Where fewer contexts
come out than numbers are free, the largest are halved until they are as many; where there are too few samples even for
that (a video that stood alone was taken down), as few more contexts as it takes are dissolved, those of most samples.

The parent's table stays where it is stored: it is read a row group at a time, and column after column, so that a stage
of twenty million samples is repaired in less memory than it was planned in.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tarsia.builders.columns import whole, words
from tarsia.builders.tables import as_schema, plain
from tarsia.manifests.facts import Bools, Int32s, column
from tarsia.manifests.select import Rows
from tarsia.schemas.errors import UserError

_FACTS = ("tokens", "tiles", "frames", "audio_tokens", "checksum", "speech_checksum")
_NAMED = pa.schema([("key", pa.binary(16)), ("copy", pa.int32())])


class Parent(NamedTuple):
    """The plan that is repaired: how many contexts it has, and its samples (SAMPLES), to be read a part at a time."""

    contexts: int
    samples: pq.ParquetFile


class Mended(NamedTuple):
    """Samples by context and slot: context i holds rows[starts[i]:starts[i + 1]]; how many of the parent's stay."""

    rows: Rows
    starts: Rows
    kept: int


def mend(
    parent: Parent,
    everyone: pa.Table,
    fits: Bools,
    shares: Bools,
    order: Rows,
    fill: Callable[[Rows], tuple[Rows, Rows]],
) -> Mended:
    """The contexts of a plan that follows its parent.

    `everyone`: the samples that are selected now, by row, keys as bytes; `order`: their rows in the order of the stage;
    `fill` packs rows that are in that order into contexts that are too.
    """
    at = _now(parent.samples, everyone)
    context = np.empty(len(at), np.int32)
    for part, table in _groups(parent.samples, "context"):
        context[part] = column(table, "context")
    sizes = np.bincount(context, minlength=parent.contexts)
    stays = _same(parent.samples, everyone, at) & fits[at] & (shares[at] | (sizes[context] == 1))
    dissolved = np.zeros(parent.contexts, np.bool_)
    dissolved[context[~stays]] = True
    dissolved |= _more(dissolved, sizes, int(np.count_nonzero(fits)) - int(sizes[~dissolved].sum()))
    kept = ~dissolved[context]
    free = fits.copy()
    free[at[kept]] = False
    rows, starts = fill(order[free[order]])
    starts = _halved(starts, int(dissolved.sum()))
    fresh = len(starts) - 1 - int(dissolved.sum())
    numbers = np.concatenate([np.flatnonzero(dissolved), parent.contexts + np.arange(fresh)]).astype(np.int32)
    whose = np.concatenate([context[kept], np.repeat(numbers, np.diff(starts))])
    together = np.concatenate([at[kept], rows])[np.argsort(whose, kind="stable")]
    ends = np.cumsum(np.bincount(whose, minlength=parent.contexts + fresh))
    return Mended(together, np.concatenate([[0], ends]), int((~dissolved).sum()))


def _groups(samples: pq.ParquetFile, *names: str) -> Iterator[tuple[slice, pa.Table]]:
    """Some columns of a stored table, a row group at a time, and which rows these are."""
    begin = 0
    for group in range(samples.num_row_groups):
        table = samples.read_row_group(group, columns=list(names), use_threads=False)
        yield slice(begin, begin + len(table)), table
        begin += len(table)


# --- what became of the samples of the parent -----------------------------------------------------------------------


def _now(before: pq.ParquetFile, now: pa.Table) -> Int32s:
    """For each placed sample of the parent its row today, -1 where it is not selected any more."""
    found, names = np.full(before.metadata.num_rows, -1, np.int32), _Names(now)
    for part, table in _groups(before, *_NAMED.names):
        named = as_schema(table.select(_NAMED.names), _NAMED)
        found[part] = names.find(words(whole(named["key"])).astype(np.uint64), column(named, "copy"))
    return found


class _Names:
    """The selected samples in the order of their draws: a key is found by its first half, and told by its second."""

    def __init__(self, everyone: pa.Table) -> None:
        draws, rest = (
            np.concatenate([np.empty(0, np.uint64), *(words(some)[:, half] for some in everyone["key"].chunks)])
            for half in (0, 1)
        )
        self._order = np.argsort(draws, kind="stable").astype(np.int32)  # of few runs that ascend: merged, not sorted
        self._draws, self._rest = draws[self._order], rest[self._order]
        self._copies = column(everyone, "copy")[self._order]

    def find(self, keys: npt.NDArray[np.uint64], copies: Int32s) -> Int32s:
        """The rows of copies of samples, -1 where there is none. `keys`: two halves each."""
        found = np.full(len(keys), -1, np.int32)
        asked = np.argsort(keys[:, 0])  # neighbours are looked up one after the other
        places = np.searchsorted(self._draws, keys[asked, 0])
        while len(asked):
            there = places < len(self._draws)
            there[there] = self._draws[places[there]] == keys[asked[there], 0]
            asked, places = asked[there], places[there]
            mine = (self._rest[places] == keys[asked, 1]) & (self._copies[places] == copies[asked])
            found[asked[mine]] = self._order[places[mine]]
            asked, places = asked[~mine], places[~mine] + 1  # another copy, or another sample of the same draw
        return found


def _same(before: pq.ParquetFile, now: pa.Table, at: Int32s) -> Bools:
    """Which samples are today what they were."""
    same = at >= 0
    if not len(now):
        return same
    for name in _FACTS:
        today = _or_zero(now, name)
        for part, table in _groups(before, name):
            same[part] &= _or_zero(table, name) == today[at[part]]
    heard = _Lists(now["spoken"])
    for part, table in _groups(before, "spoken"):
        same[part] &= _Lists(table["spoken"]).equal(heard, at[part])
    return same


def _or_zero(table: pa.Table, name: str) -> npt.NDArray[np.integer]:
    """A column as numbers, 0 where there is none."""
    values = table[name]
    if values.null_count == len(values):
        return np.broadcast_to(np.int32(0), len(values))
    return plain(whole(pc.fill_null(values, 0)))


class _Lists:
    """Lists of numbers: how long each is, where it begins, and the values of all."""

    def __init__(self, lists: pa.ChunkedArray) -> None:
        self.lengths = plain(whole(pc.list_value_length(lists)))
        self.values = np.concatenate([np.empty(0, np.int32), *(plain(some.flatten()) for some in lists.chunks)])
        self.begins = np.cumsum(self.lengths, dtype=np.int32) - self.lengths

    def equal(self, other: "_Lists", rows: Rows) -> Bools:
        """Whether each says what the list in such a row of another says."""
        equal = np.asarray(self.lengths == other.lengths[rows])
        owners = np.repeat(np.arange(len(equal)), np.where(equal, self.lengths, 0))
        inside = np.arange(len(owners)) - np.searchsorted(owners, owners)
        mine, its = self.values[self.begins[owners] + inside], other.values[other.begins[rows[owners]] + inside]
        equal[owners[mine != its]] = False
        return equal


# --- no number stays empty ------------------------------------------------------------------------------------------


def _more(dissolved: Bools, sizes: Rows, left: int) -> Bools:
    """The contexts that must be dissolved too, so that no number stays empty; `left`: samples that are not kept."""
    more = np.zeros(len(sizes), np.bool_)
    lacking = int(dissolved.sum()) - left
    if lacking > 0:
        large = np.argsort(np.where(dissolved, 0, -sizes), kind="stable")
        surplus = np.cumsum(np.where(dissolved, 1, sizes)[large] - 1)
        enough = int(np.searchsorted(surplus, lacking)) + 1
        if not len(surplus) or surplus[-1] < lacking:
            raise UserError(f"{lacking} contexts would stay empty; a repair keeps them all: plan anew with --replace")
        more[large[:enough]] = True
    return more


def _halved(starts: Rows, least: int) -> Rows:
    """At least so many contexts: the largest of them halved, the first of equals first."""
    while (lacking := least - (len(starts) - 1)) > 0:
        sizes = np.diff(starts)
        large = np.argsort(-sizes, kind="stable")[:lacking]
        large = large[sizes[large] > 1]
        starts = np.sort(np.concatenate([starts, starts[large] + (sizes[large] + 1) // 2]))
    return starts

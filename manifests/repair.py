"""Repair: a plan that follows another after a small change of the lake, and leaves alone what that leaves alone.

A context is **dissolved** when one of its samples vanished, was taken down, lost its selection or is not what it was
(its bytes, its speech, its cost); all others keep their number and their samples. What is left of the dissolved
contexts and what is new is packed as any plan packs, in the order of the stage, into the freed numbers from first to
last; what finds none comes after all others. So a run that stands anywhere in the parent goes on: what it has seen has
not moved.

No number is ever left empty, since an order with holes would be another thing for every reader. Where fewer contexts
come out than numbers are free, the largest are halved until they are as many; where there are too few samples even for
that (a video that stood alone was taken down), as few more contexts as it takes are dissolved, those of most samples.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tarsia.builders.tables import as_schema
from tarsia.manifests.decide import Bools, column
from tarsia.manifests.select import Rows
from tarsia.schemas.errors import UserError
from tarsia.schemas.manifest import SAMPLES

_FACTS = ("tokens", "tiles", "frames", "audio_tokens", "checksum", "speech_checksum")


class Parent(NamedTuple):
    """The plan that is repaired: how many contexts it has, and its samples (SAMPLES)."""

    contexts: int
    samples: pa.Table


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

    `everyone`: the samples that are selected now, by row; `order`: their rows in the order of the stage; `fill` packs
    rows that are in that order into contexts that are too.
    """
    at = _now(parent.samples, everyone)
    context = column(parent.samples, "context")
    sizes = np.bincount(context, minlength=parent.contexts)
    stays = (at >= 0) & fits[at] & _same(parent.samples, everyone, at) & (shares[at] | (sizes[context] == 1))
    dissolved = np.bincount(context, ~stays, parent.contexts) > 0
    dissolved |= _more(dissolved, sizes, len(order[fits[order]]) - int(sizes[~dissolved].sum()))
    kept = ~dissolved[context]
    free = fits.copy()
    free[at[kept]] = False
    rows, starts = fill(order[free[order]])
    starts = _halved(starts, int(dissolved.sum()))
    fresh = len(starts) - 1 - int(dissolved.sum())
    numbers = np.concatenate([np.flatnonzero(dissolved), parent.contexts + np.arange(fresh)])
    whose = np.concatenate([context[kept], np.repeat(numbers, np.diff(starts))])
    together = np.concatenate([at[kept], rows])[np.argsort(whose, kind="stable")]
    ends = np.cumsum(np.bincount(whose, minlength=parent.contexts + fresh))
    return Mended(together, np.concatenate([[0], ends]), int((~dissolved).sum()))


def _now(before: pa.Table, now: pa.Table) -> Rows:
    """For each placed sample of the parent its row today, -1 where it is not selected any more."""
    found = pc.index_in(_names(before), value_set=_names(now)).fill_null(-1)
    return np.asarray(found.to_numpy()).astype(np.int64)


def _names(samples: pa.Table) -> pa.Array:
    copies = samples["copy"].cast(pa.string())
    keys = as_schema(samples.select(["key"]), pa.schema([SAMPLES.field("key")]))["key"]
    return pc.binary_join_element_wise(keys, copies, "#").combine_chunks()


def _same(before: pa.Table, now: pa.Table, at: Rows) -> Bools:
    """Which samples are today what they were; those that have no row are compared with any."""
    today = now.select([*_FACTS, "spoken"]).take(pa.array(np.maximum(at, 0))) if len(now) else before
    same = np.ones(len(before), np.bool_)
    for name in _FACTS:
        same &= _or_zero(before, name) == _or_zero(today, name)
    old, new = (table["spoken"].combine_chunks() for table in (before, today))
    lengths = pc.list_value_length(old).to_numpy()
    same &= lengths == pc.list_value_length(new).to_numpy()
    owners = np.repeat(np.arange(len(before)), np.where(same, lengths, 0))
    mask = pa.array(same)
    heard = [lists.filter(mask).flatten().to_numpy() for lists in (old, new)]
    same[owners[heard[0] != heard[1]]] = False
    return same


def _or_zero(table: pa.Table, name: str) -> Rows:
    """A column as numbers, 0 where there is none."""
    return np.asarray(pc.fill_null(table[name], 0).to_numpy())


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

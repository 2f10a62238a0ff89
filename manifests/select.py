"""Which samples a stage trains on, and where in the stage: arithmetic on sorted draws.

The seed gives the circle a starting point. A share takes the first `round(share × n)` samples of a corpus from there
on, wrapping, so counts are exact and a smaller share lies inside every larger one of the same seed. A range leaves the
first of them out, and more than all goes round again: the second copies follow the first.

A sample's **position** in the stage is its rank in its corpus's arc, scaled to [0, 1): equal windows of positions hold
every corpus in proportion and are contiguous draw ranges in all of them, so that mixing costs nothing and no second
shuffle is needed.
"""

from collections.abc import Sequence
from fractions import Fraction
from heapq import heapify, heapreplace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tarsia.schemas.identity import Draws, redraws, start

Rows = npt.NDArray[np.signedinteger[Any]]  # numbers of rows: of arcs, 32 bits


def arc(draws: Draws, seed: int, count: int, skipped: int = 0) -> Rows:
    """`count` rows of sorted draws from the seed's starting point on, `skipped` before them left out, in that order.

    More than there are go round again: every row once more, and once more, and then the first of the arc.
    """
    first = int(np.searchsorted(draws, np.uint64(start(seed)))) + skipped
    rows = np.arange(first, first + count, dtype=np.int32)
    rows %= np.int32(max(1, len(draws)))
    return rows


def copies(rows: Rows) -> Rows:
    """Which copy of its row each place of an arc holds: 0 the first time round, then 1, then 2."""
    again = np.flatnonzero(rows[1:] == rows[:1])[:1]
    if not len(again):
        return np.broadcast_to(np.int64(0), len(rows))
    return np.asarray(np.arange(len(rows)) // int(again[0] + 1))


def reach(draws: Draws, seed: int, sizes: npt.NDArray[Any], asked: int | float) -> Rows:
    """The fewest rows from the seed's starting point on whose sizes come to `asked`; all of them if none do."""
    everyone = arc(draws, seed, len(draws))
    reached = np.cumsum(sizes[everyone])
    enough = int(np.searchsorted(reached, asked)) + 1 if asked > 0 else 0
    return everyone[:enough]


def divide(asked: int, sizes: Sequence[int]) -> list[int]:
    """A whole number divided in proportion to sizes, by the method of Sainte-Laguë (1910): the sum is exact.

    One after the other goes to whoever has the largest size / (2 x what it was given + 1), the first of equals. Unlike
    with largest remainders nobody gets less when more is divided, so a smaller amount lies inside a larger one; and
    nobody gets more than its size before everybody has all.
    """
    total = sum(sizes)
    if not total:
        return [0] * len(sizes)
    given = [asked * size // total for size in sizes]
    given = [max(0, sure - len(sizes)) for sure in given]  # the quota less one each is always reached
    waiting = [(-Fraction(size, 2 * has + 1), at) for at, (size, has) in enumerate(zip(sizes, given, strict=True))]
    heapify(waiting)
    for _ in range(asked - sum(given)):
        _, at = waiting[0]
        given[at] += 1
        heapreplace(waiting, (-Fraction(sizes[at], 2 * given[at] + 1), at))
    return given


def positions(count: int) -> npt.NDArray[np.float64]:
    """The positions of an arc of `count` samples: the middles of `count` equal steps of [0, 1)."""
    return (2 * np.arange(count, dtype=np.float64) + 1) / (2 * max(1, count))


def rounds(arcs: Sequence[Rows]) -> Rows:
    """In which part of a stage each place of its arcs is packed, so that no two copies of a sample meet in a context.

    A stage that repeats samples is packed in as many equal parts of its positions as the most repeated one has copies:
    these are a whole round of their arc apart, hence at least a part. Whole numbers, since a border must not depend on
    rounding: place k of n lies at (2k + 1) / 2n.
    """
    parts = max((int(copies(rows)[-1]) + 1 for rows in arcs if len(rows)), default=1)
    if parts == 1:
        return np.broadcast_to(np.int64(0), sum(map(len, arcs)))
    return np.concatenate([(2 * np.arange(len(rows)) + 1) * parts // max(1, 2 * len(rows)) for rows in arcs])


class Walk(NamedTuple):
    """The human turns of selected samples in the order of their spoken draw. `turns` counts from 0 in a sample."""

    rows: Rows
    turns: npt.NDArray[np.int32]
    places: Rows  # of the arc: copies of a sample have the same row, each its own place


def walk(rows: Rows, draws: Draws, questions: npt.NDArray[np.int32]) -> Walk:
    """All questions of the selected rows, in the order in which they are asked to be spoken.

    The order is a draw of its own, the same for every stage: a small stage walks the questions of a larger one with
    gaps, so that what one had spoken mostly serves the other. Every copy of a question is drawn for itself.
    """
    counts = questions[rows].astype(np.int64)
    places = np.repeat(np.arange(len(rows)), counts)
    turns = np.arange(len(places), dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
    of, ordinals = rows[places], turns + (copies(rows)[places] << 32)
    coins = redraws(draws[of], "spoken", ordinals.astype(np.uint64))
    order = np.lexsort((turns, of, coins))
    return Walk(of[order], turns[order].astype(np.int32), places[order])


def heard(accepted: npt.NDArray[np.bool_], undecided: npt.NDArray[np.bool_], quota: int) -> tuple[Rows, int]:
    """Of walked turns: which are spoken until the quota is met, and how many undecided ones were met before that."""
    reached = np.cumsum(accepted)
    end = int(np.searchsorted(reached, quota)) + 1 if len(reached) and reached[-1] >= quota else len(reached)
    end = 0 if quota == 0 else end
    return np.flatnonzero(accepted[:end]), int(undecided[:end].sum())

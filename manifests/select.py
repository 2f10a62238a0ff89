"""Which samples a stage trains on, and where in the stage: arithmetic on sorted draws.

The seed gives the circle a starting point. A share takes the first `round(share × n)` samples of a corpus from there
on, wrapping, so counts are exact and a smaller share lies inside every larger one of the same seed. A sample's
**position** in the stage is its rank in its corpus's arc, scaled to [0, 1): equal windows of positions hold every
corpus in proportion and are contiguous draw ranges in all of them, so that mixing costs nothing and no second shuffle
is needed.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tarsia.schemas.identity import Draws, redraws, start
from tarsia.schemas.recipe import Amount

Rows = npt.NDArray[np.int64]


def arc(draws: Draws, seed: int, count: int) -> Rows:
    """The rows of the first `count` of sorted draws, from the seed's starting point on, in that order."""
    first = int(np.searchsorted(draws, np.uint64(start(seed))))
    return (first + np.arange(count, dtype=np.int64)) % max(1, len(draws))


def take(draws: Draws, seconds: npt.NDArray[np.float64], seed: int, asked: int | float) -> Rows:
    """A number of samples (int), or the fewest samples whose audio reaches `asked` seconds (float)."""
    if isinstance(asked, int):
        return arc(draws, seed, asked)
    everyone = arc(draws, seed, len(draws))
    reached = np.cumsum(seconds[everyone])
    enough = int(np.searchsorted(reached, asked)) + 1 if asked > 0 else 0
    return everyone[:enough]


def divide(amount: Amount, counts: Sequence[int], seconds: Sequence[float]) -> list[int | float]:
    """What an amount asks of each corpus of a kind: a number of samples (int) or of seconds (float).

    A share is taken of every corpus; hours are divided in proportion to the hours that each has.
    """
    if amount.unit == "%":
        return [amount.of(count) for count in counts]
    asked, total = float(amount.number * 3600), sum(seconds)
    return [asked * own / total if total else 0.0 for own in seconds]


def positions(count: int) -> npt.NDArray[np.float64]:
    """The positions of an arc of `count` samples: the middles of `count` equal steps of [0, 1)."""
    return (2 * np.arange(count, dtype=np.float64) + 1) / (2 * max(1, count))


class Walk(NamedTuple):
    """The human turns of selected samples in the order of their spoken draw. `turns` counts from 0 in a sample."""

    rows: Rows
    turns: npt.NDArray[np.int32]


def walk(rows: Rows, draws: Draws, questions: npt.NDArray[np.int32]) -> Walk:
    """All questions of the selected rows, in the order in which they are asked to be spoken.

    The order is a draw of its own, the same for every stage: a small stage walks the questions of a larger one with
    gaps, so that what one had spoken mostly serves the other.
    """
    counts = questions[rows].astype(np.int64)
    of = np.repeat(rows, counts)
    turns = np.arange(len(of), dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
    coins = redraws(draws[of], "spoken", turns.astype(np.uint64))
    order = np.lexsort((turns, of, coins))
    return Walk(of[order], turns[order].astype(np.int32))


def heard(accepted: npt.NDArray[np.bool_], undecided: npt.NDArray[np.bool_], quota: int) -> tuple[Rows, int]:
    """Of walked turns: which are spoken until the quota is met, and how many undecided ones were met before that."""
    reached = np.cumsum(accepted)
    end = int(np.searchsorted(reached, quota)) + 1 if len(reached) and reached[-1] >= quota else len(reached)
    end = 0 if quota == 0 else end
    return np.flatnonzero(accepted[:end]), int(undecided[:end].sum())

"""Batches of samples that last alike: what speech encoders are given, with hardly any padding.

A batch lasts as long as its longest sample, as often as it has samples, and stays within a budget. Inside a window of
positions the samples are sorted by length and cut: the longest that is left, and as many of the next as the budget
holds and as are **alike**, at least four fifths as long. So no batch is padded by more than a quarter, and a stage of a
few minutes is cut into as many batches as it has lengths, instead of all in one that is mostly padding; among a hundred
thousand samples neighbours are alike anyway, and the budget alone cuts. No other batches of a window are fewer under
these two rules, since the longest sample's batch may hold so many and none takes room from the others more than the
next longest do. Then the batches of a window are shuffled, so that neither length nor
corpus drifts along the stage, while every window stays a contiguous range of draws in every corpus.

The reference for this is lhotse's dynamic bucketing, which sorts a buffer into about 30 buckets and fills batches
from one bucket at a time: batches depend on its random state, and lengths differ within a bucket by some percent.
"""

from fractions import Fraction

import numpy as np

from tarsia.builders.packing import Int64s, Packing, shuffle

WINDOW = 100_000  # samples that are sorted among each other
ALIKE = Fraction(4, 5)  # of the longest of a batch: none in it is shorter


def bucket(lengths: Int64s, budget: int, most: int, *, seed: int, window: int = WINDOW) -> Packing:
    """Batches of at most `most` samples and of at most `budget` with their padding, every sample in exactly one.

    Samples come in the order of their position in the stage and are cut into windows of about equal size. Every length
    must be in 1..budget, in the budget's own unit.
    """
    wrong = (lengths < 1) | (lengths > budget)
    if wrong.any():
        first = int(wrong.argmax())
        raise ValueError(f"sample {first} lasts {lengths[first]}; a batch takes samples of 1 to {budget}")
    members, sizes = np.empty(len(lengths), np.int32), [np.zeros(1, np.int64)]
    windows, numbered = max(1, round(len(lengths) / window)), 0
    for number in range(windows if len(lengths) else 0):
        begin, end = (edge * len(lengths) // windows for edge in (number, number + 1))
        mine = lengths[begin:end]
        order = np.argsort(-mine, kind="stable")
        batch = np.empty(len(mine), np.int64)
        cut = _cut(mine[order], budget, most, ALIKE)
        batch[order] = np.repeat(np.arange(len(cut)), cut)
        shuffled, size = shuffle(batch, seed, numbered)
        members[begin:end] = begin + shuffled
        sizes.append(size)
        numbered += len(size)
    bound, binding = fewest(lengths, budget, most)
    return Packing(members, np.cumsum(np.concatenate(sizes)), bound, binding)


def fewest(lengths: Int64s, budget: int, most: int) -> tuple[int, str]:
    """The fewest batches there can be, however padded, and what sets it: "seconds" or "samples", their most."""
    falling = np.sort(lengths)[::-1]
    bound = len(_cut(falling, budget, most, Fraction(0)))
    anyhow = len(_cut(falling, budget, max(1, len(lengths)), Fraction(0)))
    return bound, "samples" if bound > anyhow else "seconds"


def _cut(falling: Int64s, budget: int, most: int, alike: Fraction) -> list[int]:
    """The sizes of batches of falling lengths, cut one after the other."""
    shortest = -(-falling * alike.numerator // alike.denominator)
    ends = np.searchsorted(-falling, -shortest, side="right")
    ends = np.minimum(ends, np.arange(len(falling)) + np.minimum(budget // falling, most))
    sizes, at = list[int](), 0
    while at < len(falling):
        sizes.append(int(ends[at]) - at)
        at += sizes[-1]
    return sizes

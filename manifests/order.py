"""Order: which context comes when, in every epoch, without a list of the stage.

Epoch 0 is the manifest's own order. For a later epoch the circle of contexts is turned by a drawn offset and cut into
windows of `WINDOW`; the windows come in a drawn order (the short one last: it holds others every time) and the contexts
of a window in another. All of it is a function of the manifest's digest and the epoch, so any position is found at
once and a resumed run needs no memory of what came before. Contexts of a window are neighbours in the manifest, which
puts their samples into a contiguous range of every corpus: a reshuffled epoch reads as locally as the first.

A **step** is one global batch: positions `begin` to `end` of an epoch. Batches never cross the border of an epoch.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tarsia.schemas.identity import draw_of, redraw, redraws

WINDOW = 4096  # contexts that are shuffled among each other
_ROUNDS = 64  # of swap-or-not; four times the bits of 65,536 windows

Int64s = npt.NDArray[np.int64]


class Step(NamedTuple):
    """One global batch: positions `begin` to `end` - 1 of an epoch."""

    epoch: int
    begin: int
    end: int


def steps(contexts: int, batch: int, epochs: int, *, epoch: int = 0, position: int = 0) -> Iterator[Step]:
    """The global batches from a position on, to the end of the last epoch."""
    for number in range(epoch, epochs):
        for begin in range(position if number == epoch else 0, contexts, batch):
            yield Step(number, begin, min(begin + batch, contexts))


def share(step: Step, rank: int, world: int) -> range:
    """The positions of a step that a rank reads: its slice, as even as they come."""
    size = step.end - step.begin
    return range(step.begin + size * rank // world, step.begin + size * (rank + 1) // world)


class Order:
    """The contexts of a stage by epoch and position. `digest`: the manifest's, in hex.

    `more`: contexts that a repair added, which come after all others in every epoch.
    """

    def __init__(self, digest: str, contexts: int, *, window: int = WINDOW, more: int = 0) -> None:
        self.contexts, self.window, self.more = contexts, window, more
        self._draw = draw_of(digest)
        self._windows: OrderedDict[tuple[int, int], Int64s] = OrderedDict()

    def context(self, epoch: int, position: int) -> int:
        """The number of the context at a position, 0 <= position < contexts + more."""
        if epoch == 0 or position >= self.contexts:
            return position
        slot, inside = divmod(position, self.window)
        if (epoch, slot) not in self._windows:
            self._windows[epoch, slot] = self._window(epoch, slot)
            if len(self._windows) > 2:
                self._windows.popitem(last=False)
        return int(self._windows[epoch, slot][inside])

    def epoch(self, epoch: int) -> Int64s:
        """All contexts of an epoch in their order, for one who has room for them."""
        if epoch == 0:
            return np.arange(self.contexts + self.more)
        slots = range((self.contexts + self.window - 1) // self.window)
        last = self.contexts + np.arange(self.more)
        return np.concatenate([np.empty(0, np.int64), *(self._window(epoch, slot) for slot in slots), last])

    def _window(self, epoch: int, slot: int) -> Int64s:
        """The contexts of the window that comes at a slot of the epoch."""
        key = redraw(self._draw, "epoch", epoch)
        full = self.contexts // self.window
        window = _permuted(slot, full, key) if slot < full else slot
        first = redraw(key, "turn") % self.contexts + window * self.window
        places = np.arange(min(self.window, self.contexts - window * self.window), dtype=np.uint64)
        drawn = redraws(places ^ np.uint64(redraw(key, "window", window)), "inside")
        return (first + np.argsort(drawn, kind="stable")) % self.contexts


def _permuted(number: int, size: int, key: int) -> int:
    """A bijection of 0..size-1 without a table: swap-or-not (Hoang, Morris & Rogaway 2012)."""
    for turn in range(_ROUNDS):
        partner = (redraw(key, "partner", turn) - number) % size
        if redraw(key ^ max(number, partner), "swap", turn) & 1:
            number = partner
    return number

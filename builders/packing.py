"""Fill contexts with whole samples, in hardly more contexts than arithmetic demands.

**Draw and close.** Walk the samples in the fair order they come in. Put them into a context while its gap is wide, then
close it exactly with a pair: one of the next few samples, and a partner of the missing length from the shelves, which
hold the samples by length. Lengths are small integers and a window holds nearly all of them, so the exact partner is
almost always there. Best fit decreasing, the usual choice (Krell et al. 2021, Ding et al. 2024), needs up to 0.7 %
more contexts and puts equal lengths, hence one source, together; a walk in a fair order mixes them as chance would.

Where many samples exceed half a context, no two of those can meet, and walking loses to greed: always the longest that
fits (the bins of first fit decreasing, one after the other). That is the same code without the walk, so a window is
also filled that way unless walking has already reached its bound, and the smaller count wins.

Windows make this a stream. What a window places badly waits for the next one, once. Nothing here reads a file, a clock
or a random state: equal inputs give equal contexts, compiled or not.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tarsia.schemas.identity import redraws

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

AHEAD = 32  # samples of the walk that are tried for closing a context
WAIT = 8  # about one sample in WAIT, at most, waits for the next window
WORTH = 5_000  # fair mixing is worth one context in WORTH: greed must save more
COMPILE = 200_000  # samples; fewer are packed by plain Python before numba is even imported (1.1 CPU seconds)


class Packing(NamedTuple):
    """Which samples share a context, in the order of training."""

    members: Int32s  # sample numbers, context after context
    starts: Int64s  # context i holds members[starts[i]:starts[i + 1]]
    bound: int  # no packing has fewer contexts
    binding: str  # what sets the bound: "tokens", "halves" (too many samples near or above half a context), "units"


def fill(
    costs: Int32s,
    capacity: int,
    *,
    seed: int,
    units: Int32s | None = None,
    unit_cap: int | None = None,
    window: int = 100_000,
) -> Packing:
    """Contexts of at most `capacity` tokens and `unit_cap` units (image tiles, say), every sample in exactly one.

    Samples come in the order of their position in the stage, already a fair random order of the mixture. The contexts
    of a window stay in its place and are shuffled there, so that nothing drifts along the stage; inside a context the
    samples keep their order. Every cost must be in 1..capacity: over-long samples are the caller's to list.
    """
    if (units is None) is not (unit_cap is None):
        raise ValueError("units and unit_cap come together; only one of them was given")
    if units is None or unit_cap is None:
        units, unit_cap = np.zeros(len(costs), np.int32), 0
    _refuse(costs, 1, capacity, "tokens")
    _refuse(units, 0, unit_cap, "units")
    bound, binding, worth, whole = _measure(costs, capacity, units, unit_cap)
    pack = _compiled() if len(costs) >= COMPILE else _draw_and_close

    members = np.empty(len(costs), np.int32)
    sizes = [np.zeros(1, np.int64)]
    waiting = members[:0]
    placed = numbered = 0
    for start in range(0, len(costs), window):
        end = min(start + window, len(costs))
        block = np.concatenate([waiting, np.arange(start, end, dtype=np.int32)])
        cost, unit, value = costs[block], units[block], worth[block]
        context = _place(pack, cost, capacity, unit, unit_cap, value, whole)
        late = _badly_placed(context, value, whole, len(waiting))
        if end == len(costs) and late.any():  # no next window: one more try, among themselves
            again = _place(pack, cost[late], capacity, unit[late], unit_cap, value[late], whole)
            if again.max() + 1 < len(np.unique(context[late])):
                context[late] = context.max() + 1 + again
            late[:] = False
        waiting, block, context = block[late], block[~late], context[~late]

        shuffled, size = shuffle(context, seed, numbered)
        members[placed : placed + len(block)] = block[shuffled]
        sizes.append(size[size > 0])
        placed += len(block)
        numbered += len(size)
    return Packing(members, np.cumsum(np.concatenate(sizes)), bound, binding)


def shuffle(context: Int64s, seed: int, numbered: int) -> tuple[Int64s, Int64s]:
    """The samples of a window, context after context in the order of a draw, and how many each context has.

    `context` is that of every sample, from 0; `numbered`: how many contexts the windows before have. Inside a context
    the samples keep their order.
    """
    numbers = np.arange(numbered, numbered + context.max() + 1, dtype=np.uint64)
    draws = redraws(np.full(len(numbers), seed % 2**64, np.uint64), "order of contexts", numbers)
    rank = np.argsort(np.argsort(draws, kind="stable"))[context]
    return _sorted(rank), np.bincount(rank, minlength=len(numbers))


def lower_bound(
    costs: Int32s, capacity: int, units: Int32s | None = None, unit_cap: int | None = None
) -> tuple[int, str]:
    """The best known lower bound on the number of contexts, and what sets it: "tokens", "halves" or "units"."""
    bound, binding, _, _ = _measure(costs, capacity, units, unit_cap)
    return bound, binding


def _measure(costs: Int32s, capacity: int, units: Int32s | None, unit_cap: int | None) -> tuple[int, str, Int32s, int]:
    """The bound, what sets it, and in that measure the worth of every sample and of a full context.

    Tokens set it unless another bound is 0.2 % higher: below that, windows differ in what binds them, and a gap that
    one window cannot fill may be filled in the next.
    """
    tokens = -(-int(costs.sum(dtype=np.int64)) // capacity)
    measures = {"tokens": (tokens, costs, capacity)}
    for name, sizes, size in ("halves", costs, capacity), ("units", units, unit_cap):
        if sizes is not None and size:
            bound, worth = _dual_bound(sizes, size)
            measures[name] = bound, worth[sizes], int(worth[size])
    binding = max(measures, key=lambda name: measures[name][0])
    bound = measures[binding][0]
    if 500 * bound <= 501 * tokens:
        binding = "tokens"
    return bound, binding, *measures[binding][1:]


def _dual_bound(sizes: Int32s, capacity: int) -> tuple[int, Int32s]:
    """The best bound by the dual feasible functions of Fekete & Schepers (2001), and the worth of each size by it.

    U^(p) raises sizes above capacity - p to a whole context and lowers sizes below p to nothing, for any p up to half;
    then u^(k) rounds down to k-ths but keeps exact multiples of 1/(k + 1), for k up to 20 (here 0: not at all). What
    fits into a context still fits after both, so worths add up to a bound just as the sizes themselves do.
    """
    many = np.bincount(sizes, minlength=capacity + 1)
    size = np.arange(capacity + 1)
    p = np.arange(capacity // 2 + 1)
    raised = np.concatenate([[0], np.cumsum(many[::-1])])[p]  # how many are above capacity - p
    best, worth = -1, size
    for k in range(21):
        steps, rest = np.divmod((k + 1) * size, capacity)
        whole, rounded = (k * capacity, np.where(rest == 0, k * size, capacity * steps)) if k else (capacity, size)
        below = np.concatenate([[0], np.cumsum(many * rounded)])  # the worth of all smaller sizes
        total = raised * whole + below[capacity - p + 1] - below[p]
        if -(-int(total.max()) // whole) > best:
            cut = int(total.argmax())
            best = -(-int(total[cut]) // whole)
            worth = np.where(size < cut, 0, np.where(size > capacity - cut, whole, rounded))
    return best, worth.astype(np.int32)


def _refuse(sizes: Int32s, least: int, most: int, what: str) -> None:
    """Name the first sample that no context can hold."""
    wrong = (sizes < least) | (sizes > most)
    if wrong.any():
        first = int(wrong.argmax())
        raise ValueError(f"sample {first} has {sizes[first]} {what}; a context takes samples of {least} to {most}")


def _place(
    pack: Callable[..., int], cost: Int32s, capacity: int, unit: Int32s, unit_cap: int, value: Int32s, whole: int
) -> Int64s:
    """The context number of each sample: by walking or, where that needs clearly more contexts, by greed."""
    weights = np.flatnonzero(np.bincount(unit))
    width = capacity + 1
    shelf = np.searchsorted(weights, unit) * width + cost  # one for each length at each number of units
    stock = np.bincount(shelf, minlength=len(weights) * width)
    back = np.cumsum(stock)
    number = np.arange(len(stock))
    filled = np.maximum.accumulate(np.where((stock > 0) | (number % width == 0), number, 0))
    columns = (cost, unit, shelf, _sorted(shelf), weights, back - stock, back, filled, np.full(len(cost), -1))

    bound = -(-int(value.sum()) // whole)
    scarce = int(20 * unit_cap * bound < 21 * int(unit.sum()))  # the cap is hardly more than what is needed on average
    near = min(8 * int(cost.sum()) // (3 * len(cost)), capacity - 1)  # pairs close gaps up to 2.7 mean lengths well
    best, fewest = shelf, 2 * len(cost)
    for gap, ahead in (near, AHEAD), (capacity, 0):
        copies = [column.tolist() if pack is _draw_and_close else column.astype(np.int32) for column in columns]
        contexts = pack(*copies, capacity, unit_cap, scarce, gap, ahead)
        if contexts + contexts // WORTH < fewest:
            best, fewest = np.asarray(copies[-1], np.int64), contexts
        if fewest <= bound + bound // WORTH:
            break
    return best


def _badly_placed(context: Int64s, value: Int32s, whole: int, waited: int) -> Bools:
    """The samples of the emptiest contexts, except of those with one of the first `waited`, which waited before."""
    spare = whole - np.bincount(context, value).astype(np.int64)
    spare[context[:waited]] = 0
    emptiest = np.argsort(-spare, kind="stable")[:-1]  # one context always stays
    size = np.bincount(context)[emptiest]
    some = np.cumsum(size) - size < len(context) // WAIT
    late = np.zeros(len(spare), bool)
    late[emptiest[some & (spare[emptiest] > 0)]] = True
    return late[context]


def _sorted(values: Int64s) -> Int64s:
    """A stable argsort; numpy counts 16-bit numbers instead of comparing them, four times as fast."""
    small = values.max() < 1 << 16
    return np.argsort(values.astype(np.uint16) if small else values, kind="stable")


@cache
def _compiled() -> Callable[..., int]:
    """`_draw_and_close` as machine code, or as it is where numba is not installed."""
    try:
        from numba import njit
        from numba.extending import register_jitable
    except ImportError:
        return _draw_and_close
    register_jitable(_filled_at_or_below)
    compiled: Callable[..., int]
    try:
        compiled = njit(cache=True)(_draw_and_close)
    except RuntimeError:  # nowhere to keep machine code: compile once a process
        compiled = njit()(_draw_and_close)
    return compiled


# From here on numba compiles: plain loops over lists (or int32 arrays) of small integers.


def _draw_and_close(
    cost: list[int],
    unit: list[int],
    shelf: list[int],  # by sample: q * (capacity + 1) + c is the shelf of samples with weights[q] units and c tokens
    shelved: list[int],  # samples, shelf after shelf, on each the earliest first
    weights: list[int],
    front: list[int],  # by shelf: where its remaining samples start in `shelved`
    back: list[int],  # by shelf: where they end
    filled: list[int],  # by shelf: itself if any remain, else a step towards the next filled one below
    context: list[int],  # by sample: -1, to be replaced by its context
    capacity: int,
    unit_cap: int,
    scarce: int,  # 1 where spare units are waste as spare tokens are, else 0
    near: int,  # a wider gap is filled by walking; none is wider than `capacity`
    ahead: int,  # samples of the walk that may be one of a pair; 0: no pairs
) -> int:
    """Place every sample and return the number of contexts."""
    width = capacity + 1
    contexts = 1
    gap = capacity
    room = unit_cap
    at = 0
    while True:
        while at < len(cost) and context[at] >= 0:
            at += 1
        if at == len(cost):
            return contexts
        one = two = 0  # the shelves to take from; shelf 0 is that of length 0, always empty
        if gap > near and cost[at] <= gap and unit[at] <= room:
            one = shelf[at]
        elif gap > 0:
            least = width + unit_cap
            most = -1
            tried = 0
            i = at
            while i < len(cost) and tried < ahead:  # the pair that wastes least, its partner from the fullest shelf
                if context[i] < 0:
                    tried += 1
                    for q in range(len(weights) if cost[i] <= gap else 0):
                        left = room - unit[i] - weights[q]
                        if left < 0:
                            break
                        base = q * width
                        partner = _filled_at_or_below(filled, base + gap - cost[i])
                        if partner == shelf[i] and back[partner] - front[partner] == 1:  # that one is i itself
                            partner = _filled_at_or_below(filled, partner - 1)
                        waste = base + gap - cost[i] - partner + scarce * left
                        stock = back[partner] - front[partner]
                        if waste < least or (waste == least and stock > most):
                            least = waste
                            most = stock
                            one = shelf[i]
                            two = partner if partner > base else 0
                i += 1
            if one == 0:  # the longest that fits
                longest = 0
                for q in range(len(weights)):
                    single = _filled_at_or_below(filled, q * width + gap)
                    if weights[q] <= room and single - q * width > longest:
                        longest = single - q * width
                        two = single
        if one == 0 and two == 0:
            contexts += 1
            gap = capacity
            room = unit_cap
        for taken in (one, two):
            if taken > 0:
                sample = shelved[front[taken]]
                context[sample] = contexts - 1
                gap -= cost[sample]
                room -= unit[sample]
                front[taken] += 1
                if front[taken] == back[taken]:
                    filled[taken] = taken - 1


def _filled_at_or_below(filled: list[int], shelf: int) -> int:
    """The nearest shelf with samples, of the same units and no greater length; that of length 0 if all are empty."""
    while filled[shelf] != shelf:
        filled[shelf] = filled[filled[shelf]]  # halves the way for those who ask next
        shelf = filled[shelf]
    return shelf

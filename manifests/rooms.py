"""Where the samples of a stage go: what room each finds, and the contexts that it shares with others.

This is arithmetic on lengths and positions; what a sample is, and what becomes of it on disk, is the plan's matter. The
windows of a stage come in an order of their own, which lineage asks for to find a sample again.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from tarsia.builders.buckets import bucket, fewest
from tarsia.builders.columns import whole
from tarsia.builders.packing import Packing, fill, lower_bound
from tarsia.builders.tables import plain
from tarsia.manifests.decide import Selected, mute, seen
from tarsia.manifests.facts import Bools, Int32s, column
from tarsia.manifests.repair import Parent, mend
from tarsia.manifests.select import Rows, positions
from tarsia.schemas.identity import redraws
from tarsia.schemas.recipe import Pack

LOT = 100_000  # samples of a window, which share contexts; the windows of a stage come in an order of its own

Floats = npt.NDArray[np.float64]
Int8s = npt.NDArray[np.int8]


def stage_order(selected: Sequence[Selected], position: Floats) -> Rows:
    """All selected samples by their position in the stage; those at one position by draw."""
    merged = np.argsort(position, kind="stable")  # one ascending run a corpus, which it merges
    reached = position[merged]
    same, alike = reached[1:] == reached[:-1], np.zeros(len(merged), np.bool_)
    order = merged.astype(np.int32)
    del merged, reached
    alike[1:] |= same
    alike[:-1] |= same
    tied, draws = order[alike], np.empty(int(alike.sum()), np.uint64)
    begin = 0
    for one in selected:
        mine = (tied >= begin) & (tied < begin + len(one.rows))
        draws[mine] = one.corpus.words[one.rows[tied[mine] - begin], 0]
        begin += len(one.rows)
    order[alike] = tied[np.lexsort((draws, position[tied]))]
    return order


class Rooms(NamedTuple):
    """What room each sample finds. A context that is shared leaves `capacity` tokens beside its system prompt.

    Lengths and `longest` are microseconds of sound, of a batch by seconds with its padding.
    """

    capacity: int
    units: Int32s  # tiles and frames
    unit_cap: int | None
    unspoken: Int8s  # number in UNSPOKEN
    fits: Bools
    shares: Bools  # a context with others
    lengths: Rows
    longest: int | None
    most: int  # samples of a batch


UNSPOKEN = ("", "unspoken: refused", "unspoken: pending")  # why a sample that needs a voice has none


def unspoken_of(selected: Sequence[Selected]) -> Int8s:
    """For each selected sample the number of its reason in UNSPOKEN, 0 where it lacks nothing."""
    reasons = [mute(one) * (np.int8(1) + (one.hearing.pending > 0).astype(np.int8)) for one in selected]
    return np.concatenate([np.empty(0, np.int8), *reasons])


def rooms_of(everyone: pa.Table, pack: Pack | None, budget: int, carried: dict[str, int], unspoken: Int8s) -> Rooms:
    """Some kinds and media stay alone; so does what fits only when its own, smaller, system prompt is there."""
    tokens = column(everyone, "tokens")
    units = column(everyone, "tiles") + column(everyone, "frames")
    room = budget - seen(everyone, carried)
    alone = np.full(len(tokens), pack is None)
    longest = round(pack.seconds * 1_000_000) if pack and pack.seconds else None
    for name in pack.alone if pack and longest is None else ():
        alone |= _holds(everyone, name)
    capacity = int(room[~alone].min(initial=budget - carried["text"]))
    unit_cap = pack.tiles if pack else None
    fits = (tokens <= room) & (units <= (unit_cap or units)) & (column(everyone, "length") > 0) & (unspoken == 0)
    lengths = np.empty(0, np.int64)
    if longest is not None:
        lengths = np.rint(column(everyone, "seconds") * 1_000_000).astype(np.int64)
        fits &= (lengths > 0) & (lengths <= longest)
    shares = fits & ~alone & (tokens <= capacity)
    return Rooms(capacity, units, unit_cap, unspoken, fits, shares, lengths, longest, pack.samples if pack else 1)


def _holds(samples: pa.Table, name: str) -> Bools:
    """Which samples have a medium in them, or are of a kind."""
    values = whole(samples.column("modality" if name in ("text", "image", "video", "audio") else "kind"))
    named = [name in value.split("+") for value in values.dictionary.to_pylist()]
    return np.asarray(np.array(named, np.bool_)[plain(values.indices)])


class Filled(NamedTuple):
    """Samples in training order; context i holds rows[starts[i]:starts[i + 1]]."""

    rows: Rows
    starts: Rows
    bound: int
    binding: str
    fullness: float
    kept: int | None


def filled(
    everyone: pa.Table, position: Floats, order: Rows, rooms: Rooms, parts: Rows, purpose: str, parent: Parent | None
) -> Filled:
    """All that fits in contexts, with figures of the whole."""

    def packed(rows: Rows) -> tuple[Rows, Rows]:
        return _contexts(everyone, position, rows, rooms, parts, purpose)

    tokens, kept = column(everyone, "tokens"), None
    if parent is None:
        rows, starts = packed(order[rooms.fits[order]])
    else:
        rows, starts, kept = mend(parent, everyone, rooms.fits, rooms.shares, order, packed)
    bound, binding = _bound(rooms.shares, tokens, rooms)
    alone = int(np.count_nonzero(rooms.fits)) - int(np.count_nonzero(rooms.shares))
    shared = int(np.count_nonzero(rooms.shares[rows[starts[:-1]]]))  # one that stays alone is the first of its context
    sizes, room = (tokens, rooms.capacity) if rooms.longest is None else (rooms.lengths, rooms.longest)
    fullness = int(sizes.sum(where=rooms.shares, dtype=np.int64)) / (shared * room) if shared else 1.0
    return Filled(rows, starts, bound + alone, binding, fullness, kept)


def _contexts(
    everyone: pa.Table, position: Floats, order: Rows, rooms: Rooms, parts: Rows, purpose: str
) -> tuple[Rows, Rows]:
    """Packed contexts keep the order of their windows; samples that stay alone lie between them by their positions."""
    tokens, shares = column(everyone, "tokens"), rooms.shares[order]
    together, alone = order[shares], order[~shares]
    members, starts, reached = list[Rows](), [np.zeros(1, np.int64)], 0
    of_pack = list[Rows]()  # the part of each packed context
    for part in range(int(parts.max(initial=0)) + 1):
        mine = together[parts[together] == part] if parts.any() else together
        packing = _packed(mine, tokens, rooms, _seed(purpose, part))
        starts.append(packing.starts[1:] + reached)
        reached += len(mine)
        members.append(mine[packing.members])
        of_pack.append(np.full(len(packing.starts) - 1, part, np.int32))
    begins, rows = np.concatenate(starts), np.concatenate([*members, alone])
    del shares, together, mine, members, packing
    packs = len(begins) - 1
    sequence = np.argsort(np.concatenate([positions(packs), position[alone]]), kind="stable").astype(np.int32)
    in_parts = np.concatenate([*of_pack, parts[alone].astype(np.int32)])[sequence]
    sequence = sequence[_by_lot(in_parts, len(rows), _seed(purpose, 0))]
    first = np.concatenate([begins[:-1], begins[-1] + np.arange(len(alone))]).astype(np.int32)[sequence]
    length = np.concatenate([np.diff(begins), np.ones(len(alone), np.int64)]).astype(np.int32)[sequence]
    ends = np.concatenate([[0], np.cumsum(length, dtype=np.int64)])
    at = np.repeat(first - ends[:-1].astype(np.int32), length)
    at += np.arange(len(rows), dtype=np.int32)
    return rows[at], ends


def _packed(mine: Rows, tokens: Int32s, rooms: Rooms, seed: int) -> Packing:
    """Contexts filled with tokens, or batches of samples that last alike."""
    if rooms.longest is not None:
        return bucket(rooms.lengths[mine], rooms.longest, rooms.most, seed=seed, window=LOT)
    units = rooms.units[mine] if rooms.unit_cap else None
    return fill(tokens[mine], rooms.capacity, seed=seed, units=units, unit_cap=rooms.unit_cap, window=LOT)


def _bound(mine: Bools, tokens: Int32s, rooms: Rooms) -> tuple[int, str]:
    if rooms.longest is not None:
        return fewest(rooms.lengths[mine], rooms.longest, rooms.most)
    return lower_bound(tokens[mine], rooms.capacity, rooms.units[mine] if rooms.unit_cap else None, rooms.unit_cap)


def _by_lot(parts: Rows, samples: int, seed: int) -> Rows:
    """Contexts with their windows in the order of a draw, inside each part of the stage.

    Stages of one seed take of the same arcs; so they do not go through them in the same order.
    """
    numbers = np.arange(max(1, round(samples / LOT)), dtype=np.uint64)
    draws = redraws(np.full(len(numbers), seed, np.uint64), "order of windows", numbers)
    turn = np.empty(len(numbers), np.int32)
    turn[np.argsort(draws, kind="stable")] = np.arange(len(numbers), dtype=np.int32)
    window = np.arange(len(parts)) * len(numbers) // max(1, len(parts))
    return np.argsort(parts * np.int32(len(numbers)) + turn[window], kind="stable")


def _seed(purpose: str, part: int) -> int:
    return xxhash.xxh3_64_intdigest(f"tarsia\0fill\0{purpose}{f'{chr(0)}{part}' if part else ''}".encode()) >> 1


def turns(samples: int, seed: int, stage: str) -> Rows:
    """When each window of a stage of so many samples, all in one part, has its turn: where its contexts went."""
    numbers = np.arange(max(1, round(samples / LOT)))
    turn = np.empty_like(numbers)
    turn[_by_lot(np.zeros_like(numbers), samples, _seed(f"{seed}\0{stage}", 0))] = numbers
    return turn

"""A stage, planned: everything decided is put into contexts and written down, with what became of the ask.

Samples are kept corpus after corpus, as views of the lake's tables. Once the contexts are known they are laid out in
training order, a column at a time to be digested and a few contexts at a time to be stored: twenty million rows of
SAMPLES never stand side by side. Reading the tables and storing the manifest is the pipeline's work.
"""

from collections.abc import Iterator, Sequence
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from tarsia.builders.buckets import bucket, fewest
from tarsia.builders.chat import prompt_of
from tarsia.builders.columns import many, whole
from tarsia.builders.packing import Packing, fill, lower_bound
from tarsia.builders.tables import ROWS, as_schema, columns_digest, plain, rows_digest
from tarsia.manifests.decide import (
    Bools,
    Corpus,
    Int32s,
    Selected,
    choose,
    column,
    decide,
    groups,
    lean,
    mute,
    picked,
    seen,
)
from tarsia.manifests.repair import Parent, mend
from tarsia.manifests.select import Rows, copies, positions, rounds
from tarsia.schemas.identity import redraws
from tarsia.schemas.manifest import CONTEXTS, SAMPLES, UNPLACED, WINDOW, Ask, Count, Deviation
from tarsia.schemas.recipe import Context, Pack, Recipe
from tarsia.schemas.shard import Stored

PROMPTS = ("text", "image", "video")

LOT = 100_000  # samples of a window, which share contexts; the windows of a stage come in an order of its own

Floats = npt.NDArray[np.float64]
Int8s = npt.NDArray[np.int8]


class Placed(NamedTuple):
    """SAMPLES, not yet laid out: in training order it is `everyone` at `rows`."""

    everyone: pa.Table
    rows: Rows
    starts: Rows  # context i holds rows[starts[i]:starts[i + 1]]

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> pa.Array | pa.ChunkedArray:
        """One column of all samples; keys as bytes."""
        size = np.diff(self.starts)
        if name == "context":
            return pa.array(np.repeat(np.arange(len(size), dtype=np.int32), size))
        if name == "slot":
            return pa.array(np.arange(len(self), dtype=np.int32) - np.repeat(self.starts[:-1].astype(np.int32), size))
        return _gathered(self.everyone.column(name), self.rows)

    def tables(self) -> Iterator[pa.Table]:
        """The rows of SAMPLES, some at a time: neighbours in training order are neighbours in their corpora too."""
        null = [name for name in _OWN if self.everyone[name].null_count == len(self.everyone)]
        batches = self.everyone.drop_columns(null).to_batches() if len(self) else []
        begins = np.cumsum([0, *(batch.num_rows for batch in batches)])
        for first in range(0, len(self), _SOME):
            rows = self.rows[first : first + _SOME]
            order = np.argsort(rows)
            cuts = np.searchsorted(rows[order], begins)
            parts = [  # of each batch by itself: of many at once Arrow would first make one
                batches[at].take(pa.array(rows[order[cuts[at] : cuts[at + 1]]] - begins[at]))
                for at in np.flatnonzero(np.diff(cuts)).tolist()
            ]
            back = np.empty(len(rows), np.int32)
            back[order] = np.arange(len(rows), dtype=np.int32)
            laid = pa.Table.from_batches(parts).combine_chunks().take(pa.array(back))
            context = np.searchsorted(self.starts, np.arange(first, first + len(rows)), side="right") - 1
            columns = {"context": context, "slot": np.arange(first, first + len(rows)) - self.starts[context]}
            arrays = {name: pa.array(values.astype(np.int32)) for name, values in columns.items()}
            arrays |= {name: pa.nulls(len(rows), SAMPLES.field(name).type) for name in null}
            table = pa.table([arrays[name] if name in arrays else laid[name] for name in SAMPLES.names], SAMPLES.names)
            yield as_schema(table, SAMPLES)


_OWN = [name for name in SAMPLES.names if name not in ("context", "slot")]  # what does not depend on contexts
_SOME = 4 * ROWS


class Planned(NamedTuple):
    """The tables of a manifest and the figures of its header."""

    asks: tuple[Ask, ...]
    counts: tuple[Count, ...]
    shards: tuple[Stored, ...]
    contexts: pa.Table
    samples: Placed
    unplaced: pa.Table
    capacity: int
    bound: int
    binding: str
    fill: float
    padding: float | None
    deviation: Deviation | None
    kept: int | None  # contexts of the parent that stay, None from scratch
    waiting: dict[str, int]  # by corpus: questions that count as text until a voice has said them

    @property
    def rows(self) -> dict[str, str]:
        """The logical digest of each table."""
        columns = ((name, self.samples.column(name)) for name in SAMPLES.names)
        tables = {
            name: rows_digest(table) for name, table in (("contexts", self.contexts), ("unplaced", self.unplaced))
        }
        return {**tables, "samples": columns_digest(columns)}


def plan(
    recipe: Recipe,
    name: str,
    corpora: Sequence[Corpus],
    prompts: dict[str, int],
    *,
    pending_as_text: bool = False,
    parent: Parent | None = None,
) -> Planned:
    """One stage of a recipe over the corpora of a lake, from scratch or following a parent that is repaired.

    Raises `Pending` where speech is still undecided.
    """
    stage, context = recipe.stages[name], recipe.context_of(name)
    selected = [
        decide(corpus, ask, rows, context, prompts, pending_as_text=pending_as_text)
        for corpus, ask, rows in choose(recipe, stage, corpora)
    ]
    everyone, tars = _everyone(selected)
    position = np.concatenate([np.empty(0), *(positions(len(one.rows)) for one in selected)])
    order = _stage_order(selected, position)
    carried = prompts if context.prompt == "context" else dict.fromkeys(prompts, 0)
    rooms = _rooms(everyone, stage.pack, context.tokens, carried, _unspoken(selected))
    heard = {one.ask.corpus for one in selected if one.hearing.waiting}
    parts = rounds([one.rows for one in selected])
    filled = _fill(everyone, position, order, rooms, parts, f"{recipe.seed}\0{name}", parent)
    unplaced = _unplaced(everyone, order[~rooms.fits[order]], rooms, context.tokens, carried)
    del order, position, parts  # each is as long as the stage
    shards, everyone = _used(tars, everyone, rooms.fits)
    samples = Placed(everyone, filled.rows, filled.starts)
    contexts = _context_table(samples, context, carried, batched=rooms.longest is not None)
    return Planned(
        asks=tuple(one.ask for one in selected),
        counts=tuple(sorted(_counts(selected, everyone, rooms.fits), key=_group)),
        shards=shards,
        contexts=contexts,
        samples=samples,
        unplaced=unplaced,
        capacity=rooms.capacity,
        bound=filled.bound,
        binding=filled.binding,
        fill=round(filled.fullness, 9),
        padding=_padding(contexts) if rooms.longest is not None else None,
        deviation=_deviation(samples),
        kept=filled.kept,
        waiting={name: sum(one.hearing.waiting for one in selected if one.ask.corpus == name) for name in heard},
    )


# --- the selected samples, corpus after corpus ----------------------------------------------------------------------


def _everyone(selected: Sequence[Selected]) -> tuple[pa.Table, list[Stored]]:
    """All selected samples in the columns of SAMPLES that do not depend on contexts, and the tars they point into."""
    fields = lean(SAMPLES.field(name) for name in _OWN)
    parts, tars, firsts = [fields.empty_table()], list[Stored](), dict[str, int]()
    for one in selected:
        corpus, index, costs = one.corpus, picked(one.corpus.index, one.rows), picked(one.corpus.costs, one.rows)
        if one.ask.corpus not in firsts:  # of a corpus that two takes share, the tars are listed once
            firsts[one.ask.corpus] = len(tars)
            tars += [shard.tar for shard in corpus.state.shards]
            tars += [shard.tar for shard in corpus.speech_state.shards] if corpus.speech_state else []
        first = firsts[one.ask.corpus]
        columns = {
            **{name: index[name] for name in ("key", "language", "modality", "questions")},
            **{name: index[name] for name in ("offset", "length", "checksum")},
            "copy": _copies(one.rows),
            "corpus": many(_name(one.ask.corpus), len(one.rows)),
            "kind": many(_name(one.ask.kind.value), len(one.rows)),
            "tokens": pa.array(one.tokens),
            "seconds": one.seconds,
            "tiles": costs["tiles"],
            "frames": costs["frames"],
            "audio_tokens": one.audio,
            "spoken": one.hearing.spoken,
            "shard": pa.array(corpus.shard[one.rows] + np.int32(first)),
            **_speech_columns(one, first + len(corpus.state.shards)),
        }
        parts.append(pa.table([columns[name] for name in fields.names], fields))
    return pa.concat_tables(parts).unify_dictionaries(), tars


def _name(name: str) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array([0], pa.int16()), pa.array([name]))


def _copies(rows: Rows) -> pa.Array | pa.ChunkedArray:
    found = copies(rows)
    once = not len(found) or not found[-1]
    return many(pa.array([0], pa.int32()), len(rows)) if once else pa.array(found.astype(np.int32))


def _speech_columns(one: Selected, first: int) -> dict[str, Any]:
    """Where the speech of each sample lies, null without; `first` is the number of the corpus's first sidecar."""
    rows, names = one.hearing.sidecar, ("shard", "offset", "length", "checksum")
    if one.corpus.speech is None or (rows < 0).all():
        return {f"speech_{name}": _nulls(len(rows), SAMPLES.field(f"speech_{name}").type) for name in names}
    where = pa.array(rows, mask=rows < 0)
    numbers = pa.array(one.corpus.speech_shard + np.int32(first))
    lying = {name: whole(one.corpus.speech[name]) for name in names[1:]}
    return {f"speech_{name}": values.take(where) for name, values in {"shard": numbers, **lying}.items()}


def _nulls(count: int, kind: pa.DataType) -> pa.ChunkedArray:
    return many(pa.nulls(1, kind), count)


def _stage_order(selected: Sequence[Selected], position: Floats) -> Rows:
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


# --- contexts -------------------------------------------------------------------------------------------------------


class _Rooms(NamedTuple):
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


def _unspoken(selected: Sequence[Selected]) -> Int8s:
    """For each selected sample the number of its reason in UNSPOKEN, 0 where it lacks nothing."""
    reasons = [mute(one) * (np.int8(1) + (one.hearing.pending > 0).astype(np.int8)) for one in selected]
    return np.concatenate([np.empty(0, np.int8), *reasons])


def _rooms(everyone: pa.Table, pack: Pack | None, budget: int, carried: dict[str, int], unspoken: Int8s) -> _Rooms:
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
    return _Rooms(capacity, units, unit_cap, unspoken, fits, shares, lengths, longest, pack.samples if pack else 1)


def _holds(samples: pa.Table, name: str) -> Bools:
    """Which samples have a medium in them, or are of a kind."""
    values = whole(samples.column("modality" if name in ("text", "image", "video", "audio") else "kind"))
    named = [name in value.split("+") for value in values.dictionary.to_pylist()]
    return np.asarray(np.array(named, np.bool_)[plain(values.indices)])


class _Filled(NamedTuple):
    """Samples in training order; context i holds rows[starts[i]:starts[i + 1]]."""

    rows: Rows
    starts: Rows
    bound: int
    binding: str
    fullness: float
    kept: int | None


def _fill(
    everyone: pa.Table, position: Floats, order: Rows, rooms: _Rooms, parts: Rows, purpose: str, parent: Parent | None
) -> _Filled:
    """All that fits in contexts, with figures of the whole."""

    def filled(rows: Rows) -> tuple[Rows, Rows]:
        return _contexts(everyone, position, rows, rooms, parts, purpose)

    tokens, kept = column(everyone, "tokens"), None
    if parent is None:
        rows, starts = filled(order[rooms.fits[order]])
    else:
        rows, starts, kept = mend(parent, everyone, rooms.fits, rooms.shares, order, filled)
    bound, binding = _bound(rooms.shares, tokens, rooms)
    alone = int(np.count_nonzero(rooms.fits)) - int(np.count_nonzero(rooms.shares))
    shared = int(np.count_nonzero(rooms.shares[rows[starts[:-1]]]))  # one that stays alone is the first of its context
    sizes, room = (tokens, rooms.capacity) if rooms.longest is None else (rooms.lengths, rooms.longest)
    fullness = int(sizes.sum(where=rooms.shares, dtype=np.int64)) / (shared * room) if shared else 1.0
    return _Filled(rows, starts, bound + alone, binding, fullness, kept)


def _contexts(
    everyone: pa.Table, position: Floats, order: Rows, rooms: _Rooms, parts: Rows, purpose: str
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


def _packed(mine: Rows, tokens: Int32s, rooms: _Rooms, seed: int) -> Packing:
    """Contexts filled with tokens, or batches of samples that last alike."""
    if rooms.longest is not None:
        return bucket(rooms.lengths[mine], rooms.longest, rooms.most, seed=seed, window=LOT)
    units = rooms.units[mine] if rooms.unit_cap else None
    return fill(tokens[mine], rooms.capacity, seed=seed, units=units, unit_cap=rooms.unit_cap, window=LOT)


def _bound(mine: Bools, tokens: Int32s, rooms: _Rooms) -> tuple[int, str]:
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


def _padding(contexts: pa.Table) -> float:
    """By how much batches are longer than what is in them."""
    placed = float(column(contexts, "seconds").sum())
    return round(float(column(contexts, "padded_seconds").sum()) / placed - 1, 9) if placed else 0.0


def _seed(purpose: str, part: int) -> int:
    return xxhash.xxh3_64_intdigest(f"tarsia\0fill\0{purpose}{f'{chr(0)}{part}' if part else ''}".encode()) >> 1


def _deviation(samples: Placed) -> Deviation | None:
    """The largest of all corpora and windows; the first of equals."""
    count = (len(samples.starts) - 1) // WINDOW
    if not count:
        return None
    names, tokens = samples.column("corpus"), column(samples, "tokens")
    width, contexts = len(names.dictionary), np.arange(len(samples.starts) - 1)
    inside = np.zeros((count + 1) * width)
    for low in range(0, len(contexts), _SOME):
        some = contexts[low : low + _SOME]
        begins = samples.starts[some[0] : some[-1] + 2]
        cells = np.repeat(some // WINDOW * width, np.diff(begins))
        cells += plain(names.indices)[begins[0] : begins[-1]]
        inside += np.bincount(cells, tokens[begins[0] : begins[-1]], len(inside))
    windows = inside.reshape(-1, width)
    stage = windows.sum(axis=0) / windows.sum()
    shares = windows[:count] / windows[:count].sum(axis=1, keepdims=True)
    at, which = np.unravel_index(np.argmax(np.abs(shares - stage)), shares.shape)
    return Deviation(
        corpus=names.dictionary[which].as_py(),
        window=int(at),
        share=round(float(shares[at, which]), 9),
        whole=round(float(stage[which]), 9),
    )


# --- the tables of the manifest -------------------------------------------------------------------------------------


def _gathered(values: pa.ChunkedArray, rows: Rows) -> pa.Array | pa.ChunkedArray:
    """Some values of a column, in the order of the rows."""
    if values.null_count == len(values):
        return _nulls(len(rows), values.type)
    return whole(values).take(pa.array(rows))


def _used(tars: Sequence[Stored], everyone: pa.Table, fits: Bools) -> tuple[tuple[Stored, ...], pa.Table]:
    """Only the tars that placed samples need, and the samples with their numbers."""
    needed = np.zeros(len(tars), np.bool_)
    for name in ("shard", "speech_shard"):
        needed[plain(whole(everyone[name]).filter(pa.array(fits)).drop_null())] = True
    numbers = pa.array(np.cumsum(needed, dtype=np.int32) - np.int32(1))
    for name in ("shard", "speech_shard"):
        if everyone[name].null_count < len(everyone):
            renumbered = numbers.take(whole(everyone[name]))
            everyone = everyone.set_column(everyone.column_names.index(name), name, renumbered)
    return tuple(compress(tars, needed)), everyone


def _unplaced(everyone: pa.Table, over: Rows, rooms: _Rooms, budget: int, carried: dict[str, int]) -> pa.Table:
    """UNPLACED: what no context can hold, with the reason."""
    rows = pa.table({name: _gathered(everyone[name], over) for name in UNPLACED.names if name != "reason"})
    room_of = budget - seen(rows, carried)
    figures = zip(
        column(everyone, "length")[over].tolist(), rooms.unspoken[over].tolist(), rows["tokens"].to_pylist(),
        room_of.tolist(), rooms.units[over].tolist(), rows["seconds"].to_pylist(), strict=True,
    )  # fmt: skip
    reasons = [
        "taken-down"
        if not length
        else UNSPOKEN[unspoken]
        if unspoken
        else f"over-long: {tokens} tokens, room for {room}"
        if tokens > room
        else f"over-tiled: {units} tiles and frames, room for {rooms.unit_cap}"
        if rooms.unit_cap is not None and units > rooms.unit_cap
        else f"over-lasting: {seconds:.3f} seconds, room for {(rooms.longest or 0) / 1e6:.3f}"
        if seconds
        else "silent: no sound to be batched by"
        for length, unspoken, tokens, room, units, seconds in figures
    ]
    return as_schema(rows.append_column("reason", pa.array(reasons, pa.string())), UNPLACED)


def _context_table(samples: Placed, context: Context, carried: dict[str, int], *, batched: bool) -> pa.Table:
    """CONTEXTS, from the samples in training order."""
    begins, size = samples.starts[:-1], np.diff(samples.starts)

    def sums(name: str) -> Any:
        return np.add.reduceat(column(samples, name), begins) if len(begins) else column(samples, name)

    modality = whole(samples.column("modality"))
    media = [PROMPTS.index(prompt_of([name])) for name in modality.dictionary.to_pylist()]
    carries = np.array(media, np.int32)[plain(modality.indices)]
    number = np.maximum.reduceat(carries, begins) if len(begins) else carries
    said = pa.array(PROMPTS) if context.prompt == "context" else pa.array([context.prompt])
    columns = {
        "context": np.arange(len(size), dtype=np.int32),
        "prompt": pa.DictionaryArray.from_arrays(pa.array(number if len(said) > 1 else number * 0), said),
        "samples": size.astype(np.int32),
        "first": begins,
        **{name: sums(name) for name in ("tiles", "frames", "audio_tokens", "seconds")},
        "tokens": sums("tokens") + np.array([carried[name] for name in PROMPTS], np.int32)[number],
        "padded_seconds": _nulls(len(size), pa.float64()),
    }
    if batched and len(begins):
        columns["padded_seconds"] = np.maximum.reduceat(column(samples, "seconds"), begins) * size
    return pa.table([columns[field.name] for field in CONTEXTS], CONTEXTS)


def _counts(selected: Sequence[Selected], everyone: pa.Table, fits: Bools) -> Iterator[Count]:
    """Selected and placed, by corpus, language and modality."""
    begin = 0
    for one in selected:
        samples = everyone.slice(begin, len(one.rows))
        placed = fits[begin : begin + len(one.rows)]
        begin += len(one.rows)
        group, names = groups(samples)
        hearing, spoken = one.hearing, plain(whole(pc.list_value_length(one.hearing.spoken)))
        seconds = plain(whole(one.seconds))
        both = {"": None, "_questions": column(samples, "questions"), "_tokens": one.tokens, "_seconds": seconds}
        totals = {
            "speakable": _sums_of(group, hearing.speakable, len(names)),
            "refused": _sums_of(group, hearing.refused, len(names)),
            "pending": _sums_of(group, hearing.pending, len(names)),
            "spoken": _sums_of(group, spoken, len(names)),
            "placed_spoken": _sums_of(group, spoken, len(names), placed),
            **{f"selected{name}": _sums_of(group, values, len(names)) for name, values in both.items()},
            **{f"placed{name}": _sums_of(group, values, len(names), placed) for name, values in both.items()},
        }
        for number, (language, modality) in enumerate(names):
            mine: dict[str, Any] = {
                name: round(values[number], 6) if "seconds" in name else round(values[number])
                for name, values in totals.items()
            }
            yield Count(corpus=one.ask.corpus, kind=one.ask.kind, language=language, modality=modality, **mine)


def _sums_of(group: Int32s, values: Any, count: int, only: Bools | None = None) -> list[float]:
    """The sum of the values of each group, or how many there are; of those samples alone that `only` names."""
    if only is not None and not only.all():
        group, values = group[only], None if values is None else values[only]
    sums: list[float] = np.bincount(group, values, count).tolist()
    return sums


def _group(count: Count) -> tuple[str, ...]:
    return count.corpus, count.kind, count.language, count.modality


def turns(samples: int, seed: int, stage: str) -> Rows:
    """When each window of a stage of so many samples, all in one part, has its turn: where its contexts went."""
    numbers = np.arange(max(1, round(samples / LOT)))
    turn = np.empty_like(numbers)
    turn[_by_lot(np.zeros_like(numbers), samples, _seed(f"{seed}\0{stage}", 0))] = numbers
    return turn

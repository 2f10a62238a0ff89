"""A stage, planned: everything decided is put into contexts and written down, with what became of the ask.

Samples are kept corpus after corpus until the contexts are known; then one gather, column by column, lays them out in
training order. Reading the tables and storing the manifest is the pipeline's work.
"""

from collections.abc import Iterator, Sequence
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from tarsia.builders.packing import fill
from tarsia.builders.tables import rows_digest
from tarsia.manifests.decide import Bools, Corpus, Int32s, Selected, choose, column, decide, picked
from tarsia.manifests.select import Rows, positions
from tarsia.schemas.manifest import CONTEXTS, SAMPLES, UNPLACED, Ask, Count
from tarsia.schemas.recipe import Recipe, Stage
from tarsia.schemas.shard import Stored

INDEX_COLUMNS = (
    "key", "draw", "record", "language", "modality", "questions", "offset", "length", "checksum",
)  # fmt: skip
SPEECH_COLUMNS = ("key", "draw", "record", "clips", "refused", "offset", "length", "checksum")
PROMPTS = ("text", "image", "video")

Floats = npt.NDArray[np.float64]


class Planned(NamedTuple):
    """The tables of a manifest and the figures of its header."""

    asks: tuple[Ask, ...]
    counts: tuple[Count, ...]
    shards: tuple[Stored, ...]
    contexts: pa.Table
    samples: pa.Table
    unplaced: pa.Table
    capacity: int
    bound: int
    fill: float

    @property
    def rows(self) -> dict[str, str]:
        """The logical digest of each table."""
        tables = {"contexts": self.contexts, "samples": self.samples, "unplaced": self.unplaced}
        return {name: rows_digest(table) for name, table in tables.items()}


def plan(
    recipe: Recipe, name: str, corpora: Sequence[Corpus], prompts: dict[str, int], *, pending_as_text: bool = False
) -> Planned:
    """One stage of a recipe over the corpora of a lake. Raises `Pending` where speech is still undecided."""
    stage = recipe.stages[name]
    selected = [
        decide(corpus, ask, rows, pending_as_text=pending_as_text)
        for corpus, ask, rows in choose(recipe, stage, corpora)
    ]
    everyone, tars = _everyone(selected)
    position = np.concatenate([np.empty(0), *(positions(len(one.rows)) for one in selected)])
    order = _stage_order(selected, position)
    rooms = _rooms(everyone, stage, recipe.context.tokens, prompts)
    filled = _fill(column(everyone, "tokens"), position, order, rooms, _seed(recipe, name))
    shards, samples = _used(tars, _placed(everyone, filled))
    return Planned(
        asks=tuple(one.ask for one in selected),
        counts=tuple(sorted(_counts(selected, everyone, rooms.fits), key=_group)),
        shards=shards,
        contexts=_context_table(samples, filled.starts, prompts),
        samples=samples,
        unplaced=_unplaced(everyone, order, rooms),
        capacity=rooms.capacity,
        bound=filled.bound,
        fill=round(filled.fullness, 9),
    )


def _seed(recipe: Recipe, stage: str) -> int:
    return xxhash.xxh3_64_intdigest(f"tarsia\0fill\0{recipe.seed}\0{stage}".encode()) >> 1


# --- the selected samples, corpus after corpus ----------------------------------------------------------------------

_PLACE = ("context", "slot")


def _everyone(selected: Sequence[Selected]) -> tuple[pa.Table, list[Stored]]:
    """All selected samples in the columns of SAMPLES that do not depend on contexts, and the tars they point into."""
    fields = [field for field in SAMPLES if field.name not in _PLACE]
    parts, tars = [pa.schema(fields).empty_table()], list[Stored]()
    for one in selected:
        corpus, index, costs = one.corpus, picked(one.corpus.index, one.rows), picked(one.corpus.costs, one.rows)
        columns = {
            **{name: index[name] for name in ("key", "language", "modality", "questions")},
            **{name: index[name] for name in ("offset", "length", "checksum")},
            "corpus": _same(one.ask.corpus, len(one.rows)),
            "kind": _same(one.ask.kind.value, len(one.rows)),
            "tokens": pa.array(one.tokens),
            "seconds": pa.array(one.seconds),
            "tiles": costs["tiles"],
            "frames": costs["frames"],
            "audio_tokens": pa.array(one.audio),
            "spoken": one.hearing.spoken,
            "shard": pa.array(corpus.shard[one.rows] + np.int32(len(tars))),
        }
        tars += [shard.tar for shard in corpus.state.shards]
        columns |= _speech_columns(one, len(tars))
        if corpus.speech_state is not None:
            tars += [shard.tar for shard in corpus.speech_state.shards]
        parts.append(pa.table([columns[field.name] for field in fields], pa.schema(fields)))
    return pa.concat_tables(parts).unify_dictionaries(), tars


def _same(name: str, count: int) -> pa.DictionaryArray:
    """One name, `count` times."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([name]))


def _speech_columns(one: Selected, first: int) -> dict[str, Any]:
    """Where the speech of each sample lies, null without; `first` is the number of the corpus's first sidecar."""
    rows, names = one.hearing.sidecar, ("shard", "offset", "length", "checksum")
    if one.corpus.speech is None or (rows < 0).all():
        return {f"speech_{name}": _nulls(len(rows), SAMPLES.field(f"speech_{name}").type) for name in names}
    where = pa.array(rows, mask=rows < 0)
    numbers = pa.array(one.corpus.speech_shard + np.int32(first))
    lying = {name: one.corpus.speech[name].combine_chunks() for name in names[1:]}
    return {f"speech_{name}": values.take(where) for name, values in {"shard": numbers, **lying}.items()}


def _nulls(count: int, kind: pa.DataType) -> pa.ChunkedArray:
    """A column of nulls that is one small chunk, many times."""
    some = pa.nulls(min(count, 1 << 16), kind)
    whole, rest = divmod(count, max(1, len(some)))
    return pa.chunked_array([*[some] * whole, some[:rest]], kind)


def _stage_order(selected: Sequence[Selected], position: Floats) -> Rows:
    """All selected samples by their position in the stage; those at one position by draw."""
    draws = np.concatenate([np.empty(0, np.uint64), *(one.corpus.draws[one.rows] for one in selected)])
    return np.lexsort((draws, position))


# --- contexts -------------------------------------------------------------------------------------------------------


class _Rooms(NamedTuple):
    """What room each sample finds. A context that is shared leaves `capacity` tokens beside its system prompt."""

    capacity: int
    room: Rows  # of a context of the sample's own
    fits: Bools
    shares: Bools  # a context with others


def _rooms(everyone: pa.Table, stage: Stage, budget: int, prompts: dict[str, int]) -> _Rooms:
    """Videos stay alone, and so does what fits into a context only when its own, smaller, system prompt is there."""
    tokens, video = column(everyone, "tokens"), _holds(everyone, "video")
    prompt = np.where(video, prompts["video"], np.where(_holds(everyone, "image"), prompts["image"], prompts["text"]))
    room = budget - prompt
    capacity = int(room[~video].min(initial=budget - prompts["text"]))
    fits = tokens <= room
    return _Rooms(capacity, room, fits, fits & ~video & (tokens <= capacity) & stage.pack)


def _holds(samples: pa.Table, medium: str) -> Bools:
    """Which samples have a medium in them."""
    modality = samples["modality"].combine_chunks()
    named = [medium in name.split("+") for name in modality.dictionary.to_pylist()]
    return np.asarray(np.array(named, np.bool_)[modality.indices.to_numpy()])


class _Filled(NamedTuple):
    """Samples in training order; context i holds rows[starts[i]:starts[i + 1]]."""

    rows: Rows
    starts: Rows
    bound: int
    fullness: float


def _fill(tokens: Int32s, position: Floats, order: Rows, rooms: _Rooms, seed: int) -> _Filled:
    """Packed contexts keep the order of their windows; samples that stay alone lie between them by their positions."""
    together, alone = order[rooms.shares[order]], order[(rooms.fits & ~rooms.shares)[order]]
    packing = fill(tokens[together], rooms.capacity, seed=seed)
    packs = len(packing.starts) - 1
    sequence = np.argsort(np.concatenate([positions(packs), position[alone]]), kind="stable")
    rows = np.concatenate([together[packing.members], alone])
    first = np.concatenate([packing.starts[:-1], len(together) + np.arange(len(alone))])[sequence]
    length = np.concatenate([np.diff(packing.starts), np.ones(len(alone), np.int64)])[sequence]
    starts = np.concatenate([[0], np.cumsum(length)])
    inside = np.arange(len(rows)) - np.repeat(starts[:-1], length)
    fullness = int(tokens[together].sum(dtype=np.int64)) / (packs * rooms.capacity) if packs else 1.0
    return _Filled(rows[np.repeat(first, length) + inside], starts, packing.bound + len(alone), fullness)


# --- the tables of the manifest -------------------------------------------------------------------------------------


def _placed(everyone: pa.Table, filled: _Filled) -> pa.Table:
    """SAMPLES, its shards still numbered as they came."""
    size = np.diff(filled.starts)
    context = np.repeat(np.arange(len(size), dtype=np.int32), size)
    slot = (np.arange(len(context)) - np.repeat(filled.starts[:-1], size)).astype(np.int32)
    placed = _gathered(everyone, filled.rows)
    return pa.table([pa.array(context), pa.array(slot), *placed.columns], SAMPLES)


def _gathered(table: pa.Table, rows: Rows) -> pa.Table:
    """Rows of a table, one column after the other, so that only one is ever held twice."""
    where = pa.array(rows)
    columns = [
        _nulls(len(rows), values.type) if values.null_count == len(values) else values.combine_chunks().take(where)
        for values in table.columns
    ]
    return pa.table(columns, table.schema)


def _used(tars: Sequence[Stored], samples: pa.Table) -> tuple[tuple[Stored, ...], pa.Table]:
    """Only the tars that the samples need, and the samples with their numbers."""
    needed = np.zeros(len(tars), np.bool_)
    for name in ("shard", "speech_shard"):
        needed[samples[name].combine_chunks().drop_null().to_numpy()] = True
    numbers = pa.array(np.cumsum(needed, dtype=np.int32) - np.int32(1))
    for name in ("shard", "speech_shard"):
        renumbered = numbers.take(samples[name].combine_chunks())
        samples = samples.set_column(samples.column_names.index(name), SAMPLES.field(name), renumbered)
    return tuple(compress(tars, needed)), samples


def _unplaced(everyone: pa.Table, order: Rows, rooms: _Rooms) -> pa.Table:
    """UNPLACED: what no context can hold, with the reason."""
    over = order[~rooms.fits[order]]
    rows = _gathered(everyone.select([field.name for field in UNPLACED if field.name != "reason"]), over)
    figures = zip(rows["tokens"].to_pylist(), rooms.room[over].tolist(), strict=True)
    reasons = [f"over-long: {tokens} tokens, room for {room}" for tokens, room in figures]
    return pa.table([*rows.columns, pa.array(reasons, pa.string())], UNPLACED)


def _context_table(samples: pa.Table, starts: Rows, prompts: dict[str, int]) -> pa.Table:
    """CONTEXTS, from the samples in training order."""
    begins, size = starts[:-1], np.diff(starts)

    def sums(name: str) -> Any:
        return np.add.reduceat(column(samples, name), begins) if len(begins) else column(samples, name)

    video, image = (
        np.maximum.reduceat(_holds(samples, name), begins) if len(begins) else begins > 0 for name in ("video", "image")
    )
    carried = np.where(video, 2, np.where(image, 1, 0)).astype(np.int32)
    columns = {
        "context": np.arange(len(size), dtype=np.int32),
        "prompt": pa.DictionaryArray.from_arrays(pa.array(carried), pa.array(PROMPTS)),
        "samples": size.astype(np.int32),
        "first": begins,
        **{name: sums(name) for name in ("tiles", "frames", "audio_tokens", "seconds")},
        "tokens": sums("tokens") + np.array([prompts[name] for name in PROMPTS], np.int32)[carried],
    }
    return pa.table([columns[field.name] for field in CONTEXTS], CONTEXTS)


def _counts(selected: Sequence[Selected], everyone: pa.Table, fits: Bools) -> Iterator[Count]:
    """Selected and placed, by corpus, language and modality."""
    begin = 0
    for one in selected:
        samples = everyone.slice(begin, len(one.rows))
        placed = fits[begin : begin + len(one.rows)].astype(np.int64)
        begin += len(one.rows)
        group, names = _groups(samples)
        hearing, spoken = one.hearing, pc.list_value_length(one.hearing.spoken).to_numpy()
        figures: dict[str, Any] = {
            "speakable": hearing.speakable,
            "refused": hearing.refused,
            "pending": hearing.pending,
            "spoken": spoken,
            "placed_spoken": spoken * placed,
        }
        both = {"": np.ones_like(placed), "_questions": column(samples, "questions"), "_tokens": one.tokens}
        for suffix, values in {**both, "_seconds": one.seconds}.items():
            figures |= {f"selected{suffix}": values, f"placed{suffix}": values * placed}
        totals = {name: np.bincount(group, values, len(names)).tolist() for name, values in figures.items()}
        for number, (language, modality) in enumerate(names):
            mine = {
                name: round(values[number], 6) if "seconds" in name else round(values[number])
                for name, values in totals.items()
            }
            yield Count(corpus=one.ask.corpus, kind=one.ask.kind, language=language, modality=modality, **mine)


def _group(count: Count) -> tuple[str, ...]:
    return count.corpus, count.kind, count.language, count.modality


def _groups(samples: pa.Table) -> tuple[Rows, list[tuple[str, str]]]:
    """For each sample the number of its language and modality, and these by their number."""
    languages, modalities = (samples[name].combine_chunks() for name in ("language", "modality"))
    width = max(1, len(modalities.dictionary))
    pairs = languages.indices.to_numpy().astype(np.int64) * width + modalities.indices.to_numpy()
    found, group = np.unique(pairs, return_inverse=True)
    named = [languages.dictionary.to_pylist(), modalities.dictionary.to_pylist()]
    return group, [(named[0][pair // width], named[1][pair % width]) for pair in found.tolist()]

"""A stage, planned: everything decided is put into contexts and written down, with what became of the ask.

Samples are kept corpus after corpus, as views of the lake's tables. Once the contexts are known they are laid out in
training order, a column at a time to be digested and a few contexts at a time to be stored: twenty million rows of
SAMPLES never stand side by side. Reading the tables and storing the manifest is the pipeline's work.
"""

from collections.abc import Iterator, Sequence
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tarsia.builders.chat import prompt_of
from tarsia.builders.columns import many, whole
from tarsia.builders.tables import ROWS, as_schema, columns_digest, plain, rows_digest
from tarsia.manifests.decide import Selected, choose, decide, seen
from tarsia.manifests.facts import Bools, Corpus, Int32s, column, groups, lean, picked
from tarsia.manifests.repair import Parent
from tarsia.manifests.rooms import UNSPOKEN, Rooms, filled, rooms_of, stage_order, unspoken_of
from tarsia.manifests.select import Rows, copies, positions, rounds
from tarsia.schemas.manifest import CONTEXTS, SAMPLES, UNPLACED, WINDOW, Ask, Count, Deviation
from tarsia.schemas.recipe import Context, Recipe
from tarsia.schemas.shard import Stored

PROMPTS = ("text", "image", "video")


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
        """The rows of SAMPLES, keys as bytes, some at a time.

        Neighbours in training order are neighbours in their corpora too.
        """
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
            yield pa.table([arrays[name] if name in arrays else laid[name] for name in SAMPLES.names], SAMPLES.names)


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
    order = stage_order(selected, position)
    carried = prompts if context.prompt == "context" else dict.fromkeys(prompts, 0)
    rooms = rooms_of(everyone, stage.pack, context.tokens, carried, unspoken_of(selected))
    heard = {one.ask.corpus for one in selected if one.hearing.waiting}
    parts = rounds([one.rows for one in selected])
    placed = filled(everyone, position, order, rooms, parts, f"{recipe.seed}\0{name}", parent)
    unplaced = _unplaced(everyone, order[~rooms.fits[order]], rooms, context.tokens, carried)
    del order, position, parts  # each is as long as the stage
    shards, everyone = _used(tars, everyone, rooms.fits)
    samples = Placed(everyone, placed.rows, placed.starts)
    contexts = _context_table(samples, context, carried, batched=rooms.longest is not None)
    return Planned(
        asks=tuple(one.ask for one in selected),
        counts=tuple(sorted(_counts(selected, everyone, rooms.fits), key=_group)),
        shards=shards,
        contexts=contexts,
        samples=samples,
        unplaced=unplaced,
        capacity=rooms.capacity,
        bound=placed.bound,
        binding=placed.binding,
        fill=round(placed.fullness, 9),
        padding=_padding(contexts) if rooms.longest is not None else None,
        deviation=_deviation(samples),
        kept=placed.kept,
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


# --- figures of the whole -------------------------------------------------------------------------------------------


def _padding(contexts: pa.Table) -> float:
    """By how much batches are longer than what is in them."""
    placed = float(column(contexts, "seconds").sum())
    return round(float(column(contexts, "padded_seconds").sum()) / placed - 1, 9) if placed else 0.0


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


def _unplaced(everyone: pa.Table, over: Rows, rooms: Rooms, budget: int, carried: dict[str, int]) -> pa.Table:
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

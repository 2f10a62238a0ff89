"""A stage, planned: select by draw, decide what is heard, count real costs, fill contexts, say what became of the ask.

Everything here is arithmetic on the tables of a snapshot; reading them and writing the manifest is the pipeline's work.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from tarsia.builders.packing import fill
from tarsia.builders.tables import rows_digest
from tarsia.builders.tokens import TILE_TOKENS, audio_tokens
from tarsia.manifests.select import Rows, divide, heard, positions, take, walk
from tarsia.schemas.errors import Pending
from tarsia.schemas.identity import Draws
from tarsia.schemas.lake import CorpusState, SpeechState
from tarsia.schemas.manifest import CONTEXTS, SAMPLES, UNPLACED, Ask, Count
from tarsia.schemas.recipe import Recipe, Stage
from tarsia.schemas.sample import Kind
from tarsia.schemas.shard import Stored

INDEX_COLUMNS = (
    "key", "draw", "record", "language", "modality", "questions", "offset", "length", "checksum",
)  # fmt: skip
SPEECH_COLUMNS = ("key", "draw", "record", "clips", "refused", "offset", "length", "checksum")
PROMPTS = ("text", "image", "video")


class Corpus(NamedTuple):
    """What planning reads of one corpus; rows are in draw order, `shard` numbers its tars from 0."""

    state: CorpusState
    index: pa.Table
    shard: npt.NDArray[np.int32]
    costs: pa.Table
    speech_state: SpeechState | None
    speech: pa.Table | None
    speech_shard: npt.NDArray[np.int32]

    @property
    def draws(self) -> Draws:
        """The draws, sorted."""
        return cast(Draws, column(self.index, "draw"))

    @property
    def questions(self) -> npt.NDArray[np.int32]:
        """Human turns of each sample."""
        return cast(npt.NDArray[np.int32], column(self.index, "questions"))

    @property
    def seconds(self) -> npt.NDArray[np.float64]:
        """Audio of each sample as it stands in the corpus."""
        return cast(npt.NDArray[np.float64], column(self.costs, "seconds"))


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


class Selected(NamedTuple):
    """The selected rows of one corpus, in stage order, with what each costs there."""

    corpus: Corpus
    ask: Ask
    rows: Rows
    position: npt.NDArray[np.float64]
    tokens: npt.NDArray[np.int64]
    audio: npt.NDArray[np.int64]
    seconds: npt.NDArray[np.float64]
    speech: npt.NDArray[np.int64]  # row of the sidecar index, -1 without
    spoken: list[list[int]]  # turns, for each row
    speakable: npt.NDArray[np.int64]  # questions, for each row
    refused: npt.NDArray[np.int64]
    pending: npt.NDArray[np.int64]


def column(table: pa.Table, name: str) -> Any:
    """A column without nulls as a numpy array."""
    return table.column(name).combine_chunks().to_numpy(zero_copy_only=False)


def choose(recipe: Recipe, stage: Stage, corpora: Sequence[Corpus]) -> list[tuple[Corpus, Ask, Rows]]:
    """The selected rows of every corpus that the stage asks for, in the order of its arc, with the ask."""
    chosen = []
    for kind, amount in stage.take.items():
        mine = [corpus for corpus in corpora if corpus.state.corpus.kind is kind]
        totals = [float(corpus.seconds.sum()) for corpus in mine]
        shares = divide(amount, [len(corpus.index) for corpus in mine], totals)
        for corpus, total, asked in zip(mine, totals, shares, strict=True):
            rows = take(corpus.draws, corpus.seconds, recipe.seed, asked)
            quota = stage.spoken.of(int(corpus.questions[rows].sum())) if stage.spoken else None
            ask = Ask(
                corpus=corpus.state.corpus.name,
                kind=kind,
                amount=str(amount),
                available=len(corpus.index),
                available_seconds=round(total, 6),
                samples=asked if isinstance(asked, int) else None,
                seconds=None if isinstance(asked, int) else round(asked, 6),
                spoken=quota,
            )
            chosen.append((corpus, ask, rows))
    return chosen


class Questions(NamedTuple):
    """All questions of a corpus, flat: question `turn` of row `row` is at `first[row] + turn`."""

    first: npt.NDArray[np.int64]
    read: npt.NDArray[np.int32]
    heard: npt.NDArray[np.int32]
    speakable: npt.NDArray[np.bool_]
    samples16: npt.NDArray[np.int64]  # of an accepted clip, else -1
    refused: npt.NDArray[np.bool_]
    sidecar: npt.NDArray[np.int64]  # for each row: its row in the sidecar index, or -1


def questions_of(corpus: Corpus) -> Questions:
    """Costs and verdicts of every question of a corpus."""
    costs = corpus.costs
    read = costs.column("read").combine_chunks()
    first = np.asarray(read.offsets.to_numpy(), dtype=np.int64)[:-1]
    flat_read = read.values.to_numpy(zero_copy_only=False)
    samples16 = np.full(len(flat_read), -1, dtype=np.int64)
    refused = np.zeros(len(flat_read), dtype=np.bool_)
    sidecar = np.full(len(corpus.index), -1, dtype=np.int64)
    if corpus.speech is not None and len(corpus.speech):
        rows = np.searchsorted(corpus.draws, column(corpus.speech, "draw"))
        rows = np.minimum(rows, len(corpus.index) - 1)
        same = pc.and_(
            pc.equal(corpus.index["key"].take(pa.array(rows)), corpus.speech["key"]),
            pc.equal(corpus.index["record"].take(pa.array(rows)), corpus.speech["record"]),
        )
        fresh = np.asarray(same.to_numpy(zero_copy_only=False), dtype=np.bool_)
        sidecar[rows[fresh]] = np.flatnonzero(fresh)
        for name in ("clips", "refused"):
            lists = corpus.speech.column(name).combine_chunks()
            parents = pc.list_parent_indices(lists).to_numpy()
            items = lists.flatten()
            turns = pc.struct_field(items, "turn").to_numpy(zero_copy_only=False)
            keep = fresh[parents]
            at = first[rows[parents[keep]]] + turns[keep]
            if name == "clips":
                samples16[at] = pc.struct_field(items, "samples16").to_numpy(zero_copy_only=False)[keep]
            else:
                refused[at] = True
    return Questions(
        first,
        flat_read,
        costs.column("heard").combine_chunks().values.to_numpy(zero_copy_only=False),
        costs.column("speakable").combine_chunks().values.to_numpy(zero_copy_only=False),
        samples16,
        refused,
        sidecar,
    )


def decide(corpus: Corpus, ask: Ask, rows: Rows, *, pending_as_text: bool) -> Selected:
    """What of the selected questions is heard, and what every selected sample costs."""
    asked = questions_of(corpus)
    count = len(rows)
    where = np.empty(len(corpus.index), dtype=np.int64)
    where[rows] = np.arange(count)
    base = column(corpus.costs, "answers").astype(np.int64)
    lengths = np.diff(np.append(asked.first, len(asked.read)))
    base += np.add.reduceat(np.append(asked.read, 0), asked.first) * (lengths > 0) if len(base) else 0
    base += TILE_TOKENS * (column(corpus.costs, "tiles").astype(np.int64) + column(corpus.costs, "frames"))
    audio = column(corpus.costs, "audio_tokens").astype(np.int64)[rows]
    tokens = base[rows] + audio
    seconds = corpus.seconds[rows].copy()
    spoken: list[list[int]] = [[] for _ in range(count)]
    totals = np.zeros((3, count), dtype=np.int64)
    if ask.spoken is not None:
        order = walk(rows, corpus.draws, corpus.questions)
        at = asked.first[order.rows] + order.turns
        speakable = asked.speakable[at]
        accepted = speakable & (asked.samples16[at] >= 0)
        undecided = speakable & ~accepted & ~asked.refused[at]
        chosen, waiting = heard(accepted, undecided, ask.spoken)
        if waiting and not pending_as_text:
            raise Pending(
                f"corpus '{ask.corpus}': {waiting} questions that may be spoken have no verdict yet; "
                "run tarsia speak, or plan with --pending-as-text"
            )
        slots = where[order.rows]
        for total, flags in zip(totals, (speakable, speakable & asked.refused[at], undecided), strict=True):
            np.add.at(total, slots, flags)
        for number in chosen.tolist():
            slot, place = int(slots[number]), int(at[number])
            samples = int(asked.samples16[place])
            heard_tokens = audio_tokens(samples)
            tokens[slot] += int(asked.heard[place]) - int(asked.read[place]) + heard_tokens
            audio[slot] += heard_tokens
            seconds[slot] += samples / 16_000
            spoken[slot].append(int(order.turns[number]))
    sidecar = np.array([asked.sidecar[row] if turns else -1 for row, turns in zip(rows, spoken, strict=True)], np.int64)
    return Selected(
        corpus, ask, rows, positions(count), tokens, audio, seconds, sidecar, [sorted(turns) for turns in spoken],
        *totals,
    )  # fmt: skip


def plan(
    recipe: Recipe, name: str, corpora: Sequence[Corpus], prompts: dict[str, int], *, pending_as_text: bool = False
) -> Planned:
    """One stage of a recipe over the corpora of a lake. Raises `Pending` where speech is still undecided."""
    stage = recipe.stages[name]
    selected = [
        decide(corpus, ask, rows, pending_as_text=pending_as_text)
        for corpus, ask, rows in choose(recipe, stage, corpora)
    ]
    shards = _Shards()
    table = _stage_table(selected, shards)
    packable, capacity = _capacity(table, stage, recipe.context.tokens, prompts)
    tokens = column(table, "tokens")
    room = np.where(packable, capacity, recipe.context.tokens - prompts["video"])
    fits = tokens <= room
    order, starts, bound, fullness = _contexts(table, fits, packable, capacity, _seed(recipe, name))
    placed = table.take(pa.array(order))
    placed = placed.set_column(
        0, "context", pa.array(np.repeat(np.arange(len(starts) - 1), np.diff(starts)), pa.int32())
    )
    slots = np.arange(len(order)) - np.repeat(starts[:-1], np.diff(starts))
    placed = placed.set_column(1, "slot", pa.array(slots, pa.int32()))
    over = np.flatnonzero(~fits)
    reasons = [f"over-long: {tokens[row]} tokens, room for {room[row]}" for row in over]
    unplaced = table.take(pa.array(over)).append_column("reason", pa.array(reasons, pa.string()))
    used, renumbered = shards.used(placed)
    samples = renumbered.select(SAMPLES.names).cast(SAMPLES).combine_chunks()
    return Planned(
        asks=tuple(one.ask for one in selected),
        counts=_counts(selected, fits, table),
        shards=used,
        contexts=_context_table(samples, starts, prompts),
        samples=samples,
        unplaced=unplaced.select(UNPLACED.names).cast(UNPLACED).combine_chunks(),
        capacity=capacity,
        bound=bound,
        fill=round(fullness, 9),
    )


def _seed(recipe: Recipe, stage: str) -> int:
    return xxhash.xxh3_64_intdigest(f"tarsia\0fill\0{recipe.seed}\0{stage}".encode()) >> 1


class _Shards:
    """The tars that rows point into, numbered as they come."""

    def __init__(self) -> None:
        self.all: list[Stored] = []

    def add(self, many: Sequence[Stored]) -> int:
        """Adds tars; the number of the first."""
        self.all += many
        return len(self.all) - len(many)

    def used(self, placed: pa.Table) -> tuple[tuple[Stored, ...], pa.Table]:
        """Only the tars that placed rows need, and the rows with their numbers."""
        numbers = [placed.column(name).combine_chunks() for name in ("shard", "speech_shard")]
        needed = np.unique(np.concatenate([array.drop_null().to_numpy() for array in numbers]).astype(np.int64))
        fresh = np.full(len(self.all) + 1, -1, dtype=np.int32)
        fresh[needed] = np.arange(len(needed), dtype=np.int32)
        for name, array in zip(("shard", "speech_shard"), numbers, strict=True):
            old = array.fill_null(len(self.all)).to_numpy()
            mask = array.is_null().to_numpy(zero_copy_only=False)
            index = placed.column_names.index(name)
            placed = placed.set_column(index, name, pa.array(fresh[old], pa.int32(), mask=mask))
        return tuple(self.all[number] for number in needed), placed


def _stage_table(selected: Sequence[Selected], shards: _Shards) -> pa.Table:
    """Every selected sample in stage order: position, then draw."""
    names = [field.name for field in SAMPLES]
    empty = pa.table({name: pa.array([], SAMPLES.field(name).type) for name in names})
    parts = [
        empty.append_column("position", pa.array([], pa.float64())).append_column("draw", pa.array([], pa.uint64()))
    ]
    for one in selected:
        rows, corpus = pa.array(one.rows), one.corpus
        index, costs = corpus.index.take(rows), corpus.costs.take(rows)
        base = shards.add([shard.tar for shard in corpus.state.shards])
        heard_in = pa.array(np.maximum(one.speech, 0))
        silent = one.speech < 0
        speech: dict[str, Any] = {name: pa.nulls(len(one.rows)) for name in ("shard", "offset", "length", "checksum")}
        if corpus.speech is not None and corpus.speech_state is not None and not silent.all():
            first = shards.add([shard.tar for shard in corpus.speech_state.shards])
            numbers = first + corpus.speech_shard[np.maximum(one.speech, 0)]
            speech["shard"] = pa.array(numbers, pa.int32(), mask=silent)
            for name in ("offset", "length", "checksum"):
                values = corpus.speech.column(name).take(heard_in).combine_chunks()
                speech[name] = pc.if_else(pa.array(silent), pa.scalar(None, values.type), values)
        zeros = pa.array(np.zeros(len(one.rows), np.int32))
        columns = {
            "context": zeros,
            "slot": zeros,
            "key": index["key"],
            "corpus": pa.array([one.ask.corpus] * len(one.rows), pa.string()),
            "kind": pa.array([one.ask.kind.value] * len(one.rows), pa.string()),
            "language": index["language"],
            "modality": index["modality"],
            "questions": index["questions"],
            "tokens": pa.array(one.tokens),
            "seconds": pa.array(one.seconds),
            "tiles": costs["tiles"],
            "frames": costs["frames"],
            "audio_tokens": pa.array(one.audio),
            "spoken": pa.array(one.spoken, pa.list_(pa.int32())),
            "shard": pa.array(base + corpus.shard[one.rows]),
            "offset": index["offset"],
            "length": index["length"],
            "checksum": index["checksum"],
            **{f"speech_{name}": values for name, values in speech.items()},
        }
        table = pa.table(columns).cast(SAMPLES)
        table = table.append_column("position", pa.array(one.position)).append_column("draw", index["draw"])
        parts.append(table)
    whole = pa.concat_tables(parts).unify_dictionaries().combine_chunks()
    return whole.take(pa.array(np.lexsort((column(whole, "draw"), column(whole, "position")))))


def _capacity(table: pa.Table, stage: Stage, budget: int, prompts: dict[str, int]) -> tuple[npt.NDArray[np.bool_], int]:
    """Which samples may share a context, and what the largest system prompt among them leaves of it."""
    modality = table.column("modality").cast(pa.string()).to_pylist()
    alone = np.array(["video" in name or not stage.pack for name in modality], dtype=np.bool_)
    kinds = {_prompt([name]) for name in modality if "video" not in name} or {"text"}
    return ~alone, budget - max(prompts[kind] for kind in kinds)


def _prompt(modalities: Sequence[str]) -> str:
    """The system prompt of a context, as VITA chooses it: by what is seen in it."""
    together = "+".join(modalities)
    return next((kind for kind in ("video", "image") if kind in together), "text")


def _contexts(
    table: pa.Table, fits: npt.NDArray[np.bool_], packable: npt.NDArray[np.bool_], capacity: int, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int, float]:
    """Rows in training order, where each context starts, the bound on contexts, and the fill of the packed ones.

    Packed contexts keep the order of their windows; samples that stay alone are laid between them by their positions.
    """
    together, alone = np.flatnonzero(fits & packable), np.flatnonzero(fits & ~packable)
    costs = column(table, "tokens")[together].astype(np.int32)
    packing = fill(costs, capacity, seed=seed)
    packs = len(packing.starts) - 1
    places = np.concatenate([positions(packs), column(table, "position")[alone]])
    lengths = np.concatenate([np.diff(packing.starts), np.ones(len(alone), np.int64)])
    firsts = np.concatenate([packing.starts[:-1], len(together) + np.arange(len(alone))])
    rows = np.concatenate([together[packing.members], alone])
    sequence = np.argsort(places, kind="stable")
    starts = np.concatenate([[0], np.cumsum(lengths[sequence])]).astype(np.int64)
    inside = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths[sequence])
    order = rows[np.repeat(firsts[sequence], lengths[sequence]) + inside]
    return order, starts, packing.bound + len(alone), float(costs.sum() / (packs * capacity)) if packs else 1.0


def _context_table(samples: pa.Table, starts: npt.NDArray[np.int64], prompts: dict[str, int]) -> pa.Table:
    count = len(starts) - 1
    modality = np.array(samples.column("modality").cast(pa.string()).to_pylist(), dtype=object)
    seen = [np.array([kind in name for name in modality], dtype=np.int64) for kind in ("image", "video")]
    if count:
        image, video = (np.add.reduceat(flags, starts[:-1]) > 0 for flags in seen)
    else:
        image = video = np.zeros(0, np.bool_)
    prompt = np.where(video, "video", np.where(image, "image", "text"))
    sums = {
        name: np.add.reduceat(column(samples, name), starts[:-1]) if count else np.zeros(0)
        for name in ("tokens", "tiles", "frames", "audio_tokens", "seconds")
    }
    sums["tokens"] = sums["tokens"] + np.array([prompts[name] for name in prompt], dtype=np.int64)
    columns = {
        "context": np.arange(count),
        "prompt": pa.array(prompt.astype(object), pa.string()),
        "samples": np.diff(starts),
        "first": starts[:-1],
        **sums,
    }
    return pa.table({name: columns[name] for name in CONTEXTS.names}).cast(CONTEXTS).combine_chunks()


def _counts(selected: Sequence[Selected], fits: npt.NDArray[np.bool_], table: pa.Table) -> tuple[Count, ...]:
    """Selected and placed, by corpus, language and modality."""
    placed = dict(zip(table.column("key").to_pylist(), fits.tolist(), strict=True))
    groups: dict[tuple[str, Kind, str, str], Any] = {}
    for one in selected:
        index = one.corpus.index.take(pa.array(one.rows))
        names = [index.column(name).cast(pa.string()).to_pylist() for name in ("key", "language", "modality")]
        numbers = (column(index, "questions"), one.tokens, one.seconds, one.speakable, one.refused, one.pending)
        for key, language, modality, *values, spoken in zip(*names, *numbers, one.spoken, strict=True):
            questions, tokens, seconds, speakable, refused, pending = values
            group = groups.setdefault((one.ask.corpus, one.ask.kind, language, modality), Counter())
            both = {"": 1, "_questions": int(questions), "_tokens": int(tokens), "_seconds": float(seconds)}
            for suffix, value in both.items():
                group[f"selected{suffix}"] += value
                group[f"placed{suffix}"] += value * placed[key]
            group.update(speakable=int(speakable), refused=int(refused), pending=int(pending))
            group.update(spoken=len(spoken), placed_spoken=len(spoken) * placed[key])
    return tuple(
        Count(
            corpus=corpus,
            kind=kind,
            language=language,
            modality=modality,
            **{name: round(value, 6) if "seconds" in name else int(value) for name, value in group.items()},
        )
        for (corpus, kind, language, modality), group in sorted(groups.items())
    )

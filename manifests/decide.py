"""What a stage selects of each corpus, and what that costs once it is known what is heard: the decisions of a plan.

Everything here is arithmetic on the tables of a snapshot, column by column: a stage may have twenty million samples.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tarsia.builders.chat import prompt_of
from tarsia.builders.columns import whole
from tarsia.builders.tables import plain
from tarsia.builders.tokens import TILE_TOKENS
from tarsia.manifests.facts import Bools, Corpus, Int32s, column, groups, picked
from tarsia.manifests.hearing import Hearing, hearing_of, lasting, silence
from tarsia.manifests.select import Rows, arc, divide, reach
from tarsia.schemas.errors import BadRecipe, UnknownName
from tarsia.schemas.identity import Draws
from tarsia.schemas.lake import Snapshot
from tarsia.schemas.manifest import Ask
from tarsia.schemas.recipe import Context, Recipe, Stage, Take
from tarsia.schemas.sample import MADE, Kind


def refuse_unknown(recipe: Recipe, snapshot: Snapshot) -> None:
    """`UserError` where a take names a corpus or a tag that the lake does not have."""
    every = {state.corpus.name: state.corpus for state in snapshot.corpora}
    tags = {tag for corpus in every.values() for tag in corpus.tags}
    for name, stage in recipe.stages.items():
        for take in stage.takes:
            for known, what, said in (every, "corpus", take.corpus), (tags, "tag", take.tag):
                for one in said:
                    if one not in known:
                        raise UnknownName(what, one, known, f"stage {name}: take {take}")
            for one in take.corpus:
                if not take.wants(every[one]):
                    corpus = every[one]
                    tagged = f" and its tags are {', '.join(corpus.tags) or 'none'}" if take.tag else ""
                    raise BadRecipe(f"stage {name}: take {take}: corpus '{one}' is of kind {corpus.kind.value}{tagged}")


def choose(recipe: Recipe, stage: Stage, corpora: Sequence[Corpus]) -> list[tuple[Corpus, Ask, Rows]]:
    """The selected rows of every corpus that the stage asks for, in the order of its arc, with the ask."""
    chosen = []
    admitted = {corpus.state.corpus.name: _admitted(stage, corpus) for corpus in corpora}
    for number, one in enumerate(stage.takes):
        mine = [corpus for corpus in corpora if number in admitted[corpus.state.corpus.name]]
        pools = [admitted[corpus.state.corpus.name][number] for corpus in mine]
        if one.amount.unit == "tokens" and (unsaid := [it.state.corpus.name for it in mine if it.unsaid.any()]):
            raise BadRecipe(
                f"take {one}: how many tokens '{unsaid[0]}' has is not known before it is said; take samples"
            )
        sizes = [_sizes(corpus, pool, one.amount.unit) for corpus, pool in zip(mine, pools, strict=True)]
        parts = _asked(one, sizes) if one.amount.unit != "h" else _hours(one, mine, pools)
        for corpus, pool, size, asked in zip(mine, pools, sizes, parts, strict=True):
            rows = _taken(one, recipe.seed, corpus.draws if pool is None else corpus.draws[pool], size, asked)
            rows = rows if pool is None else pool[rows]
            ask = Ask(
                corpus=corpus.state.corpus.name,
                kind=one.kind,
                take=number,
                amount=str(one.amount),
                available=len(corpus.index) if pool is None else len(pool),
                available_seconds=round(float((corpus.seconds if pool is None else corpus.seconds[pool]).sum()), 6),
                spoken=_to_hear(stage, corpus, rows),
                **_in_its_unit(one.amount.unit, size, asked),
            )
            chosen.append((corpus, ask, rows))
    return chosen


def circle(recipe: Recipe, stage: Stage, take: int, corpus: Corpus) -> Rows:
    """All rows of a corpus that a take admits, in the order of their arc."""
    pool = _admitted(stage, corpus)[take]
    draws = corpus.draws if pool is None else corpus.draws[pool]
    rows = arc(draws, recipe.seed, len(draws))
    return rows if pool is None else pool[rows]


def _to_hear(stage: Stage, corpus: Corpus, rows: Rows) -> int | None:
    """How many of the selected questions are to be heard: a share of all, or whatever is nothing without a voice."""
    if corpus.state.corpus.kind not in MADE:
        return stage.spoken.of(int((corpus.questions * corpus.stands)[rows].sum())) if stage.spoken else None
    made = int(np.count_nonzero((corpus.unsaid & corpus.stands)[rows]))
    return made if made or stage.spoken else None


def _admitted(stage: Stage, corpus: Corpus) -> dict[int, Rows | None]:
    """The rows of a corpus that each take of the stage admits and none before it did; None stands for all of them."""
    takes = list(stage.admitted(corpus.state.corpus))
    if not takes or not len(corpus.index) or not (takes[0][1].language or takes[0][1].modality):
        return {number: None for number, _ in takes[:1]}
    group, names = groups(corpus.index)
    admitted: dict[int, Rows | None] = {}
    taken = np.zeros(len(names), np.bool_)
    for number, take in takes:
        fresh = np.array([take.admits(*name) for name in names], np.bool_) & ~taken
        taken |= fresh
        if fresh.any():
            admitted[number] = None if fresh.all() else np.flatnonzero(fresh[group])
    return admitted


def _sizes(corpus: Corpus, pool: Rows | None, unit: str) -> npt.NDArray[Any] | int:
    """What an amount counts in each admitted sample; for samples themselves, how many there are."""
    if unit in ("%", "samples"):
        return len(corpus.index) if pool is None else len(pool)
    if unit == "tokens":
        return _read(corpus.costs if pool is None else picked(corpus.costs, pool))
    sizes: npt.NDArray[Any] = lasting(corpus) if unit == "h" else corpus.questions
    return sizes if pool is None else sizes[pool]


def _read(costs: pa.Table) -> Rows:
    """The tokens of each sample when all of it is read, without a system prompt."""
    tiles, frames, audio = (column(costs, name).astype(np.int64) for name in ("tiles", "frames", "audio_tokens"))
    read = column(costs, "answers") + _sums(whole(costs.column("read")))
    return np.asarray(read + TILE_TOKENS * (tiles + frames) + audio)


def _asked(take: Take, sizes: Sequence[npt.NDArray[Any] | int]) -> list[int | float]:
    """What a take asks of each corpus: a share of all, or its part of a number of samples, questions, tokens.

    Numbers are divided exactly, in proportion to what each corpus has of the same.
    """
    amount = take.amount
    if amount.unit == "%":
        most = take.cap.number if take.cap else float("inf")
        return [int(min(amount.of(int(count)), most)) for count in sizes]
    return list(divide(int(amount.number), [int(np.sum(size)) for size in sizes]))


def _hours(take: Take, corpora: Sequence[Corpus], pools: Sequence[Rows | None]) -> list[int | float]:
    """The seconds asked of each corpus: what stands ready comes first, in proportion to what each has of it.

    Where that is too little, voices make the rest, in proportion to the samples that each corpus has no sound of. How
    long these will be nobody knows before; so no part depends on what was made already.
    """
    seconds = float(take.amount.number * 3600)
    ready = [
        float((one.seconds if pool is None else one.seconds[pool]).sum())
        for one, pool in zip(corpora, pools, strict=True)
    ]
    unsaid = [
        int((one.unsaid if pool is None else one.unsaid[pool]).sum()) for one, pool in zip(corpora, pools, strict=True)
    ]
    total, made = sum(ready), sum(unsaid)
    if total >= seconds or not made:
        return [seconds * own / total if total else 0.0 for own in ready]
    return [own + (seconds - total) * count / made for own, count in zip(ready, unsaid, strict=True)]


def _taken(take: Take, seed: int, draws: Draws, size: npt.NDArray[Any] | int, asked: int | float) -> Rows:
    """Places in the circle of the admitted samples, in the order of their arc."""
    unit = take.amount.unit
    if unit == "%":
        return arc(draws, seed, int(asked), take.amount.skipped(len(draws)))
    if unit == "samples":
        return arc(draws, seed, min(int(asked), len(draws)))
    return reach(draws, seed, np.asarray(size), asked)


def _in_its_unit(unit: str, size: npt.NDArray[Any] | int, asked: int | float) -> dict[str, Any]:
    """The fields of an ask that say how much was asked, and of how much where the ask does not say so anyway."""
    if unit in ("%", "samples"):
        return {"samples": asked}
    if unit == "h":
        return {"seconds": round(asked, 6)}
    return {unit: asked, f"available_{unit}": int(np.sum(size))}


class Selected(NamedTuple):
    """The selected rows of one corpus, in the order of its arc, with what each costs in the stage."""

    corpus: Corpus
    ask: Ask
    rows: Rows
    tokens: Int32s
    audio: pa.ChunkedArray | pa.Array  # tokens
    seconds: pa.ChunkedArray | pa.Array
    hearing: Hearing


def decide(
    corpus: Corpus, ask: Ask, rows: Rows, context: Context, prompts: Mapping[str, int], *, pending_as_text: bool
) -> Selected:
    """What of the selected questions is heard, and what every selected sample costs.

    `prompts`: tokens of each system prompt, for samples that carry their own.
    """
    if context.interleave and ask.kind is Kind.TTS and ask.spoken:
        raise BadRecipe(
            f"corpus '{ask.corpus}' has {ask.spoken} samples without a sound: interleave needs sounds that stand ready"
        )
    silent = ask.spoken is None
    hearing = silence(rows) if silent else hearing_of(corpus, ask, rows, context, pending_as_text=pending_as_text)
    costs = picked(corpus.costs, rows)
    audio, seconds = costs["audio_tokens"], costs["seconds"]  # views, as long as nothing is added
    if not silent:
        audio = pa.array((plain(whole(audio)) + hearing.audio).astype(np.int32))
        seconds = pa.array(plain(whole(seconds)) + hearing.samples16 / 16_000)
    tokens = _read(costs) + hearing.tokens
    if context.prompt == "sample":
        tokens += seen(picked(corpus.index, rows), prompts)
    if context.guide:
        tokens += context.guide * (plain(whole(audio)) > 0)
    return Selected(corpus, ask, rows, tokens.astype(np.int32), audio, seconds, hearing)


def seen(samples: pa.Table, prompts: Mapping[str, int]) -> Int32s:
    """For each sample, the tokens of the system prompt that goes with its media."""
    modality = whole(samples["modality"])
    named = [prompts[prompt_of([name])] for name in modality.dictionary.to_pylist()]
    return np.asarray(np.array(named, np.int32)[plain(modality.indices)])


def _sums(lists: pa.ListArray) -> Rows:
    """The sum of each list."""
    ends = plain(lists.offsets)
    reached = np.concatenate([[0], np.cumsum(plain(lists.values)[ends[0] : ends[-1]], dtype=np.int64)])
    return np.asarray(np.diff(reached[ends - ends[0]]))


def mute(one: Selected) -> Bools:
    """Which selected samples are nothing, since no voice has said them."""
    return np.asarray(one.corpus.unsaid[one.rows] & (plain(whole(pc.list_value_length(one.hearing.spoken))) == 0))

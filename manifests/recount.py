"""One stage of a manifest, recounted from the indexes of the lake that it was planned from, column beside column.

Nothing passes for being absent: what a table leaves out is noted when it is read, and stands here as a number that no
true value equals.
"""

from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa

from tarsia.builders.buckets import fewest
from tarsia.builders.chat import PROMPTS, system_tokens
from tarsia.builders.packing import lower_bound
from tarsia.builders.tokens import tokenizer
from tarsia.manifests.claimed import Claimed, Group
from tarsia.manifests.ledger import NOWHERE, Array, Bools, Int64s
from tarsia.manifests.rehear import Heard
from tarsia.schemas.lake import ORDER
from tarsia.schemas.manifest import WINDOW
from tarsia.schemas.recipe import Pack, Recipe
from tarsia.schemas.sample import Kind

_SLACK = 1e-6  # seconds
_MOST = 2**31


def check_header(stage: Claimed, recipe: Recipe | None) -> None:
    """The settings are those of the recipe, and the tars those of the snapshot."""
    manifest, where, book = stage.manifest, stage.where, stage.book
    alone = Recipe(
        model=manifest.model, seed=manifest.seed, context=manifest.context, stages={manifest.name: manifest.stage}
    )
    book.equal(where, "digest of the recipe", manifest.recipe, alone.digest)
    book.equal(where, "order", manifest.order, ORDER)
    if recipe is not None:
        book.equal(where, "model", manifest.model, recipe.model)
        book.equal(where, "seed", manifest.seed, recipe.seed)
        book.equal(where, "stage", manifest.stage, recipe.stages.get(manifest.name))
        pack, page = manifest.stage.pack, recipe.context
        rows = pack is not None and pack.seconds is not None and page.prompt == "context"  # each under its own prompt
        own = {
            "tokens": (pack.tokens if pack else None) or page.tokens,
            "prompt": "sample" if rows else page.prompt,
            "guide": page.guide if manifest.stage.guide is None else manifest.stage.guide,
        }
        book.equal(where, "context", manifest.context, page.model_copy(update=own))
    words = tokenizer(manifest.context.tokenizer, manifest.context.words)
    book.equal(where, "vocabulary", manifest.vocabulary, words.digest)
    book.equal(where, "prompts", manifest.prompts, {name: system_tokens(words, name) for name in PROMPTS})
    known = {shard.tar for state in stage.source.corpora for shard in state.shards}
    known |= {shard.tar for speech in stage.source.speech for shard in speech.shards}
    strange = [stored.path for stored in manifest.shards if stored not in known]
    book.check(where, not strange, f"tars that the lake's snapshot does not list: {strange[:3]}")


# --- contexts -------------------------------------------------------------------------------------------------------


class _Runs:
    """The samples of each context, to be summed up; contexts may be out of order, and samples of none."""

    def __init__(self, contexts: Array, count: int) -> None:
        inside = (contexts >= 0) & (contexts < count)
        self.outside: Bools = ~inside
        self._order: Any = slice(None)
        if not inside.all() or (contexts[1:] < contexts[:-1]).any():  # never of a true manifest
            places = np.flatnonzero(inside)
            self._order = places[np.argsort(contexts[places], kind="stable")]
        ordered = contexts[self._order]
        self._begins = np.flatnonzero(np.diff(ordered, prepend=-1))
        self._present, self._count = ordered[self._begins], count
        self.sizes = np.zeros(count, np.int64)
        self.sizes[self._present] = np.diff(self._begins, append=len(ordered))

    def of(self, values: Array, reduce: np.ufunc = np.add) -> Array:
        """The values of each context's samples, brought together; 0 for a context without any."""
        kind = np.int64 if values.dtype.kind in "iu" and reduce is np.add else values.dtype
        found = np.zeros(self._count, kind)
        if len(self._begins):
            found[self._present] = reduce.reduceat(values[self._order], self._begins, dtype=kind)
        return found


_VIDEO, _IMAGE, _ALONE = 1, 2, 4


def check_contexts(stage: Claimed) -> None:
    """Every context whole, within its budget, and what its row says; no sample meets a copy of itself."""
    manifest, pack, said, samples = stage.manifest, stage.manifest.stage.pack, stage.contexts, stage.samples
    count, chosen = len(said["context"]), stage.chosen
    stage.book.equal(stage.where, "contexts", manifest.contexts, count)
    runs = _Runs(samples["context"], count)
    stage.book.none(stage.where, "samples without a context", runs.outside,
                    lambda number: (stage.key(number), int(samples["context"][number])))  # fmt: skip
    traits = [_trait(group, pack) for group in stage.groups]
    held = runs.of(stage.of_groups(np.array(traits or [0], np.uint8))[: chosen.placed], np.bitwise_or)
    seen = np.where(held & _VIDEO, "video", np.where(held & _IMAGE, "image", "text"))
    prompts = np.array([prompt or "" for prompt in stage.prompts])[said["prompt"]]
    shared = manifest.context.prompt == "context"
    costs = np.zeros(count, np.int64)
    for name, cost in manifest.prompts.items():
        costs[seen == name] = cost if shared else 0
    tokens = runs.of(chosen.tokens[: chosen.placed])
    sums = {name: runs.of(samples[name]) for name in ("tiles", "frames", "audio_tokens")}
    wrong = prompts != (seen if shared else manifest.context.prompt)
    wrong |= (said["samples"] != runs.sizes) | (said["tokens"] != tokens + costs)
    for name, found in sums.items():
        wrong |= said[name] != found
    wrong |= ~(np.abs(said["seconds"] - runs.of(chosen.seconds[: chosen.placed])) <= _SLACK)
    wrong |= said["first"] != np.cumsum(runs.sizes) - runs.sizes
    wrong |= said["context"] != np.arange(count)
    wrong |= ((held & _ALONE) > 0) & (runs.sizes > 1)
    wrong |= said["tiles"].astype(np.int64) + said["frames"] > ((pack.tiles if pack else None) or _MOST)
    wrong |= _over(stage, runs)
    for numbers in (_out_of_place(stage), _met_twice(stage)):
        wrong[numbers[(numbers >= 0) & (numbers < count)]] = True
    stage.book.none(
        stage.where,
        "contexts that are not the sum of their samples, or differ from their row",
        wrong,
        lambda at: ("context", at, "recorded", int(said["tokens"][at]), "its samples come to",
                    int(tokens[at] + costs[at])),
    )  # fmt: skip


def _trait(group: Group, pack: Pack | None) -> int:
    trait = {"video": _VIDEO, "image": _IMAGE}.get(group.seen, 0)
    return trait | _ALONE * is_alone(group, pack)


def is_alone(group: Group, pack: Pack | None) -> bool:
    """Whether a sample of a group shares its context with nobody."""
    if pack is None or pack.seconds:
        return pack is None
    media = [name for name in ("text", "image", "video", "audio") if name in (group.modality or "")]
    return not {*media, group.kind}.isdisjoint(pack.alone)


def _over(stage: Claimed, runs: _Runs) -> Bools:
    """Contexts beyond what the recipe lets one hold; of batches by seconds, each sample has a row of its own."""
    said, pack, chosen = stage.contexts, stage.manifest.stage.pack, stage.chosen
    budget, padded = stage.manifest.context.tokens, said["padded_seconds"]
    if not (pack and pack.seconds):
        over: Bools = (said["tokens"] > budget) | ~np.isnan(padded)
        return over
    over = runs.of(chosen.tokens[: chosen.placed], np.maximum) > budget
    found = runs.of(chosen.seconds[: chosen.placed], np.maximum) * runs.sizes
    over |= ~(np.abs(padded - found) <= _SLACK) | (found > pack.seconds + _SLACK) | (runs.sizes > pack.samples)
    return over


def _out_of_place(stage: Claimed) -> Int64s:
    """The contexts of samples whose slot is not their distance from the first sample of theirs."""
    samples, said = stage.samples, stage.contexts
    contexts, slots = samples["context"], samples["slot"]
    here = (contexts >= 0) & (contexts < len(said["first"]))
    if not here.all():
        contexts = np.where(here, contexts, 0)
    wrong = np.zeros(len(contexts), np.bool_)
    if len(said["first"]):
        wrong = np.arange(len(slots)) - slots != said["first"][contexts]
        wrong |= (slots < 0) | (slots >= said["samples"][contexts])
    return samples["context"][wrong & here]


def _met_twice(stage: Claimed) -> Int64s:
    """The contexts that hold a sample and a copy of it."""
    chosen = stage.chosen
    rows = chosen.rows[: chosen.placed]
    if not (chosen.copies[: chosen.placed] > 0).any():
        return np.empty(0, np.int64)
    pairs = np.sort(stage.samples["context"].astype(np.int64) << 32 | rows.astype(np.uint32))
    return pairs[1:][(pairs[1:] == pairs[:-1]) & (pairs[1:].astype(np.uint32) != np.uint32(2**32 + NOWHERE))] >> 32


# --- samples --------------------------------------------------------------------------------------------------------


def check_samples(stage: Claimed) -> None:
    """Every sample once, and as the lake's index has it."""
    chosen, ledger, book = stage.chosen, stage.ledger, stage.book
    book.equal(stage.where, "samples selected twice", 0, stage.met.twice)
    book.none(stage.where, "samples that do not lie where the lake's index has them", stage.lying,
              lambda number: _named(stage, number))  # fmt: skip
    kinds = {state.corpus.name: state.corpus.kind.value for state in stage.source.corpora}
    of_kind = stage.of_groups([kinds.get(group.corpus or "") == group.kind for group in stage.groups] or [False])
    manners = stage.of_groups([stage.number(group) for group in stage.groups] or [0])
    wrong = ~of_kind | (chosen.rows == NOWHERE)
    if len(ledger):
        wrong |= (ledger.questions[chosen.rows] != chosen.questions) | (ledger.manner[chosen.rows] != manners)
        wrong |= ~(chosen.seconds - ledger.seconds[chosen.rows] >= -_SLACK)
    book.none(stage.where, "samples that are not what the lake's index says", wrong,
              lambda number: _named(stage, number))  # fmt: skip


def _named(stage: Claimed, number: int) -> tuple[str, str | None]:
    return stage.key(number), stage.groups[stage.chosen.groups[number]].corpus


# --- room -----------------------------------------------------------------------------------------------------------


def check_rooms(stage: Claimed, heard: Heard) -> None:
    """Unplaced is what no context of its own could hold; the bound and the fill are those of what may be shared."""
    manifest, pack, chosen = stage.manifest, stage.manifest.stage.pack, stage.chosen
    if manifest.stage.spoken is None and not heard.wanted.any():
        stage.book.equal(stage.where, "voices of a silent stage", manifest.pool, None)
    unsaid = heard.wanted & ~heard.made
    stage.book.none(stage.where, "samples that nobody has said are placed", unsaid[: chosen.placed],
                    lambda number: _named(stage, number))  # fmt: skip
    costs = manifest.prompts if manifest.context.prompt == "context" else dict.fromkeys(manifest.prompts, 0)
    budget, alone = manifest.context.tokens, [is_alone(group, pack) for group in stage.groups]
    rooms = [budget - costs[group.seen] for group in stage.groups]
    shared = [room for room, single in zip(rooms, alone, strict=True) if not single]
    capacity = min([budget - costs["text"], *shared])
    stage.book.equal(stage.where, "capacity", manifest.capacity, capacity)
    _check_unplaced(stage, heard, rooms)
    if pack and pack.seconds:
        _check_batches(stage, pack.seconds, pack.samples)
    else:
        _check_bound(stage, capacity, alone)


def _check_unplaced(stage: Claimed, heard: Heard, rooms: list[int]) -> None:
    chosen, pack, ledger = stage.chosen, stage.manifest.stage.pack, stage.ledger
    others = np.arange(chosen.placed, len(chosen))
    others = others[chosen.rows[others] != NOWHERE]  # those that the lake has; the rest is noted elsewhere
    if not len(others):
        return
    columns = {
        "number": others,
        "tokens": chosen.tokens[others],
        "room": np.array(rooms or [0])[chosen.groups[others]],
        "seconds": chosen.seconds[others],
        "gone": ledger.lengths[chosen.rows[others]] == 0,
        "unsaid": heard.wanted[others] & ~heard.made[others],
        "refused": heard.refused[others],
    }
    reasons = stage.reasons.take(pa.array(others - chosen.placed))
    with duckdb.connect() as sql:
        sql.register("unplaced", pa.table({**columns, "reason": reasons}))
        found = sql.execute(
            """
            select number, tokens, room, reason from unplaced where
            case when gone then reason is distinct from 'taken-down'
                 when unsaid then reason is distinct from 'unspoken: ' || if(refused, 'refused', 'pending')
                 when tokens > room
                      then reason is distinct from format('over-long: {} tokens, room for {}', tokens, room)
                 when $2::double is not null and seconds = 0
                      then reason is distinct from 'silent: no sound to be batched by'
                 when $2::double is not null then seconds <= $2::double or reason is distinct from
                      format('over-lasting: {:.3f} seconds, room for {:.3f}', seconds, $2::double)
            else not coalesce(regexp_full_match(reason, 'over-tiled: [0-9]+ tiles and frames, room for ' || $1), false)
                 or try_cast(regexp_extract(reason, '[0-9]+') as bigint) <= $1 end
            order by number limit 3
            """,
            [(pack.tiles if pack else None) or _MOST, pack.seconds if pack else None],
        ).fetchall()
    said = "; ".join(str((stage.key(number), *rest)) for number, *rest in found)
    stage.book.check(stage.where, not found, f"unplaced samples that would fit, or for another reason: {said}")


def _check_bound(stage: Claimed, capacity: int, alone: list[bool]) -> None:
    """No packing of what may be shared has fewer contexts; how full they are."""
    manifest, book, where = stage.manifest, stage.book, stage.where
    pack, chosen, samples = manifest.stage.pack, stage.chosen, stage.samples
    book.equal(where, "padding", manifest.padding, None)
    costs = chosen.tokens[: chosen.placed]
    together = ~stage.of_groups(alone or [False])[: chosen.placed] & (costs > 0) & (costs <= capacity)
    costs, contexts = costs[together].astype(np.int32), samples["context"][together]
    units = (samples["tiles"][together] + samples["frames"][together]).astype(np.int32) if pack and pack.tiles else None
    bound, binding = lower_bound(costs, capacity, units, pack.tiles if pack else None)
    book.equal(where, "bound", manifest.bound, bound + chosen.placed - len(costs))
    book.equal(where, "binding", manifest.binding, binding)
    inside = contexts[(contexts >= 0) & (contexts < len(stage.contexts["context"]))]
    packs = int(np.count_nonzero(np.bincount(inside)))
    fullness = int(costs.sum(dtype=np.int64)) / (packs * capacity) if packs else 1.0
    book.equal(where, "fill", manifest.fill, fullness)


def _check_batches(stage: Claimed, budget: float, most: int) -> None:
    """The bound, fill and padding of batches by seconds, from the seconds of their samples."""
    manifest, book, where = stage.manifest, stage.book, stage.where
    lengths = stage.chosen.seconds[: stage.chosen.placed]
    bound, binding = fewest(np.rint(lengths * 1e6).astype(np.int64), round(budget * 1e6), most)
    book.equal(where, "bound", manifest.bound, bound)
    book.equal(where, "binding", manifest.binding, binding)
    runs = _Runs(stage.samples["context"], len(stage.contexts["context"]))
    seconds, padded = float(lengths.sum()), float((runs.of(lengths, np.maximum) * runs.sizes).sum())
    batches = int(np.count_nonzero(runs.sizes))
    book.equal(where, "fill", manifest.fill, seconds / (batches * budget) if batches else 1.0)
    book.equal(where, "padding", manifest.padding, padded / seconds - 1 if seconds else 0.0)


# --- counts ---------------------------------------------------------------------------------------------------------


_FIGURES = ("selected", "selected_questions", "selected_tokens", "selected_seconds", "placed", "placed_questions",
            "placed_tokens", "placed_seconds", "spoken", "placed_spoken", "refused")  # fmt: skip


def check_counts(stage: Claimed, heard: Heard) -> None:
    """Selected, placed and heard, by corpus, language and modality."""
    manifest, book, found = stage.manifest, stage.book, _counted(stage, heard)
    claims = {Group(one.corpus, one.kind.value, one.language, one.modality): one for one in manifest.counts}
    book.equal(stage.where, "groups of samples", len(manifest.counts), len(found))
    book.check(stage.where, claims.keys() == found.keys(),
               f"other groups: {sorted(map(tuple, claims.keys() ^ found.keys()))}")  # fmt: skip
    for group in sorted(claims.keys() & found.keys()):
        where, one = f"{stage.where} {' '.join(map(str, group))}", claims[group]
        listened = manifest.stage.spoken is not None or (group.kind in ("tts", "noise") and group.modality == "text")
        for name, value in zip(_FIGURES, found[group], strict=True):
            if name != "refused" or listened:
                book.equal(where, name, getattr(one, name), value)
        if not listened:
            book.equal(where, "speakable, refused, pending", (one.speakable, one.refused, one.pending), (0, 0, 0))


def _counted(stage: Claimed, heard: Heard) -> dict[Group, tuple[Any, ...]]:
    """The figures of each group."""
    chosen = stage.chosen
    parts = slice(0, chosen.placed), slice(chosen.placed, None)

    def sums(values: Array | None, part: slice) -> Array:
        weights = None if values is None else values[part]
        return np.bincount(chosen.groups[part], weights, len(stage.groups))

    def said(which: Bools) -> Array:
        return np.bincount(chosen.groups[heard.at[which]], minlength=len(stage.groups))

    columns = (None, chosen.questions, chosen.tokens, chosen.seconds)
    placed, others = ([sums(values, part) for values in columns] for part in parts)
    selected = [one + two for one, two in zip(placed, others, strict=True)]
    spoken = said(np.ones(len(heard.at), np.bool_)), said(heard.at < chosen.placed)
    refused = np.bincount(chosen.groups, heard.refusals, len(stage.groups)) if heard.refusals.any() else spoken[0] * 0
    figures = np.stack([*selected, *placed, *spoken, refused]).T.tolist()
    whole = [name.endswith("seconds") for name in _FIGURES]
    return {
        group: tuple(value if exact else round(value) for value, exact in zip(row, whole, strict=True))
        for group, row in zip(stage.groups, figures, strict=True)
    }


def check_deviation(stage: Claimed) -> None:
    """The corpus and the window of contexts whose share of tokens is furthest from that of the stage."""
    claim, book, where = stage.manifest.deviation, stage.book, stage.where
    furthest = _furthest(stage)
    book.equal(where, "whether there is a window", claim is not None, furthest is not None)
    if claim is None or furthest is None:
        return
    corpora, inside, whole = furthest
    where = f"{where} window {claim.window} {claim.corpus}"
    there = claim.corpus in corpora and 0 <= claim.window < len(inside)
    book.check(where, there, "no such corpus or window")
    if there:
        corpus, distances = corpora.index(claim.corpus), np.abs(inside - whole)
        mine = float(distances[claim.window, corpus])
        book.equal(where, "share of tokens", claim.share, float(inside[claim.window, corpus]))
        book.equal(where, "share of tokens in the stage", claim.whole, float(whole[corpus]))
        largest = float(distances.max())
        book.check(where, mine >= largest - 1e-6, f"deviation {mine} is not the largest, {largest} is")


class _Shares(NamedTuple):
    corpora: list[str | None]
    inside: Array  # (windows, corpora): a corpus's share of the tokens of each
    whole: Array  # (corpora,): and of all


def _furthest(stage: Claimed) -> _Shares | None:
    """How the tokens of each whole window, and of all contexts, are shared among the corpora."""
    chosen, windows = stage.chosen, stage.manifest.contexts // WINDOW
    contexts, tokens = stage.samples["context"], chosen.tokens[: chosen.placed]
    corpora = sorted({group.corpus for group in stage.groups}, key=str)
    of_corpus = stage.of_groups([corpora.index(group.corpus) for group in stage.groups] or [0])[: chosen.placed]
    whole = np.bincount(of_corpus, tokens, len(corpora))
    if windows <= 0 or not whole.sum():
        return None
    code = np.clip(contexts // WINDOW, -1, windows).astype(np.int64) + 1
    code *= len(corpora)
    code += of_corpus
    sums = np.bincount(code, tokens, (windows + 2) * len(corpora)).reshape(-1, len(corpora))[1 : windows + 1]
    filled = sums.sum(axis=1, keepdims=True)
    return _Shares(corpora, sums / np.maximum(filled, 1), whole / whole.sum())

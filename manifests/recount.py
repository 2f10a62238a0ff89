"""One stage of a manifest, recounted from the indexes of the lake that it was planned from, column beside column.

Nothing passes for being absent: what a table leaves out is noted when it is read, and stands here as a number that no
true value equals.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa

from tarsia.builders.buckets import fewest
from tarsia.builders.chat import PROMPTS, system_tokens
from tarsia.builders.packing import lower_bound
from tarsia.builders.tokens import tokenizer
from tarsia.manifests.claimed import Claimed, Group
from tarsia.manifests.ledger import NOWHERE, STEP, Array, Bools, Int64s, steps
from tarsia.manifests.rehear import Heard
from tarsia.schemas.lake import ORDER
from tarsia.schemas.manifest import WINDOW
from tarsia.schemas.recipe import Pack, Recipe

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


_VIDEO, _IMAGE, _ALONE = 1, 2, 4
_SEEN = ("text", "image", "video")


class _Stretch:
    """Some contexts next to each other, with their samples."""

    def __init__(self, stage: Claimed, contexts: slice, rows: slice | Int64s) -> None:
        self.stage, self.contexts, self.rows = stage, contexts, rows
        self.of = stage.samples["context"][rows] - contexts.start
        self._begins = np.flatnonzero(np.diff(self.of, prepend=-1))
        self._present = self.of[self._begins]
        self.sizes = np.zeros(contexts.stop - contexts.start, np.int64)
        self.sizes[self._present] = np.diff(self._begins, append=len(self.of))

    def said(self, name: str) -> Array:
        """What the rows of the contexts say."""
        return self.stage.contexts[name][self.contexts]

    def brought(self, values: Array, reduce: np.ufunc = np.add) -> Array:
        """The values of each context's samples, brought together; 0 for a context without any."""
        kind = np.int64 if values.dtype.kind in "iu" and reduce is np.add else values.dtype
        found = np.zeros(len(self.sizes), kind)
        if len(self._begins) and values.any():
            found[self._present] = reduce.reduceat(values, self._begins, dtype=kind)
        return found


def _stretches(stage: Claimed) -> Iterator[_Stretch]:
    """All contexts, some at a time; samples may be out of order, and of no context, where a table was tampered with."""
    contexts, count = stage.samples["context"], len(stage.contexts["context"])
    ordered = all((contexts[part][1:] >= contexts[part][:-1]).all() for part in _overlapping(len(contexts)))
    order = None if ordered else np.argsort(contexts, kind="stable")
    sorted_ = contexts if order is None else contexts[order]
    size = max(1, count * STEP // max(1, len(contexts)))
    for begin in range(0, count, size):
        end = min(begin + size, count)
        low, high = np.searchsorted(sorted_, [begin, end]).tolist()
        yield _Stretch(stage, slice(begin, end), slice(low, high) if order is None else order[low:high])


def _overlapping(count: int) -> Iterator[slice]:
    return (slice(max(0, part.start - 1), part.stop) for part in steps(count))


def check_contexts(stage: Claimed) -> None:
    """Every context whole, within its budget, and what its row says; no sample meets a copy of itself."""
    manifest, said, contexts = stage.manifest, stage.contexts, stage.samples["context"]
    count, found = len(said["context"]), np.zeros(len(said["context"]), np.int64)
    stage.book.equal(stage.where, "contexts", manifest.contexts, count)
    stage.book.none(stage.where, "samples without a context", (contexts < 0) | (contexts >= count),
                    lambda number: (stage.key(number), int(contexts[number])))  # fmt: skip
    traits = np.array([_trait(group, manifest.stage.pack) for group in stage.groups] or [0], np.uint8)
    wrong, first = np.zeros(count, np.bool_), 0
    for stretch in _stretches(stage):
        wrong[stretch.contexts] = _is_wrong(stretch, traits, first, found[stretch.contexts])
        first += int(stretch.sizes.sum())
    stage.book.none(
        stage.where,
        "contexts that are not the sum of their samples, or differ from their row",
        wrong,
        lambda at: ("context", at, "recorded", int(said["tokens"][at]), "its samples come to", int(found[at])),
    )


def _is_wrong(stretch: _Stretch, traits: Array, first: int, found: Int64s) -> Bools:
    """Which contexts are not what their rows say; writes the tokens that they come to."""
    stage, rows, said, sizes = stretch.stage, stretch.rows, stretch.said, stretch.sizes
    manifest, pack, chosen = stage.manifest, stage.manifest.stage.pack, stage.chosen
    held = stretch.brought(traits[chosen.groups[rows]], np.bitwise_or)
    seen = np.where(held & _VIDEO, 2, np.where(held & _IMAGE, 1, 0))
    shared, prompts = manifest.context.prompt == "context", np.array(stage.prompts or [None], object)
    costs = np.array([manifest.prompts[name] if shared else 0 for name in _SEEN])
    named = np.array([prompts == (name if shared else manifest.context.prompt) for name in _SEEN])
    found[:] = stretch.brought(chosen.tokens[rows]) + costs[seen]
    wrong: Bools = ~named[seen, said("prompt")]
    wrong |= (said("samples") != sizes) | (said("tokens") != found)
    for name in ("tiles", "frames", "audio_tokens"):
        wrong |= said(name) != stretch.brought(stage.samples[name][rows])
    wrong |= ~(np.abs(said("seconds") - stretch.brought(chosen.seconds[rows])) <= _SLACK)
    wrong |= said("first") != np.cumsum(sizes) - sizes + first
    wrong |= said("context") != np.arange(stretch.contexts.start, stretch.contexts.stop)
    wrong |= ((held & _ALONE) > 0) & (sizes > 1)
    wrong |= said("tiles").astype(np.int64) + said("frames") > ((pack.tiles if pack else None) or _MOST)
    wrong |= _over(stretch)
    wrong[stretch.of[_out_of_place(stretch)]] = True
    wrong[_met_twice(stretch)] = True
    return wrong


def _trait(group: Group, pack: Pack | None) -> int:
    trait = {"video": _VIDEO, "image": _IMAGE}.get(group.seen, 0)
    return trait | _ALONE * is_alone(group, pack)


def is_alone(group: Group, pack: Pack | None) -> bool:
    """Whether a sample of a group shares its context with nobody."""
    if pack is None or pack.seconds:
        return pack is None
    media = [name for name in ("text", "image", "video", "audio") if name in (group.modality or "")]
    return not {*media, group.kind}.isdisjoint(pack.alone)


def _over(stretch: _Stretch) -> Bools:
    """Contexts beyond what the recipe lets one hold; of batches by seconds, each sample has a row of its own."""
    said, chosen, manifest = stretch.said, stretch.stage.chosen, stretch.stage.manifest
    budget, pack, padded = manifest.context.tokens, manifest.stage.pack, said("padded_seconds")
    if not (pack and pack.seconds):
        return np.asarray((said("tokens") > budget) | ~np.isnan(padded))
    over: Bools = stretch.brought(chosen.tokens[stretch.rows], np.maximum) > budget
    lasting = stretch.brought(chosen.seconds[stretch.rows], np.maximum) * stretch.sizes
    over |= ~(np.abs(padded - lasting) <= _SLACK)
    over |= (lasting > pack.seconds + _SLACK) | (stretch.sizes > pack.samples)
    return over


def _out_of_place(stretch: _Stretch) -> Bools:
    """The samples whose slot is not their distance from the first sample of their context."""
    slots, rows = stretch.stage.samples["slot"][stretch.rows], stretch.rows
    numbers = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
    wrong: Bools = numbers - slots != stretch.said("first")[stretch.of]
    wrong |= (slots < 0) | (slots >= stretch.said("samples")[stretch.of])
    return wrong


def _met_twice(stretch: _Stretch) -> Int64s:
    """The contexts that hold a sample and a copy of it."""
    chosen = stretch.stage.chosen
    if not (chosen.copies[stretch.rows] != 0).any():
        return np.empty(0, np.int64)
    known = chosen.rows[stretch.rows] != NOWHERE
    pairs = np.sort(stretch.of[known].astype(np.int64) << 32 | chosen.rows[stretch.rows][known])
    again: Int64s = pairs[1:][pairs[1:] == pairs[:-1]] >> 32
    return again


# --- samples --------------------------------------------------------------------------------------------------------


def check_samples(stage: Claimed) -> None:
    """Every sample once, and as the lake's index has it."""
    chosen, ledger, book = stage.chosen, stage.ledger, stage.book
    book.equal(stage.where, "samples selected twice", 0, stage.met.twice)
    book.none(stage.where, "samples that do not lie where the lake's index has them", stage.lying,
              lambda number: _named(stage, number))  # fmt: skip
    kinds = {state.corpus.name: state.corpus.kind.value for state in stage.source.corpora}
    manners = np.array([stage.number(group) if kinds.get(group.corpus or "") == group.kind else -1
                        for group in stage.groups] or [-1])  # fmt: skip
    wrong = np.zeros(len(chosen), np.bool_)
    for part in steps(len(chosen)):
        rows, mine = chosen.rows[part], wrong[part]
        mine[:] = (rows == NOWHERE) | (ledger.questions[rows] != chosen.questions[part])
        mine |= ledger.manner[rows] != stage.of_groups(manners, part)
        mine |= ~(chosen.seconds[part] - ledger.seconds[rows] >= -_SLACK)
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
    together = ~stage.of_groups(np.array(alone), slice(0, chosen.placed)) & (costs > 0) & (costs <= capacity)
    costs, contexts = costs[together], samples["context"][together]
    units = samples["tiles"][together] + samples["frames"][together] if pack and pack.tiles else None
    bound, binding = lower_bound(costs, capacity, units, pack.tiles if pack else None)
    book.equal(where, "bound", manifest.bound, bound + chosen.placed - len(costs))
    book.equal(where, "binding", manifest.binding, binding)
    packs = int(np.count_nonzero(contexts[1:] != contexts[:-1])) + 1 if len(contexts) else 0
    fullness = int(costs.sum(dtype=np.int64)) / (packs * capacity) if packs else 1.0
    book.equal(where, "fill", manifest.fill, fullness)


def _check_batches(stage: Claimed, budget: float, most: int) -> None:
    """The bound, fill and padding of batches by seconds, from the seconds of their samples."""
    manifest, book, where = stage.manifest, stage.book, stage.where
    lengths = stage.chosen.seconds[: stage.chosen.placed]
    bound, binding = fewest(np.rint(lengths * 1e6).astype(np.int64), round(budget * 1e6), most)
    book.equal(where, "bound", manifest.bound, bound)
    book.equal(where, "binding", manifest.binding, binding)
    seconds, padded, batches = float(lengths.sum()), 0.0, 0
    for stretch in _stretches(stage):
        batches += int(np.count_nonzero(stretch.sizes))
        padded += float((stretch.brought(lengths[stretch.rows], np.maximum) * stretch.sizes).sum())
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
    chosen, size = stage.chosen, len(stage.groups)
    placed, others = slice(0, chosen.placed), slice(chosen.placed, len(chosen))

    def sums(values: Array | None, part: slice) -> Array:
        return sum_by(chosen.groups[part], None if values is None else values[part], size)

    columns = (None, chosen.questions, chosen.tokens, chosen.seconds)
    inside = [sums(values, placed) for values in columns]
    selected = [one + sums(values, others) for one, values in zip(inside, columns, strict=True)]
    spoken = [sum_by(chosen.groups[at], None, size) for at in (heard.at, heard.at[heard.at < chosen.placed])]
    refused = sums(heard.refusals, slice(None)) if heard.refusals.any() else spoken[0] * 0
    figures = np.stack([*selected, *inside, *spoken, refused]).T.tolist()
    whole = [name.endswith("seconds") for name in _FIGURES]
    return {
        group: tuple(value if exact else round(value) for value, exact in zip(row, whole, strict=True))
        for group, row in zip(stage.groups, figures, strict=True)
    }


def sum_by(groups: Array, values: Array | None, size: int) -> Array:
    """The sum of the values of each group, or how many it has."""
    found = np.zeros(size)
    for part in steps(len(groups)):
        found += np.bincount(groups[part], None if values is None else values[part], size)
    return found


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
    corpora = sorted({group.corpus for group in stage.groups}, key=str)
    of_groups = np.array([corpora.index(group.corpus) for group in stage.groups], np.int64)
    sums = np.zeros((max(0, windows) + 2, len(corpora)))  # a row before the first window, and one behind the last
    for part in steps(chosen.placed):
        numbers = np.clip(stage.samples["context"][part] // WINDOW, -1, windows) + 1
        low, high = int(numbers.min()), int(numbers.max()) + 1
        code = (numbers - low) * len(corpora) + stage.of_groups(of_groups, part)
        some = np.bincount(code, chosen.tokens[part], (high - low) * len(corpora))
        sums[low:high] += some.reshape(-1, len(corpora))
    whole, sums = sums.sum(axis=0), sums[1:-1]
    if windows <= 0 or not whole.sum():
        return None
    filled = sums.sum(axis=1, keepdims=True)
    return _Shares(corpora, sums / np.maximum(filled, 1), whole / whole.sum())

"""Every figure of a manifest, computed again from what is stored, by other means than those that made it.

The audit imports nothing of select, decide, costs or plan. It recounts each stage from the tables of manifest and lake
(`recount`: is it the recipe's stage, is every sample placed once and whole, is the selection exactly the arc of the
circle that share and seed name, do the counts add up, is what is heard the first of what was accepted), looks between
the stages (does a smaller share lie inside a larger one) and at the lake (did every record end as a sample or in
quarantine). `deep` reads every byte and counts every token again (`reread`).

A **finding** names the place and the two figures that disagree. No findings: the manifest is true. What cannot be read
is a finding too: the audit always ends with a report.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, pairwise

import numpy as np

from tarsia.builders.columns import whole
from tarsia.builders.lake import Lake
from tarsia.builders.memory import kept
from tarsia.builders.storage import Store
from tarsia.builders.tables import get_table
from tarsia.manifests.claimed import Claimed, Desk, claimed
from tarsia.manifests.findings import Audit, Book, Finding, Recounted, Shared
from tarsia.manifests.keys import Keys, keys_of
from tarsia.manifests.ledger import Array, Ledger
from tarsia.manifests.recount import (
    check_contexts,
    check_counts,
    check_deviation,
    check_header,
    check_rooms,
    check_samples,
    sum_by,
)
from tarsia.manifests.refollow import check_repair
from tarsia.manifests.rehear import Heard, check_speech, hear, read_verdicts
from tarsia.manifests.reread import Claim, reread
from tarsia.manifests.reread_packs import reread_packs
from tarsia.manifests.reselect import Admitted, Scope, admitted, check_selection, scopes, takes_of_groups
from tarsia.schemas.lake import CorpusState, Snapshot
from tarsia.schemas.manifest import SAMPLES, Manifest
from tarsia.schemas.recipe import Recipe
from tarsia.schemas.shard import Shard

__all__ = ["Audit", "Finding", "audit"]


def audit(lake: Lake, manifests: Sequence[Manifest], *, recipe: Recipe | None = None, deep: bool = False) -> Audit:
    """Recomputes the manifests and the lake they were planned from; compares them with the recipe, where one is given.

    `deep` reads every byte that they point to, and counts every token again.
    """
    with kept():
        return _audited(lake, manifests, recipe, deep)


def _audited(lake: Lake, manifests: Sequence[Manifest], recipe: Recipe | None, deep: bool) -> Audit:
    book, claims, chosen = Book(), list[Claim](), dict[Scope, list[tuple[str, Array]]]()
    said, bits = list[Recounted](), dict[str, Array]()
    snapshots = _snapshots(lake, book)
    parts = [_planned_from(manifest, snapshots) for manifest in manifests]
    known = [*snapshots[:1], *filter(None, parts)]
    spoken = {speech.corpus for one in known for speech in one.speech}
    ledger, desk = Ledger(lake.store, [state for one in known for state in one.corpora], spoken), Desk(manifests)
    for state in snapshots[0].corpora if snapshots else ():
        with book.reading(f"corpus {state.corpus.name}"):
            _check_conservation(lake.store, ledger, state, book)
    for manifest, source in zip(manifests, parts, strict=True):
        where = f"{manifest.model}/{manifest.name}"
        with book.reading(where):
            book.check(where, source is not None, "no snapshot of the lake is the one it was planned from")
            lost = [name for name in ("contexts", "samples", "unplaced") if name not in manifest.tables]
            for name in lost:
                book.check(where, False, f"the manifest has no table '{name}'")
            if source is not None and not lost:
                stage = claimed(lake.store, manifest, source, ledger, book, desk)
                claim_of = _recount(stage, lake.store, recipe, chosen)
                said.append(_said(stage))
                bits[where] = ledger.bits(stage.met.rows)
                if deep:
                    claims.append(claim_of())
    _check_nesting(chosen, ledger, book)
    if deep:
        reread(lake.store, snapshots[:1], claims, book)
        for claim in claims:
            with book.reading(claim.where):
                reread_packs(lake.store, claim, book)
    shared = tuple(_shared(bits, *pair) for pair in combinations(bits, 2))
    return Audit(checks=book.checks, findings=tuple(book.findings), stages=tuple(said), shared=shared)


def _snapshots(lake: Lake, book: Book) -> list[Snapshot]:
    """All snapshots that can be read, the newest first."""
    found = []
    with book.reading("snapshots"):
        numbers = lake.numbers()
        book.check("snapshots", bool(numbers), "the lake has none")
        for number in reversed(numbers):
            with book.reading(f"snapshot {number}"):
                found.append(lake.snapshot(number))
    return found


def _planned_from(manifest: Manifest, snapshots: Sequence[Snapshot]) -> Snapshot | None:
    parts = (snapshot.part(manifest.stage.wants, manifest.pool) for snapshot in snapshots)
    return next((part for part in parts if part.digest == manifest.lake), None)


def _recount(
    stage: Claimed, store: Store, recipe: Recipe | None, chosen: dict[Scope, list[tuple[str, Array]]]
) -> Callable[[], Claim]:
    """Notes whatever of the stage is not as its manifest says; how to get what `deep` compares with the bytes."""
    verdicts, every = read_verdicts(store, stage.source, stage.ledger), admitted(stage)
    heard = hear(stage, verdicts, takes_of_groups(stage, every))
    checks: tuple[Callable[[], None], ...] = (
        lambda: check_contexts(stage),
        lambda: check_samples(stage),
        lambda: check_rooms(stage, heard),
        lambda: check_selection(stage, verdicts, every),
        lambda: check_speech(stage, verdicts, heard),
        lambda: check_counts(stage, heard),
        lambda: check_deviation(stage),
        lambda: check_header(stage, recipe),
    )
    for check in checks:
        with stage.book.reading(stage.where):
            check()
    with stage.book.reading(f"{stage.where} repaired"):
        check_repair(stage, store)
    for scope, rows in scopes(stage, every):
        chosen.setdefault(scope, []).append((stage.manifest.name, rows))
    return lambda: _claim(stage, store, heard, every)


def _said(stage: Claimed) -> Recounted:
    longest = int(stage.contexts["tokens"].max(initial=0))
    pack = stage.manifest.stage.pack
    room = None if pack and pack.seconds else stage.manifest.context.tokens
    return Recounted(stage=stage.where, samples=len(stage.met.rows), contexts=len(stage.contexts["tokens"]),
                     longest=longest, room=room)  # fmt: skip


def _shared(bits: Mapping[str, Array], stage: str, other: str) -> Shared:
    both, one, two = (int(np.bitwise_count(some).sum(dtype=np.int64))
                      for some in (bits[stage] & bits[other], bits[stage], bits[other]))  # fmt: skip
    return Shared(stage=stage, other=other, samples=both, nested=both == min(one, two))


def _claim(stage: Claimed, store: Store, heard: Heard, every: Sequence[Admitted]) -> Claim:
    """What `deep` compares with the bytes."""
    manifest, chosen = stage.manifest, stage.chosen
    due: dict[tuple[str, int], dict[int, int]] = {}
    for at, turn, length in zip(heard.at.tolist(), heard.turns.tolist(), heard.lengths.tolist(), strict=True):
        if at >= chosen.placed:
            due.setdefault((stage.key(at), int(chosen.copies[at])), {})[turn] = length
    unplaced: dict[str, dict[int, int]] = {}
    for at in range(chosen.placed, len(chosen)):
        unplaced.setdefault(stage.key(at), {})[int(chosen.copies[at])] = int(chosen.tokens[at])
    decided = sum_by(chosen.groups, heard.decided, len(stage.groups)).astype(np.int64).tolist()
    groups = [(str(one.corpus), str(one.language), str(one.modality)) for one in stage.groups]
    manners = [(str(language), str(modality)) for language, modality in stage.ledger.manners]
    return Claim(
        stage.where,
        manifest,
        stage.source,
        get_table(store, manifest.tables["samples"], SAMPLES.names).cast(SAMPLES),
        unplaced,
        due,
        dict(zip(groups, decided, strict=True)),
        {(one.corpus, *manners[manner]): one.take for one in every for manner in one.manners},
    )


# --- between the stages, and the lake -------------------------------------------------------------------------------


def _check_nesting(chosen: Mapping[Scope, Sequence[tuple[str, Array]]], ledger: Ledger, book: Book) -> None:
    """Of two stages of one seed that take of the same samples of a corpus, the smaller lies inside the larger."""
    for scope, stages in sorted(chosen.items()):
        for (small, inner), (large, outer) in pairwise(sorted(stages, key=lambda one: (len(one[1]), one[0]))):
            missing = inner[~np.isin(inner, outer, assume_unique=True)]
            if len(missing):  # the stages may have been planned from two snapshots: the same sample, another row
                missing = missing[~np.isin(ledger.first(missing), ledger.first(outer))]
            where = f"{scope.model} {scope.corpus}"
            book.equal(where, f"samples of {small} that are not in {large}", 0, len(missing))


def _check_conservation(store: Store, ledger: Ledger, state: CorpusState, book: Book) -> None:
    """Every record that was read is a sample or a row in quarantine, once, counted in the stored tables."""
    where, run = f"corpus {state.corpus.name}", ledger.run(state)
    for number, shard in zip(run.shards, state.shards, strict=True):
        _check_shard(where, ledger, number, shard, book)
    keys, lengths = ledger.keys[run.rows], ledger.lengths[run.rows]
    book.equal(where, "samples out of draw order", 0, int((keys.draws[1:] < keys.draws[:-1]).sum()))
    book.equal(where, "keys without their draw", 0, sum(ledger.undrawn[number] for number in run.shards))
    codes, refused = Counter[str | None](), keys[:0]
    if state.quarantine:
        table = get_table(store, state.quarantine, ("key", "code"), verify=True)
        codes.update(table["code"].to_pylist())
        refused = keys_of(whole(table["key"]))
    stones, buried = list[str | None](), 0
    if state.tombstones:
        table = get_table(store, state.tombstones, ("key", "sample"), verify=True)
        buried = len(table)
        pairs = zip(table["key"].to_pylist(), table["sample"].to_pylist(), strict=True)
        stones = [key for key, sample in pairs if sample]
    records = [
        keys_of(whole(get_table(store, stored, ("key",), verify=True, raw=True)["key"])) for stored in state.origins
    ]
    book.equal(where, "quarantined", state.quarantined, dict(codes))
    book.equal(where, "taken down", state.taken_down, buried)
    book.equal(where, "records read", state.records, sum(map(len, records)) + buried)
    ended = len(run) - len(stones) + codes.total() + buried
    book.equal(where, "records = samples + quarantined + taken down", state.records, ended)
    samples = keys if (lengths > 0).all() else keys[lengths > 0]
    _check_ends(where, records, samples, refused, book)
    silent = [ledger.key(run.begin + row) for row in np.flatnonzero(lengths <= 0).tolist()]
    name = "samples taken down that have no tombstone, or the reverse"
    book.equal(where, name, 0, len({*silent} ^ {*stones}))


def _check_shard(where: str, ledger: Ledger, number: int, shard: Shard, book: Book) -> None:
    """The figures of a shard, and the interval of the circle that it is named after."""
    begin, end = ledger.begins[number : number + 2]
    stands, draws = ledger.lengths[begin:end] > 0, ledger.draws[begin:end]
    book.equal(where, f"samples of {shard.leaf}", shard.samples, len(draws))
    book.equal(where, f"samples taken down of {shard.leaf}", shard.taken_down, int((~stands).sum()))
    questions = int(ledger.questions[begin:end][stands].sum())
    book.equal(where, f"questions of {shard.leaf}", shard.questions, questions)
    edges = (int(draws.min()), int(draws.max())) if len(draws) else ()
    bits = {f"{draw:064b}"[: len(shard.leaf) - 1] for draw in edges}
    book.equal(where, f"bits that the draws of {shard.leaf} begin with", {shard.leaf[1:]}, bits)


def _check_ends(where: str, records: Sequence[Keys], samples: Keys, refused: Keys, book: Book) -> None:
    """Every record ended once: as a sample, or in quarantine."""
    wrong = dict.fromkeys(
        (
            "records with the same key",
            "records that are sample and quarantined",
            "records that came to nothing",
            "samples that no record is known of",
        ),
        0,
    )
    ended = _merged(samples, refused)
    if not _one_by_one(records, ended):
        known, came = _ordered(*records), _ordered(ended)
        unlike = (len(np.setdiff1d(*pair)) for pair in ((known, came), (came, known)))
        wrong = dict(zip(wrong, (_repeated(known), _repeated(came), *unlike), strict=True))
    for name, count in wrong.items():
        book.equal(where, name, 0, count)


def _merged(samples: Keys, refused: Keys) -> Keys:
    """Two lots of keys as one; in order, if each of them is and no two begin with the same draw."""
    if not len(refused):
        return samples
    at = np.searchsorted(samples.draws, refused.draws)
    return Keys(np.insert(samples.draws, at, refused.draws), np.insert(samples.tails, at, refused.tails))


def _one_by_one(records: Sequence[Keys], ended: Keys) -> bool:
    """Whether the records are these keys, in their order, none of them twice."""
    begin = 0
    for keys in records:
        mine = ended[begin : begin + len(keys)]
        if (
            len(mine) < len(keys)
            or not mine.same(keys).all()
            or not ended[max(0, begin - 1) : begin + len(keys)].rising()
        ):
            return False
        begin += len(keys)
    return begin == len(ended)


def _ordered(*parts: Keys) -> Array:
    """Keys in order, each as one value of two fields."""
    kind = np.dtype([("draw", np.uint64), ("tail", np.uint64)])
    keys = np.empty(sum(map(len, parts)), kind)
    for name in ("draws", "tails"):
        keys[name[:-1]] = np.concatenate([keys["draw"][:0], *(getattr(part, name) for part in parts)])
    return keys[np.lexsort((keys["tail"], keys["draw"]))]


def _repeated(keys: Array) -> int:
    return int((keys[1:] == keys[:-1]).sum())

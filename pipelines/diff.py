"""`tarsia diff`: what a change of a recipe or of a lake does to plans, before or after it is made.

Two stored plans are compared by their tables; a recipe is planned first, as `plan --dry-run` does it, and compared
with what stands. Questions without a verdict count as text there, and are named: that many wait for a voice.
"""

from collections.abc import Iterator, Mapping, Sequence

from tarsia.builders.lake import Lake
from tarsia.builders.tables import as_schema, in_groups
from tarsia.manifests.changes import Changes
from tarsia.manifests.changes import changes as compare
from tarsia.manifests.difference import (
    PLACED,
    Change,
    Contexts,
    Difference,
    Placed,
    Sums,
    contexts,
    corpora,
    placed,
)
from tarsia.manifests.refollow import parent_of
from tarsia.manifests.stream import load_manifest, manifest_digest
from tarsia.pipelines.plan import Fresh, asked_differently, chosen_stages, stages_of
from tarsia.pipelines.pool import Pool
from tarsia.schemas.errors import NotThere, UnknownName, UserError
from tarsia.schemas.manifest import SAMPLES, Manifest
from tarsia.schemas.recipe import Recipe


def between(lake: Lake, one: str, other: str | None = None, *, elsewhere: Lake | None = None) -> Difference:
    """Two stored plans: of two stages, of one in two lakes, or of a repaired one and its parent."""
    there = elsewhere or lake
    before = load_manifest(lake.url, one)
    if other is None and elsewhere is None:
        before, after = _parent(lake, before), before
    else:
        after = load_manifest(there.url, other or one)
    if before.rows == after.rows:
        return _difference(before, after, None)
    return _difference(before, after, (_placed(lake, before), _placed(there, after)))


def of_recipe(
    recipe: Recipe, lake: Lake, pool: Pool, *, only: Sequence[str] = (), voices: str | None = None, quiet: bool = False
) -> list[Difference]:
    """What `plan --replace` would change of each stage of the recipe, in their order."""
    planned = stages_of(recipe, lake, pool, only=only, voices=voices, pending_as_text=True, quiet=quiet)
    changes = {fresh.manifest.name: _change(lake, fresh) for fresh in planned}
    return [changes[name] for name in chosen_stages(recipe, only)]


def _change(lake: Lake, fresh: Fresh) -> Difference:
    after = fresh.manifest
    try:
        before = load_manifest(lake.url, f"{after.model}/{after.name}")
    except NotThere:
        before = None
    if before and before.rows == after.rows:
        return _difference(before, after, None, fresh.planned.waiting)
    was, samples = _placed(lake, before) if before else placed([], 0), fresh.planned.samples
    now = placed((as_schema(table, SAMPLES) for table in samples.tables()), len(samples))
    return _difference(before, after, (was, now), fresh.planned.waiting)


def of_snapshots(lake: Lake, before: int, after: int) -> Changes:
    """What changed in the lake from one snapshot to another."""
    known = lake.numbers()
    for number in (before, after):
        if number not in known:
            raise UnknownName("snapshot", str(number), map(str, known), lake.url)
    return compare(lake.store, lake.snapshot(before), lake.snapshot(after))


def _parent(lake: Lake, manifest: Manifest) -> Manifest:
    stage = f"{manifest.model}/{manifest.name}"
    if not manifest.repaired:
        raise UserError(f"{lake.url}: stage {stage} was planned from scratch; say what to compare it with")
    return parent_of(lake.store, manifest, manifest.repaired.parents[-1])


def _placed(lake: Lake, manifest: Manifest) -> Placed:
    return placed(in_groups(lake.store, manifest.tables["samples"], PLACED), sum(one.placed for one in manifest.counts))


def _difference(
    before: Manifest | None,
    after: Manifest,
    samples: tuple[Placed, Placed] | None,
    waiting: Mapping[str, int] | None = None,
) -> Difference:
    """Of two plans with their samples; without these, of two whose rows are the same, which nobody needs to read."""
    first, second = (f"{one.model}/{one.name}" if one else None for one in (before, after))
    moved = corpora(*samples) if samples else _unmoved(after)
    stays = contexts(*samples) if samples else Contexts(after.contexts, after.contexts, 0)
    return Difference(
        stage=second or "",
        against=first if first != second else None,
        before=manifest_digest(before) if before else None,
        after=manifest_digest(after),
        settings=tuple(asked_differently(before, after)) if before else (),
        lake=bool(before and before.lake != after.lake),
        corpora=tuple(one.model_copy(update={"waiting": (waiting or {}).get(one.corpus, 0)}) for one in moved),
        contexts_before=before.contexts if before else 0,
        contexts_after=after.contexts,
        **stays._asdict(),
        unplaced_before=_unplaced(before) if before else 0,
        unplaced_after=_unplaced(after),
    )


def _unmoved(manifest: Manifest) -> Iterator[Change]:
    """Every corpus of a plan that did not change."""
    for corpus in sorted({count.corpus for count in manifest.counts if count.placed}):
        mine = [count for count in manifest.counts if count.corpus == corpus]
        sums = Sums(
            samples=sum(count.placed for count in mine),
            questions=sum(count.placed_questions for count in mine),
            tokens=sum(count.placed_tokens for count in mine),
            seconds=sum(count.placed_seconds for count in mine),
            spoken=sum(count.placed_spoken for count in mine),
        )
        yield Change(corpus=corpus, kept=sums.samples, changed=0, added=0, removed=0, before=sums, after=sums)


def _unplaced(manifest: Manifest) -> int:
    return sum(count.selected - count.placed for count in manifest.counts)

"""`tarsia plan`: every stage of a recipe as a manifest, from the tables of the newest snapshot.

The tables of a manifest are stored first, the manifest last.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from tarsia.builders.chat import system_tokens
from tarsia.builders.lake import Lake
from tarsia.builders.tables import open_table, put_table, put_tables
from tarsia.manifests.costs import words_of
from tarsia.manifests.facts import Corpus
from tarsia.manifests.plan import PROMPTS, Planned, plan
from tarsia.manifests.repair import Parent
from tarsia.manifests.stream import load_manifest, manifest_digest
from tarsia.pipelines.corpora import Corpora
from tarsia.pipelines.pool import Pool
from tarsia.schemas.errors import Corrupt, Drift, NotThere, UnknownName
from tarsia.schemas.identity import canonical
from tarsia.schemas.lake import FORMAT, ORDER, Snapshot
from tarsia.schemas.manifest import SAMPLES, Manifest, Repaired, parent_path, stage_path
from tarsia.schemas.recipe import Recipe


def chosen_stages(recipe: Recipe, only: Sequence[str]) -> list[str]:
    """The stages of the recipe, or those named."""
    for name in only:
        if name not in recipe.stages:
            raise UnknownName("stage", name, recipe.stages)
    return [name for name in recipe.stages if not only or name in only]


def make_plans(
    recipe: Recipe,
    lake: Lake,
    pool: Pool,
    *,
    only: Sequence[str] = (),
    voices: str | None = None,
    pending_as_text: bool = False,
    replace: bool = False,
    repair: bool = False,
    dry_run: bool = False,
    quiet: bool = False,
) -> list[Manifest]:
    """Plans the stages and stores their manifests. `Drift` where another manifest stands and `replace` is not set.

    `repair`: each plan follows the manifest that stands, if one does, and takes its place.
    """
    names = chosen_stages(recipe, only)
    manifests = _untouched(recipe, lake, names, voices) if repair else {}
    moved = [name for name in names if name not in manifests]
    if not moved:
        return [manifests[name] for name in names]
    planned = stages_of(
        recipe, lake, pool, only=moved, voices=voices, pending_as_text=pending_as_text, repair=repair, quiet=quiet
    )

    def stored(one: Fresh) -> Manifest:
        return one.manifest if dry_run else _store(one.manifest, one.planned, lake, one.parent, replace=replace)

    manifests |= {manifest.name: manifest for manifest in map(stored, planned)}  # each is let go before the next
    return [manifests[name] for name in names]


def _untouched(recipe: Recipe, lake: Lake, names: Sequence[str], voices: str | None) -> dict[str, Manifest]:
    """The plans that a repair leaves as they stand, unread: asked for in the same way, of what is still the same."""
    snapshot, found = lake.snapshot(), dict[str, Manifest]()
    for name in names:
        parent = _standing(lake, recipe.model, name, replace=False)
        if parent and parent.pool in (None, voices) and _whole(parent, lake):
            asked = _asked(recipe, name, snapshot, parent.pool)
            if all(getattr(parent, field) == value for field, value in asked.items()):
                found[name] = parent
    return found


def _whole(manifest: Manifest, lake: Lake) -> bool:
    return all(lake.store.entry(stored.path) for stored in manifest.tables.values())


class Fresh(NamedTuple):
    """A stage as it is planned now, and the manifest that it follows; its tables are stored nowhere yet."""

    manifest: Manifest
    planned: Planned
    parent: Manifest | None


def stages_of(
    recipe: Recipe,
    lake: Lake,
    pool: Pool,
    *,
    only: Sequence[str] = (),
    voices: str | None = None,
    pending_as_text: bool = False,
    repair: bool = False,
    quiet: bool = False,
) -> Iterator[Fresh]:
    """Plans the stages one after the other, those that share corpora together, and stores nothing but costs."""
    snapshot, names = lake.snapshot(), chosen_stages(recipe, only)
    wanted = recipe.model_copy(update={"stages": {name: recipe.stages[name] for name in names}})
    listens = any(stage.listens for stage in wanted.stages.values())
    every = Corpora(snapshot, lake, wanted, pool, voices=voices if listens else None, quiet=quiet)
    prompts = _prompts(recipe)

    def one(name: str, corpora: list[Corpus]) -> Fresh:
        parent = _standing(lake, recipe.model, name, replace=False) if repair else None
        with _followed(parent, lake) as followed:
            planned = plan(recipe, name, corpora, prompts, pending_as_text=pending_as_text, parent=followed)
        heard = voices if recipe.stages[name].spoken or any(ask.spoken for ask in planned.asks) else None
        fresh = _manifest(_asked(recipe, name, snapshot, heard), planned)
        if parent:
            fresh = _following(parent, fresh, planned, f"{lake.url}/{stage_path(recipe.model, name)}")
        return Fresh(fresh, planned, parent)

    return (one(name, corpora) for name, corpora in every.by_stage())


@contextmanager
def _followed(parent: Manifest | None, lake: Lake) -> Iterator[Parent | None]:
    if parent is None:
        yield None
        return
    with open_table(lake.store, parent.tables["samples"]) as samples:
        yield Parent(parent.contexts, samples)


def _following(parent: Manifest, fresh: Manifest, planned: Planned, where: str) -> Manifest:
    """The manifest of a repaired plan; the parent itself where nothing changed."""
    if said := asked_differently(parent, fresh):
        raise Drift(f"{where}: {'; '.join(said)}; a repair follows changes of the lake alone, so plan anew: --replace")
    if fresh.lake == parent.lake and fresh.rows == parent.rows:
        return parent
    before = parent.repaired
    repaired = Repaired(
        parents=(*(before.parents if before else ()), manifest_digest(parent)),
        first=before.first if before else parent.contexts,
        before=parent.contexts,
        kept=planned.kept or 0,
    )
    return fresh.model_copy(update={"repaired": repaired})


def _prompts(recipe: Recipe) -> dict[str, int]:
    words = words_of(recipe.context)
    return {name: system_tokens(words, name) for name in PROMPTS}


def _asked(recipe: Recipe, name: str, snapshot: Snapshot, pool: str | None) -> dict[str, Any]:
    """The fields of a manifest that say what it is planned from; all others follow from these."""
    stage = recipe.stages[name]
    return {
        "model": recipe.model,
        "name": name,
        "stage": stage,
        "seed": recipe.seed,
        "context": recipe.context_of(name),
        "lake": snapshot.part(stage.wants, pool).digest,
        "recipe": recipe.alone(name).digest,
        "format": FORMAT,
        "order": ORDER,
        "pool": pool,
        "vocabulary": words_of(recipe.context).digest,
        "prompts": _prompts(recipe),
    }


def _manifest(asked: dict[str, Any], planned: Planned) -> Manifest:
    return Manifest(
        **asked,
        capacity=planned.capacity,
        asks=planned.asks,
        counts=planned.counts,
        contexts=len(planned.contexts),
        bound=planned.bound,
        binding=planned.binding,
        deviation=planned.deviation,
        fill=planned.fill,
        padding=planned.padding,
        shards=planned.shards,
        tables={},
        rows=planned.rows,
    )


def _store(fresh: Manifest, planned: Planned, lake: Lake, parent: Manifest | None, *, replace: bool) -> Manifest:
    folder = stage_path(fresh.model, fresh.name)
    before = parent or _standing(lake, fresh.model, fresh.name, replace=replace)
    fresh = fresh.model_copy(update={"tables": before.tables if before else {}})
    if before == fresh and _whole(before, lake):
        return before
    if before and before != fresh and not replace and not parent:
        raise Drift(f"{lake.url}/{folder}: {drift(before, fresh)}; to plan it anew: --replace")
    parts = (("contexts", planned.contexts), ("unplaced", planned.unplaced))
    tables = {part: put_table(lake.store, f"{folder}/{part}", table) for part, table in parts}
    tables["samples"] = put_tables(lake.store, f"{folder}/samples", planned.samples.tables(), SAMPLES)
    manifest = fresh.model_copy(update={"tables": tables})
    if parent:
        path = parent_path(parent.model, parent.name, manifest_digest(parent))
        lake.store.replace(path, canonical(parent.model_dump(mode="json")))
    lake.store.replace(f"{folder}/manifest.json", canonical(manifest.model_dump(mode="json")))
    return manifest


def drift(before: Manifest, after: Manifest) -> str:
    """What differs between two manifests of one stage, field by field."""
    said = asked_differently(before, after) + ["it was repaired"] * bool(before.repaired)
    was, now = (Counter[str](), Counter[str]())
    for there, manifest in (was, before), (now, after):
        for ask in manifest.asks:
            there[ask.corpus] += ask.available
    said += _differences(dict(was), dict(now), "samples")
    if before.lake != after.lake:
        said.append(f"lake was {before.lake[:12]}, is {after.lake[:12]}")
    return "a manifest stands here from another plan: " + ("; ".join(said) or "its rows differ")


def asked_differently(before: Manifest, after: Manifest) -> list[str]:
    """What was asked for differently, field by field."""
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    fields = ("stage", "seed", "context", "pool", "vocabulary", "prompts", "format", "order")
    return [one for field in fields for one in _differences(old[field], new[field], field)]


def _differences(old: Any, new: Any, place: str) -> Iterator[str]:
    """Each leaf that differs, named by its path; of two lists that are as long, by its number."""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        old, new = dict(enumerate(old)), dict(enumerate(new))
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), f"{place}.{key}")
    elif old != new:
        yield f"{place} was {old}, is {new}"


def _standing(lake: Lake, model: str, stage: str, *, replace: bool) -> Manifest | None:
    """The manifest that stands there, if any; what cannot be read is none when it is to be replaced."""
    try:
        return load_manifest(lake.url, f"{model}/{stage}")
    except NotThere:
        return None
    except Corrupt:
        if replace:
            return None
        raise

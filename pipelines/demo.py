"""`tarsia demo`: the story of the README on the small real corpora that the repository ships."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tarsia.builders.documents import read_catalog, read_recipe, read_voices
from tarsia.builders.lake import Lake
from tarsia.manifests.audit import audit
from tarsia.manifests.stream import Stream
from tarsia.pipelines import show
from tarsia.pipelines.ingest import ingest
from tarsia.pipelines.pack import pack
from tarsia.pipelines.plan import make_plans
from tarsia.pipelines.pool import open_pool
from tarsia.pipelines.speak import speak
from tarsia.schemas.errors import Corrupt, NotThere
from tarsia.schemas.identity import canonical
from tarsia.schemas.model import Model

RECIPE = "vita-1.5"


def demo(url: str, examples: Path, *, workers: int | None, ray: str | None, quiet: bool, as_json: bool) -> None:
    """Runs every verb once and says where to look. Raises `Corrupt` if the audit disagrees."""
    catalog = examples / "catalog.yaml"
    if not catalog.exists():
        raise NotThere(f"no {catalog}; run the demo in a clone of the repository, or say --examples FOLDER")
    lake, recipe, voices = Lake(url), read_recipe(RECIPE), read_voices("espeak")
    stages = [f"{RECIPE}/{name}" for name in recipe.stages]
    told: list[dict[str, Any]] = []

    def tell(command: str, text: str, fields: Any) -> None:
        told.append({"command": command, "result": fields})
        if not as_json:
            print(f"$ {command}\n{text}\n", flush=True)

    with open_pool(workers, ray) as pool:
        ingested = ingest(read_catalog(catalog), lake, pool, quiet=quiet)
        tell(f"tarsia ingest {catalog} {url}", show.ingested(ingested), _fields(ingested))
        spoken = speak(recipe, lake, voices, pool, quiet=quiet)
        tell(f"tarsia speak {url} --recipe {RECIPE}", show.spoken(spoken), spoken.model_dump(mode="json"))
        manifests = make_plans(recipe, lake, pool, voices=voices.name, replace=True, quiet=quiet)
        tell(f"tarsia plan {url} --recipe {RECIPE}", show.planned(manifests), _fields(manifests))
        packed = pack(lake, stages, pool, quiet=quiet)
        shards = {stage: _fields(listing) for stage, listing in packed.items()}
        tell(f"tarsia pack {url} --stage {stages[0]} …", show.packed(packed), shards)
    batch = next(iter(Stream(url, f"{RECIPE}/2.2")))
    tell(f"tarsia stream {url} --stage {RECIPE}/2.2", show.batch(batch), show.batch_fields(batch))
    result = audit(lake, manifests, recipe=recipe)
    tell(f"tarsia audit {url} --recipe {RECIPE}", show.audited(manifests, result), result.model_dump(mode="json"))
    if as_json:
        print(canonical(told).decode())
    else:
        _where_to_look(url, lake)
    if result.findings:
        raise Corrupt("the audit disagrees with the manifests")


def _fields(reports: Iterable[Model]) -> list[Any]:
    return [report.model_dump(mode="json") for report in reports]


def _where_to_look(url: str, lake: Lake) -> None:
    print("look at")
    for folder, what in (
        ("corpora", "shards (tar) with their index and text (Parquet)"),
        ("speech", "spoken questions, under the keys of the shards"),
        ("quarantine", "what was refused, and why"),
        (f"stages/{RECIPE}/2.2", "a manifest: asked, selected, placed; and the packed tars"),
        ("snapshots", "what the lake is made of"),
    ):
        if any(lake.store.list(folder)):
            print(f"  {url.rstrip('/')}/{folder:<20} {what}")

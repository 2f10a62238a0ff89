"""`tarsia demo`: the story of the README on the small real corpora that the repository ships."""

from pathlib import Path

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

RECIPE = "vita-1.5"


def demo(url: str, examples: Path, *, workers: int | None, ray: str | None, quiet: bool) -> None:
    """Runs every verb once and says where to look. Raises `Corrupt` if the audit disagrees."""
    catalog_path = examples / "catalog.yaml"
    if not catalog_path.exists():
        raise NotThere(f"no {catalog_path}; run the demo in a clone of the repository, or say --examples FOLDER")
    lake, recipe, voices = Lake(url), read_recipe(RECIPE), read_voices("espeak")
    stages = [f"{recipe.model}/{name}" for name in recipe.stages]
    with open_pool(workers, ray) as pool:
        _said(
            f"tarsia ingest {catalog_path} {url}",
            show.ingested(ingest(read_catalog(catalog_path), lake, pool, quiet=quiet)),
        )
        _said(f"tarsia speak {url} --recipe {RECIPE}", show.spoken(speak(recipe, lake, voices, pool, quiet=quiet)))
        manifests = make_plans(recipe, lake, pool, voices=voices.name, replace=True, quiet=quiet)
        _said(f"tarsia plan {url} --recipe {RECIPE}", show.planned(manifests))
        command = " ".join(f"--stage {stage}" for stage in stages[:1])
        _said(f"tarsia pack {url} {command} …", show.packed(pack(lake, stages, pool, quiet=quiet)))
    stream = Stream(url, f"{RECIPE}/2.2", batch=1)
    _said(f"tarsia stream {url} --stage {RECIPE}/2.2", show.batch(next(iter(stream))))
    result = audit(lake, manifests)
    _said(f"tarsia audit {url} --recipe {RECIPE}", show.audited(manifests, result))
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
    if result.findings:
        raise Corrupt("the audit disagrees with the manifests")


def _said(command: str, text: str) -> None:
    print(f"$ {command}\n{text}\n", flush=True)

"""The command line: one verb a pipeline, a table for people or `--json` for programs, progress on stderr.

Exit codes: 0 done; 1 something stored disagrees with its record (audit, checksums); 2 a mistake that the person can
mend; 3 the store or the workers failed, and running the same command again goes on where it stopped.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tarsia.schemas.errors import Corrupt, TarsiaError, UserError

app = typer.Typer(
    help="Raw corpora in, training data for omni-modal LLMs out: shards, speech, packs and a manifest per stage.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

LakeUrl = Annotated[str, typer.Argument(metavar="LAKE", help="A folder, or s3://bucket/prefix.")]
RecipeName = Annotated[str, typer.Option("--recipe", help="A recipe's name, such as vita-1.5, or a YAML file.")]
Stages = Annotated[list[str] | None, typer.Option("--stage", help="Only this stage; may be repeated.")]
Voices = Annotated[str, typer.Option("--voices", help="A pool of voices: its name, or a YAML file.")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Local processes; all cores if not said.")]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray", metavar="[ADDRESS]", help="Run on Ray: alone a local one, or auto, host:port, ray://host:port."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")]


def main() -> None:
    """Runs a command and turns what went wrong into one clear line and an exit code."""
    try:
        app(_with_ray_address(sys.argv[1:]), standalone_mode=True)
    except UserError as error:
        _fail(error, 2)
    except Corrupt as error:
        _fail(error, 1)
    except TarsiaError as error:
        _fail(error, 3)


def _fail(error: Exception, code: int) -> None:
    print(f"tarsia: {error}", file=sys.stderr)
    sys.exit(code)


def _with_ray_address(arguments: list[str]) -> list[str]:
    """`--ray` alone means a local Ray."""
    full = []
    for number, argument in enumerate(arguments):
        full.append(argument)
        if argument == "--ray":
            following = arguments[number + 1] if number + 1 < len(arguments) else ""
            if not re.fullmatch(r"auto|local|ray://.+|[\w.-]+:\d+", following):
                full.append("local")
    return full


@app.command()
def ingest(
    catalog: Annotated[str, typer.Argument(metavar="CATALOG", help="The YAML page that lists the corpora.")],
    lake: LakeUrl,
    only: Annotated[list[str] | None, typer.Option("--only", help="Only this corpus; may be repeated.")] = None,
    root: Annotated[
        str | None, typer.Option("--root", help="Where relative roots start; the catalog's folder.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only show how the first records of each corpus are understood.")
    ] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Decode every image too, as images: {deep: true} in the catalog.")
    ] = False,
    reread: Annotated[bool, typer.Option("--reread", help="Look at all records and media again.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Look at the records in quarantine again.")] = False,
    workers: Workers = None,
    ray: Ray = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Raw corpora into shards in draw order, with an index; what is refused goes to quarantine with a reason."""
    from tarsia.builders.documents import read_catalog
    from tarsia.builders.lake import Lake
    from tarsia.pipelines import show
    from tarsia.pipelines.check import check as look
    from tarsia.pipelines.ingest import ingest as run
    from tarsia.pipelines.pool import open_pool
    from tarsia.pipelines.survey import deepened

    page = read_catalog(catalog, root)
    page = deepened(page) if deep else page
    if check:
        understood = look(page, only=only or ())
        _print(
            as_json,
            [one.model_dump(mode="json", by_alias=True) for one in understood],
            lambda: show.checked(understood),
        )
        return
    with open_pool(workers, ray) as pool:
        again = {"reread": reread, "retry": retry}
        reports = run(page, Lake(lake), pool, only=only or (), quiet=quiet, **again)
    _print(as_json, [one.model_dump(mode="json") for one in reports], lambda: show.ingested(reports))


@app.command()
def speak(
    lake: LakeUrl,
    recipe: RecipeName,
    voices: Voices = "espeak",
    stage: Stages = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count and estimate what is missing; ask no voice, publish nothing.")
    ] = False,
    real_time_factor: Annotated[
        float, typer.Option(min=0, help="For --dry-run: seconds of a server's work for each second of speech.")
    ] = 0.03,
    wait: Annotated[
        float, typer.Option(min=0, metavar="MINUTES", help="Wait so long for servers that spoke and are all away.")
    ] = 60.0,
    workers: Workers = None,
    ray: Ray = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Have voices ask the questions that the recipe wants spoken; clips go to sidecar shards."""
    from tarsia.builders.documents import read_recipe, read_voices
    from tarsia.builders.lake import Lake
    from tarsia.pipelines import show
    from tarsia.pipelines.estimate import estimate
    from tarsia.pipelines.pool import open_pool
    from tarsia.pipelines.speak import speak as run

    page, place, cast = read_recipe(recipe), Lake(lake), read_voices(voices)
    with open_pool(workers, ray) as pool:
        if dry_run:
            sums = estimate(page, place, cast, pool, only=stage or (), real_time_factor=real_time_factor, quiet=quiet)
            _print(as_json, sums.model_dump(mode="json"), lambda: show.estimated(sums))
            return
        speech = run(page, place, cast, pool, only=stage or (), quiet=quiet, wait=60 * wait)
    _print(as_json, speech.model_dump(mode="json"), lambda: show.spoken(speech))


@app.command()
def plan(
    lake: LakeUrl,
    recipe: RecipeName,
    voices: Voices = "espeak",
    stage: Stages = None,
    pending_as_text: Annotated[
        bool, typer.Option("--pending-as-text", help="Questions without a verdict stay text, instead of an error.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace manifests that stand.")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Follow what stands: only contexts that a change of the lake touched move.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what every corpus would give; write no manifest.")
    ] = False,
    workers: Workers = None,
    ray: Ray = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Select, count and pack every stage of a recipe; write a manifest for each."""
    from tarsia.builders.documents import read_recipe, read_voices
    from tarsia.builders.lake import Lake
    from tarsia.pipelines import show
    from tarsia.pipelines.plan import make_plans
    from tarsia.pipelines.pool import open_pool

    with open_pool(workers, ray) as pool:
        manifests = make_plans(
            read_recipe(recipe),
            Lake(lake),
            pool,
            only=stage or (),
            voices=read_voices(voices).name,
            pending_as_text=pending_as_text,
            replace=replace,
            repair=repair,
            dry_run=dry_run,
            quiet=quiet,
        )
    parts = (show.asked, show.planned) if dry_run else (show.planned,)
    fields = [one.model_dump(mode="json") for one in manifests]
    _print(as_json, fields, lambda: "\n\n".join(part(manifests) for part in parts))


@app.command()
def audit(
    lake: LakeUrl,
    recipe: Annotated[str | None, typer.Option("--recipe", help="A recipe's name, or a YAML file.")] = None,
    stage: Stages = None,
    deep: Annotated[bool, typer.Option("--deep", help="Also read every byte the manifests point to.")] = False,
    run: Annotated[
        list[str] | None, typer.Option("--run", metavar="LOG", help="A trainer's log, held against the manifests.")
    ] = None,
    so_far: Annotated[bool, typer.Option("--so-far", help="The run of --run still goes on.")] = False,
    as_json: Json = False,
) -> None:
    """Recompute what manifests claim, or what a run was handed; exit code 1 where anything disagrees."""
    if (recipe is None) is not bool(run):
        raise UserError("audit needs either --recipe, to recompute its manifests, or --run, to check a trainer's log")
    if recipe is None:
        _audit_runs(lake, run or (), so_far, as_json)
    else:
        _audit_manifests(lake, recipe, stage or (), deep, as_json)


def _audit_runs(lake: str, logs: Sequence[str], so_far: bool, as_json: bool) -> None:
    from tarsia.builders.lake import Lake
    from tarsia.manifests.runs import audit_runs
    from tarsia.pipelines import show

    result = audit_runs(Lake(lake), logs, so_far=so_far)
    _print(as_json, result.model_dump(mode="json"), lambda: show.audited_runs(result))
    if result.findings:
        raise typer.Exit(1)


def _audit_manifests(lake: str, recipe: str, stages: Sequence[str], deep: bool, as_json: bool) -> None:
    from tarsia.builders.documents import read_recipe
    from tarsia.builders.lake import Lake
    from tarsia.manifests.audit import Finding
    from tarsia.manifests.audit import audit as recompute
    from tarsia.manifests.stream import load_manifest
    from tarsia.pipelines import show
    from tarsia.pipelines.plan import chosen_stages

    page, manifests, broken = read_recipe(recipe), [], []
    for name in chosen_stages(page, stages):
        try:
            manifests.append(load_manifest(lake, f"{page.model}/{name}"))
        except Corrupt as error:  # the others are looked at all the same
            broken.append(Finding(where=f"{page.model}/{name}", what=str(error)))
    result = recompute(Lake(lake), manifests, recipe=page, deep=deep)
    more = {"checks": result.checks + len(broken), "findings": (*broken, *result.findings)}
    result = result.model_copy(update=more)
    fields = {**result.model_dump(mode="json"), "stages": [one.model_dump(mode="json") for one in manifests]}
    _print(as_json, fields, lambda: show.audited(manifests, result))
    if result.findings:
        raise typer.Exit(1)


@app.command()
def pack(
    lake: LakeUrl,
    stage: Annotated[list[str], typer.Option("--stage", help="model/stage, such as vita-1.5/2.2; may be repeated.")],
    shard_mb: Annotated[int, typer.Option("--shard-mb", min=1, help="What a packed shard gathers, at most.")] = 256,
    workers: Workers = None,
    ray: Ray = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write the contexts of a stage as WebDataset tars in training order."""
    from tarsia.builders.lake import Lake
    from tarsia.pipelines import show
    from tarsia.pipelines.pack import pack as run
    from tarsia.pipelines.pool import open_pool

    with open_pool(workers, ray) as pool:
        packed = run(Lake(lake), stage, pool, shard_bytes=shard_mb << 20, quiet=quiet)
    fields = {name: [one.model_dump(mode="json") for one in shards] for name, shards in packed.items()}
    _print(as_json, fields, lambda: show.packed(packed))


@app.command()
def export(
    lake: LakeUrl,
    place: Annotated[str, typer.Argument(metavar="DEST", help="A folder, or s3://bucket/prefix; stages share media.")],
    stage: Annotated[str, typer.Option("--stage", help="model/stage, such as vita-1.5/2.2.")],
    form: Annotated[
        str | None,
        typer.Option(
            "--format", help="vita-1.0, vita-1.5, vita-audio or long-vita; if not said, what the stage's model reads."
        ),
    ] = None,
    per: Annotated[
        str, typer.Option("--per", help="A record is a sample, or a context: one long chat, as VITA packs.")
    ] = "sample",
    root: Annotated[str | None, typer.Option("--root", help="What DEST is called where the trainer runs.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace another export of the stage.")] = False,
    workers: Workers = None,
    ray: Ray = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write a planned stage as files that VITA's or VITA-Audio's own code trains on."""
    from tarsia.builders.lake import Lake
    from tarsia.pipelines import show
    from tarsia.pipelines.export import export as run
    from tarsia.pipelines.pool import open_pool

    with open_pool(workers, ray) as pool:
        made = run(Lake(lake), stage, place, pool, dialect=form, per=per, root=root, replace=replace, quiet=quiet)
    _print(as_json, made.model_dump(mode="json"), lambda: show.exported(made, place))


@app.command()
def stream(
    lake: LakeUrl,
    stage: Annotated[str, typer.Option("--stage", help="model/stage, such as vita-1.5/2.2.")],
    batch: Annotated[int, typer.Option("--batch", min=1, help="Contexts of a global batch.")] = 1,
    count: Annotated[int, typer.Option("--count", min=1, help="How many batches to show.")] = 1,
    position: Annotated[int, typer.Option("--position", min=0, help="Context to begin with.")] = 0,
    as_json: Json = False,
) -> None:
    """Read batches of a planned stage as a trainer would, and show what is in them."""
    from itertools import islice

    from tarsia.manifests.stream import Stream
    from tarsia.pipelines import show

    reader = Stream(lake, stage, batch=batch)
    reader.load_state_dict({**reader.state_dict(), "position": position})
    batches = list(islice(reader, count))
    _print(as_json, [show.batch_fields(one) for one in batches], lambda: "\n".join(map(show.batch, batches)))


@app.command()
def inspect(
    lake: LakeUrl,
    duplicates: Annotated[
        bool, typer.Option("--duplicates", help="The samples that say and show the same, in groups.")
    ] = False,
    key: Annotated[str | None, typer.Option("--key", help="A sample by its key: origin, bytes, contexts.")] = None,
    identity: Annotated[
        tuple[str, str] | None, typer.Option("--id", metavar="CORPUS ID", help="A record by the id that it came with.")
    ] = None,
    context: Annotated[
        tuple[str, int] | None,
        typer.Option("--context", metavar="STAGE N", help="The records of a context, such as vita-1.5/2.2 0."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what a lake holds: its duplicates, or where a record came from and which contexts train on it."""
    from tarsia.builders.lake import Lake
    from tarsia.manifests.lineage import Lineage
    from tarsia.pipelines import show
    from tarsia.pipelines.inspect import duplicates as equals

    if sum((duplicates, key is not None, identity is not None, context is not None)) != 1:
        raise UserError("say one thing to inspect: --duplicates, --key KEY, --id CORPUS ID or --context STAGE N")
    if duplicates:
        found = equals(Lake(lake))
        _print(as_json, found.model_dump(mode="json"), lambda: show.duplicates(found))
        return
    lineage = Lineage(Lake(lake))
    if context is not None:
        records = lineage.of_context(*context)
    else:
        records = [lineage.of_key(key) if key is not None else lineage.of_id(*(identity or ("", "")))]
    _print(as_json, [one.model_dump(mode="json") for one in records], lambda: show.records(records))


@app.command()
def diff(
    lake: LakeUrl,
    one: Annotated[
        str | None, typer.Argument(metavar="STAGE", help="A planned stage: model/stage. Alone: against its parent.")
    ] = None,
    other: Annotated[str | None, typer.Argument(metavar="OTHER", help="Another, or the same elsewhere.")] = None,
    elsewhere: Annotated[
        str | None, typer.Option("--with", metavar="LAKE", help="Where the second stage lies.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="What would change if this recipe were planned now; writes no plan.")
    ] = None,
    voices: Voices = "espeak",
    stage: Stages = None,
    snapshots: Annotated[
        tuple[int, int] | None, typer.Option("--snapshots", metavar="N M", help="The lake then and later.")
    ] = None,
    workers: Workers = None,
    ray: Ray = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Show what differs: between two planned stages, a recipe and its plans, or two snapshots."""
    from tarsia.builders.documents import read_recipe, read_voices
    from tarsia.builders.lake import Lake
    from tarsia.pipelines import diff as run
    from tarsia.pipelines import show
    from tarsia.pipelines.pool import open_pool

    if sum((one is not None, recipe is not None, snapshots is not None)) != 1:
        raise UserError("say one thing to compare: STAGE [STAGE], --recipe RECIPE or --snapshots N M")
    place = Lake(lake)
    if snapshots is not None:
        changes = run.of_snapshots(place, *snapshots)
        _print(as_json, changes.model_dump(mode="json"), lambda: show.changed(changes))
        return
    if recipe is not None:
        page, pool_name = read_recipe(recipe), read_voices(voices).name
        with open_pool(workers, ray) as pool:
            found = list(run.of_recipe(page, place, pool, only=stage or (), voices=pool_name, quiet=quiet))
    else:
        found = [run.between(place, one or "", other, elsewhere=Lake(elsewhere) if elsewhere else None)]
    _print(as_json, [diff.model_dump(mode="json") for diff in found], lambda: show.differences(found))


@app.command()
def takedown(
    lake: LakeUrl,
    wanted: Annotated[
        str | None,
        typer.Argument(metavar="[LIST]", help="Text, CSV or JSONL of ids (corpus, tab, id), keys, digests of media."),
    ] = None,
    corpus: Annotated[str | None, typer.Option("--corpus", help="The corpus that the ids are of.")] = None,
    file: Annotated[
        list[str] | None, typer.Option("--file", help="All records of this raw file of --corpus; may be repeated.")
    ] = None,
    workers: Workers = None,
    ray: Ray = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Take records down: their places stay, what held them is written anew, and no ingest brings them back."""
    from tarsia.builders.lake import Lake
    from tarsia.builders.wanted import read_wanted
    from tarsia.pipelines import show
    from tarsia.pipelines.pool import open_pool
    from tarsia.pipelines.takedown import takedown as run

    if not wanted and not file:
        raise UserError("say what to take down: a list, or --corpus and --file")
    if file and not corpus:
        raise UserError("--file is a raw file of a corpus: say which with --corpus")
    lines = read_wanted(wanted, corpus) if wanted else []
    with open_pool(workers, ray) as pool:
        done = run(Lake(lake), lines, pool, files=file or (), corpus=corpus, quiet=quiet)
    _print(as_json, done.model_dump(mode="json"), lambda: show.taken_down(done))


@app.command()
def prune(
    lake: LakeUrl,
    keep: Annotated[int, typer.Option("--keep", min=1, help="So many of the newest snapshots stay.")] = 1,
    older_than: Annotated[
        float, typer.Option("--older-than", min=0, help="Hours; what is younger may be somebody's work.")
    ] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go, delete nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Delete objects that no kept snapshot and no manifest needs."""
    from tarsia.builders.lake import Lake
    from tarsia.pipelines import show
    from tarsia.pipelines.prune import prune as run

    done = run(Lake(lake), keep=keep, hours=older_than, dry_run=dry_run)
    _print(as_json, done.model_dump(mode="json"), lambda: show.pruned(done, dry_run=dry_run))


@app.command()
def demo(
    lake: Annotated[str, typer.Argument(metavar="LAKE", help="A folder for the lake.")] = "lake",
    examples: Annotated[Path, typer.Option("--examples", help="The folder with catalog.yaml.")] = Path("examples"),
    workers: Workers = None,
    ray: Ray = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """The whole story on the corpora that the repository ships: ingest, speak, plan, pack, audit, stream."""
    from tarsia.pipelines.demo import demo as run

    run(lake, examples, workers=workers, ray=ray, quiet=quiet, as_json=as_json)


def _print(as_json: bool, fields: Any, text: Any) -> None:
    if as_json:
        import orjson

        sys.stdout.write(orjson.dumps(fields, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode() + "\n")
    else:
        typer.echo(text())

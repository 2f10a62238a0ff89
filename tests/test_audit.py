"""The audit: silent over a true lake, and every way to make it untrue is found, with its place."""

import ast
import json
import subprocess
from pathlib import Path

import orjson
import pyarrow as pa
import pytest
from lakes import chats, clips, fill, pictures, plan, questions, recipe, recordings, rows, say, tone, voice
from typer.testing import CliRunner

from tarsia.builders.lake import Lake
from tarsia.builders.tables import get_table, put_table, rows_digest
from tarsia.manifests.audit import audit
from tarsia.manifests.stream import load_manifest
from tarsia.pipelines.cli import app
from tarsia.pipelines.pack import pack
from tarsia.pipelines.pool import open_pool
from tarsia.schemas.identity import canonical
from tarsia.schemas.manifest import CONTEXTS, SAMPLES, UNPLACED

ROOT = Path(__file__).parents[1]
LLAVA = {"format": "llava"}
STAGES = {
    "small": {"take": {"qa": "20%"}, "spoken": "50%"},
    "all": {"take": {"qa": "100%"}, "spoken": "50%"},
    "hours": {"take": {"asr": "0.002h"}, "pack": False},
}
PAGE = recipe(STAGES, tokens=1000, tiles=2)


@pytest.fixture(scope="module")
def true_lake(tmp_path_factory):
    """Text with one sample too long and one bad record, chat, images, videos, speech; half heard; one stage packed."""
    folder, monkeypatch = tmp_path_factory.mktemp("audit"), pytest.MonkeyPatch()
    records = questions(50)
    records[3]["output"] = say(3, 1500)
    records.append({"id": "bad", "instruction": "Who?", "output": ""})
    corpora = {
        "sums": records,
        "talk": (LLAVA, chats(20)),
        "looks": (LLAVA, pictures(folder, [(300, 300), (640, 480), (448, 448), (200, 300)])),
        "films": ({"format": "video"}, clips(folder, [1.0])),
        "read": ({"format": "librispeech", "kind": "asr", "files": "LibriSpeech/*/*/*/*.trans.txt"}, None),
    }
    recordings(folder, [1.0, 1.5, 2.0, 2.5, 3.0, 1.0])
    lake = fill(folder, corpora, cap=20)
    voice(lake, PAGE, tone(folder, monkeypatch))
    plan(lake, PAGE, voices="tone")
    with open_pool(1) as pool:
        pack(lake, ["small/small"], pool, shard_bytes=1 << 18, quiet=True)
    monkeypatch.undo()
    return lake


@pytest.fixture
def lake(true_lake, tmp_path):
    """A copy to tamper with."""
    subprocess.run(["cp", "-r", true_lake.url, tmp_path / "lake"], check=True)
    return Lake(str(tmp_path / "lake"))


def findings(lake, *stages, deep=False, page=PAGE):
    manifests = [load_manifest(lake.url, f"small/{name}") for name in stages or STAGES]
    return list(audit(lake, manifests, recipe=page, deep=deep).findings)


def found(lake, where, what, *, deep=False, stages=()):
    """Whether a finding names the place and the matter; else what the findings are."""
    said = [(one.where, one.what) for one in findings(lake, *stages, deep=deep)]
    return any(where in place and what in text for place, text in said) or said


def change_manifest(lake, stage, change):
    """Rewrites fields of a manifest."""
    path = Path(lake.url, "stages/small", stage, "manifest.json")
    fields = orjson.loads(path.read_bytes())
    change(fields)
    path.write_bytes(canonical(fields))


def change_table(lake, stage, name, change):
    """Rewrites a table of a manifest, its digests too, as someone would who hides it."""
    schema = {"contexts": CONTEXTS, "samples": SAMPLES, "unplaced": UNPLACED}[name]
    manifest = load_manifest(lake.url, f"small/{stage}")
    changed = rows(lake, manifest, name)
    change(changed)
    table = pa.Table.from_pylist(changed, schema)
    stored = put_table(lake.store, f"stages/small/{stage}/{name}", table)

    def fields(page):
        page["tables"][name] = stored.model_dump(mode="json")
        page["rows"][name] = rows_digest(table)

    change_manifest(lake, stage, fields)


def change_snapshot(lake, change):
    """Rewrites the newest snapshot."""
    path = sorted(Path(lake.url, "snapshots").iterdir())[-1]
    fields = json.loads(path.read_bytes())
    change(fields)
    path.write_bytes(canonical(fields))


def change_stored(lake, stored, change):
    """Rewrites a table of the lake; the fields of its new object."""
    table = get_table(lake.store, lake_object(stored))
    changed = change(table)
    return put_table(lake.store, stored["path"].removesuffix(".parquet"), changed).model_dump(mode="json")


def lake_object(stored):
    from tarsia.schemas.shard import Stored

    return Stored.model_validate(stored)


def flip(path, at=None):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 0x10
    path.write_bytes(data)


# --- a true lake ----------------------------------------------------------------------------------------------------


def test_a_true_lake_has_no_findings(true_lake):
    manifests = [load_manifest(true_lake.url, f"small/{name}") for name in STAGES]
    shallow, deep = (audit(true_lake, manifests, recipe=PAGE, deep=deep) for deep in (False, True))
    assert shallow.findings == deep.findings == ()
    assert shallow.checks > 200
    assert deep.checks > shallow.checks + 1000


def test_one_stage_alone_is_audited_as_well(true_lake):
    assert findings(true_lake, "small", deep=True) == []


def test_the_audit_imports_nothing_of_those_it_judges():
    judged = {f"tarsia.manifests.{name}" for name in ("select", "decide", "costs", "plan")}
    names = {"tarsia.manifests.audit"}
    while True:
        files = [ROOT / f"{name.removeprefix('tarsia.').replace('.', '/')}.py" for name in names]
        more = {
            name for file in files if file.exists() for name in imports(file) if name.startswith("tarsia.manifests")
        }
        if more <= names:
            break
        names |= more
    assert names >= {"tarsia.manifests.reread", "tarsia.manifests.findings"}
    assert names.isdisjoint(judged)


def imports(file):
    nodes = list(ast.walk(ast.parse(file.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module for node in nodes if isinstance(node, ast.ImportFrom)}


def test_the_command_line_says_what_disagrees_and_exits_with_1(lake, tmp_path):
    (tmp_path / "small.yaml").write_text(json.dumps(PAGE.model_dump(mode="json")))
    command = ["audit", lake.url, "--recipe", str(tmp_path / "small.yaml"), "--deep"]
    true = CliRunner().invoke(app, command)
    assert (true.exit_code, true.output.splitlines()[-1].split(", ")[-1]) == (0, "all agree")
    flip(Path(lake.url, load_manifest(lake.url, "small/all").shards[0].path))
    false = CliRunner().invoke(app, command)
    assert false.exit_code == 1
    assert f"DISAGREES  {load_manifest(lake.url, 'small/all').shards[0].path}: BLAKE3: recorded" in false.output


# --- bytes ----------------------------------------------------------------------------------------------------------

FOLDERS = ("corpora", "speech", "origins", "quarantine", "stages")


def objects(lake):
    return sorted(path for name in FOLDERS for path in Path(lake.url, name).rglob("*") if path.suffix != ".json")


def test_a_changed_byte_in_any_object_is_found_where_it_is(lake):
    files = objects(lake)
    assert len(files) > 30
    for path in files:
        flip(path)
        said = findings(lake, deep=True)
        assert any(path.name in one.where + one.what for one in said), f"{path}: {said}"
        flip(path)
    assert findings(lake, deep=True) == []


def test_without_deep_a_changed_byte_in_any_table_of_the_plan_is_found(lake):
    for path in objects(lake):
        if path.suffix == ".parquet" and ".text." not in path.name and "/shards/" not in str(path):
            flip(path)
            assert any(path.name in one.where + one.what for one in findings(lake)), path
            flip(path)


def test_any_object_that_is_gone_is_found(lake):
    for path in objects(lake):
        data = path.read_bytes()
        path.unlink()
        said = findings(lake, deep=True)
        assert any(path.name in one.where + one.what for one in said), f"{path}: {said}"
        path.write_bytes(data)


def test_a_broken_snapshot_is_a_finding(lake):
    newest = sorted(Path(lake.url, "snapshots").iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:200])
    assert found(lake, f"snapshot {int(newest.stem)}", "cannot be read") is True
    assert found(lake, "small/all", "no snapshot of the lake is the one it was planned from") is True
    for path in Path(lake.url, "snapshots").iterdir():
        path.unlink()
    assert found(lake, "snapshots", "the lake has none") is True


# --- the header of a manifest ---------------------------------------------------------------------------------------


def set_field(*path, value):
    def change(fields):
        for part in path[:-1]:
            fields = fields[part]
        fields[path[-1]] = value(fields[path[-1]]) if callable(value) else value

    return change


more = lambda number: number + 1  # noqa: E731


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        (set_field("seed", value=2), "small/all", "seed: recorded 2, found 1"),
        (set_field("seed", value=2), "small/all", "digest of the recipe"),
        (set_field("stage", "take", "qa", value="90%"), "small/all sums", "amount: recorded 100%, found 90%"),
        (set_field("stage", "take", "qa", value="90%"), "small/all", "stage: recorded"),
        (set_field("stage", "spoken", value="40%"), "small/all sums", "questions to be heard: recorded 25, found 20"),
        (set_field("stage", "title", value="other"), "small/all", "digest of the recipe"),
        (set_field("stage", "train", value=["all"]), "small/all", "digest of the recipe"),
        (set_field("stage", "pack", value=False), "small/all", "contexts that are not the sum"),
        (set_field("context", "tokens", value=900), "small/all", "contexts that are not the sum"),
        (set_field("context", "tiles", value=3), "small/all", "context: recorded"),
        (set_field("order", value=2), "small/all", "order: recorded 2, found 1"),
        (set_field("recipe", value="0"), "small/all", "digest of the recipe"),
        (set_field("lake", value="0"), "small/all", "no snapshot of the lake"),
        (set_field("prompts", "text", value=93), "small/all", "prompts: recorded"),
        (set_field("capacity", value=more), "small/all", "capacity: recorded 860, found 859"),
        (set_field("bound", value=more), "small/all", "bound: recorded"),
        (set_field("fill", value=0.5), "small/all", "fill: recorded 0.5"),
        (set_field("contexts", value=more), "small/all", "contexts: recorded"),
        (set_field("pool", value="others"), "small/all", "no snapshot of the lake"),
        (set_field("asks", 1, "samples", value=more), "small/all looks", "asked: recorded 5, found 4"),
        (set_field("asks", 1, "available", value=more), "small/all looks", "samples in the lake: recorded 5, found 4"),
        (set_field("asks", 1, "spoken", value=more), "small/all looks", "questions to be heard: recorded 3, found 2"),
        (set_field("asks", 1, "amount", value="50%"), "small/all looks", "amount: recorded 50%, found 100%"),
        (set_field("asks", 1, "available_seconds", value=9), "small/all looks", "seconds in the lake: recorded 9.0"),
        (set_field("asks", 1, "corpus", value="lakes"), "small/all", "corpora asked"),
        (set_field("asks", value=lambda asks: asks[1:]), "small/all", "corpora asked"),
        (set_field("counts", value=lambda counts: counts[1:]), "small/all", "groups of samples: recorded 3, found 4"),
        (set_field("counts", 0, "language", value="zh"), "small/all", "other groups: [('films', 'qa', 'en', 'video')"),
        *(
            (set_field("counts", 2, name, value=more), "small/all sums qa en text", f"{name}: recorded")
            for name in (
                "selected", "selected_questions", "selected_tokens", "selected_seconds", "placed", "placed_questions",
                "placed_tokens", "placed_seconds", "spoken", "placed_spoken", "refused",
            )
        ),
        (set_field("shards", 0, "digest", value="0" * 64), "small/all", "tars that the lake's snapshot does not list"),
        (set_field("shards", value=lambda tars: tars[::-1]), "small/all", "samples that do not lie where"),
        (set_field("shards", value=lambda tars: tars[:1]), "small/all", "samples that do not lie where"),
        (set_field("rows", "samples", value="0"), "small/all", "logical digest of 'samples': recorded 0"),
        (set_field("tables", value={}), "small/all", "the manifest has no table 'samples'"),
    ],
)  # fmt: skip
def test_a_changed_figure_in_a_manifest_is_found(lake, change, where, what):
    change_manifest(lake, "all", change)
    assert found(lake, where, what) is True


@pytest.mark.parametrize("name", ["speakable", "pending"])
def test_counts_that_only_the_words_can_tell_are_found_by_deep(lake, name):
    change_manifest(lake, "all", set_field("counts", 2, name, value=more))
    assert found(lake, "small/all sums qa en text", f"{name}: recorded", deep=True) is True


def test_another_recipe_than_the_one_planned_is_found(true_lake):
    said = findings(true_lake, "small", page=recipe({"small": {"take": {"qa": "25%"}, "spoken": "50%"}}, seed=3))
    assert {one.what.split(":")[0] for one in said} == {"seed", "context", "stage"}

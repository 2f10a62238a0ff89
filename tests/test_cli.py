"""The command line: exit codes, one clear line for every mistake, JSON for programs."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tarsia.pipelines.cli import _with_ray_address

ROOT = Path(__file__).parents[1]
TARSIA = Path(sys.executable).parent / "tarsia"


def run(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([TARSIA, *map(str, words)], capture_output=True, text=True, cwd=cwd)


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """A lake with one small text corpus, planned in one stage."""
    folder = tmp_path_factory.mktemp("cli")
    records = [{"id": str(n), "instruction": f"What is {n} and {n}?", "output": f"It is {2 * n}."} for n in range(40)]
    (folder / "sums.json").write_text(json.dumps(records))
    (folder / "catalog.yaml").write_text(
        "corpora:\n  sums: {format: alpaca, kind: qa, language: en, licence: CC0, root: ., files: sums.json}\n"
    )
    (folder / "small.yaml").write_text(
        "model: small\nseed: 3\ncontext: {tokens: 600}\nstages: {'1': {title: one, train: [llm], take: {qa: 50%}}}\n"
    )
    assert run("ingest", folder / "catalog.yaml", folder / "lake").returncode == 0
    assert run("plan", folder / "lake", "--recipe", folder / "small.yaml").returncode == 0
    return folder


def test_help_answers_in_under_half_a_cpu_second():
    before = os.times()
    assert run("--help").returncode == 0
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    assert used < 0.5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ingest", "nowhere.yaml", "lake"), "no file nowhere.yaml"),
        (("plan", "empty-lake", "--recipe", "vita-1.5"), "holds no snapshot; fill it with: tarsia ingest"),
        (("plan", "{lake}", "--recipe", "vita-1.6"), "no recipe 'vita-1.6'; did you mean 'vita-1.5'? Known: vita-1.0"),
        (("plan", "{lake}", "--recipe", "notes.txt"), "vita-audio, or the path of a .yaml file"),
        (("prune", "{folder}"), "holds no snapshot"),
        (("plan", "{lake}", "--recipe", "{folder}/small.yaml", "--stage", "2"), "no stage '2'. Known: 1"),
        (("stream", "{lake}", "--stage", "small/9"), "planned: small/1"),
        (("speak", "{lake}", "--recipe", "vita-1.5", "--voices", "nobody"), "no pool of voices 'nobody'"),
        (("plan", "{lake}", "--recipe", "{folder}/bad.yaml"), "no key 'context.token'; did you mean 'tokens'?"),
        (("plan", "{lake}", "--recipe", "{folder}/huge.yaml"), "'120% from 5%' reaches 125%, a range ends at 100%"),
    ],
)
def test_a_mistake_is_one_clear_line_and_exit_code_2(lake, words, said):
    recipe = (lake / "small.yaml").read_text()
    (lake / "bad.yaml").write_text(recipe.replace("tokens: 600", "token: 600"))
    (lake / "huge.yaml").write_text(recipe.replace("50%", "120% from 5%"))
    done = run(*(word.format(lake=lake / "lake", folder=lake) for word in words), cwd=lake)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_json_is_one_document_and_the_table_says_the_same(lake):
    plan = ("plan", lake / "lake", "--recipe", lake / "small.yaml")
    fields = json.loads(run(*plan, "--json").stdout)
    assert [(one["name"], one["counts"][0]["placed"], one["asks"][0]["samples"]) for one in fields] == [("1", 20, 20)]
    line = run(*plan).stdout.splitlines()[1].split()
    assert line[:4] == ["1", "one", "20", "20"]


def test_ingest_again_says_unchanged_and_publishes_nothing(lake):
    before = sorted((lake / "lake" / "snapshots").iterdir())
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    fields = json.loads(run("ingest", lake / "catalog.yaml", lake / "lake", "--json").stdout)
    assert [(one["corpus"], one["unchanged"]) for one in fields] == [("sums", True)]
    assert sorted((lake / "lake" / "snapshots").iterdir()) == before
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ended.ru_utime - began.ru_utime < 10  # CPU seconds: most of them to start


def test_audit_exits_with_1_where_a_byte_was_changed(lake, tmp_path):
    subprocess.run(["cp", "-r", lake / "lake", tmp_path / "lake"], check=True)
    assert run("audit", tmp_path / "lake", "--recipe", lake / "small.yaml").returncode == 0
    table = next((tmp_path / "lake/stages/small/1").glob("samples-*.parquet"))
    data = bytearray(table.read_bytes())
    data[len(data) // 2] ^= 1
    table.write_bytes(data)
    done = run("audit", tmp_path / "lake", "--recipe", lake / "small.yaml")
    assert done.returncode == 1
    assert "DISAGREES  small/1" in done.stdout


def test_a_manifest_that_cannot_be_read_is_a_finding_and_the_other_stages_are_audited(lake, tmp_path):
    subprocess.run(["cp", "-r", lake / "lake", tmp_path / "lake"], check=True)
    two = (
        (lake / "small.yaml")
        .read_text()
        .replace("qa: 50%}}}", "qa: 50%}}, '2': {title: two, train: [llm], take: {qa: 9%}}}")
    )
    (tmp_path / "two.yaml").write_text(two)
    assert run("plan", tmp_path / "lake", "--recipe", tmp_path / "two.yaml").returncode == 0
    header = tmp_path / "lake/stages/small/1/manifest.json"
    header.write_bytes(header.read_bytes()[:-9])
    done = run("audit", tmp_path / "lake", "--recipe", tmp_path / "two.yaml")
    assert done.returncode == 1
    assert "DISAGREES  small/1: " in done.stdout
    assert "small/2 " in done.stdout
    assert done.stdout.splitlines()[-1].endswith(" checks, 1 disagree")


def test_check_shows_how_records_are_understood_and_writes_nothing(lake, tmp_path):
    (lake / "bad.json").write_text('[{"id": 1, "instruction": "Why?", "output": ""}]')
    page = (lake / "catalog.yaml").read_text()
    page += "  bad: {format: alpaca, kind: qa, language: en, licence: CC0, root: ., files: bad.json}\n"
    (lake / "two.yaml").write_text(page)
    done = run("ingest", lake / "two.yaml", tmp_path / "none", "--check")
    assert done.stdout.splitlines()[:4] == [
        "sums: 1 file; a record is one instruction and its answer",
        "  sums.json  0",
        "    human: What is 0 and 0?",
        "      gpt: It is 0.",
    ]
    assert done.stdout.splitlines()[-2:] == [
        "  bad.json  1",
        "    refused, answer-empty: the output says nothing",
    ]
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("words", "full"),
    [
        (["plan", "--ray"], ["plan", "--ray", "local"]),
        (["plan", "--ray", "--quiet"], ["plan", "--ray", "local", "--quiet"]),
        (["ingest", "--ray", "auto", "c.yaml", "lake"], ["ingest", "--ray", "auto", "c.yaml", "lake"]),
        (["plan", "--ray", "10.0.0.1:6379"], ["plan", "--ray", "10.0.0.1:6379"]),
        (["plan", "--ray", "ray://head:10001"], ["plan", "--ray", "ray://head:10001"]),
        (["ingest", "--ray", "c.yaml", "s3://bucket/lake"], ["ingest", "--ray", "local", "c.yaml", "s3://bucket/lake"]),
        (["plan", "--ray", "s3://bucket/lake"], ["plan", "--ray", "local", "s3://bucket/lake"]),
    ],
)
def test_ray_takes_an_address_only_when_one_follows(words, full):
    assert _with_ray_address(words) == full

"""The audit: silent over a true lake, and every way to make it untrue is found, with its place."""

import ast
import io
import json
import re
import subprocess
from contextlib import suppress
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lakes import chats, clips, fill, pictures, plan, questions, recipe, recordings, rows, say, tone, voice
from typer.testing import CliRunner

from tarsia.builders.lake import Lake
from tarsia.builders.tables import get_table, put_table, rows_digest, to_parquet
from tarsia.manifests.audit import audit
from tarsia.manifests.keys import Keys
from tarsia.manifests.ledger import NOWHERE, Ledger
from tarsia.manifests.stream import load_manifest
from tarsia.pipelines import show
from tarsia.pipelines.cli import app
from tarsia.pipelines.pack import pack
from tarsia.pipelines.pool import open_pool
from tarsia.schemas.errors import Corrupt
from tarsia.schemas.identity import canonical, digest
from tarsia.schemas.manifest import CONTEXTS, SAMPLES, UNPLACED
from tarsia.schemas.shard import Shard, Stored

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


def found(lake, where, what, *, deep=False):
    """Whether a finding names the place and the matter; else what the findings are."""
    said = [(one.where, one.what) for one in findings(lake, "all", deep=deep)]
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
    stored = put_anything(lake.store, f"stages/small/{stage}/{name}", table)

    def fields(page):
        page["tables"][name] = stored.model_dump(mode="json")
        page["rows"][name] = rows_digest(table)

    change_manifest(lake, stage, fields)


def put_anything(store, path, table):
    """Stores a table as anybody could: a key may be missing."""
    sink = io.BytesIO()
    pq.write_table(table, sink)
    data = sink.getvalue()
    stored = Stored(path=f"{path}-{digest(data)[:8]}.parquet", bytes=len(data), digest=digest(data))
    store.replace(stored.path, data)
    return stored


def change_snapshot(lake, change):
    """Rewrites the newest snapshot."""
    path = sorted(Path(lake.url, "snapshots").iterdir())[-1]
    fields = json.loads(path.read_bytes())
    change(fields)
    path.write_bytes(canonical(fields))


def change_stored(lake, stored, change):
    """Rewrites a table of the lake in its place; the fields of the object that it is now."""
    data = to_parquet(change(get_table(lake.store, Stored.model_validate(stored))))
    lake.store.replace(stored["path"], data)
    return {"path": stored["path"], "bytes": len(data), "digest": digest(data)}


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


def test_the_audit_says_what_stages_have_in_common_and_how_long_contexts_become(true_lake):
    manifests = {name: load_manifest(true_lake.url, f"small/{name}") for name in STAGES}
    keys = {name: {row["key"] for table in ("samples", "unplaced") for row in rows(true_lake, one, table)}
            for name, one in manifests.items()}  # fmt: skip
    result = audit(true_lake, [*manifests.values()], recipe=PAGE)
    for one in result.stages:
        name = one.stage.removeprefix("small/")
        longest = max(row["tokens"] for row in rows(true_lake, manifests[name], "contexts"))
        assert (one.samples, one.contexts, one.longest, one.room) == (
            len(keys[name]), manifests[name].contexts, longest, 1000
        )  # fmt: skip
    shared = {(one.stage, one.other): (one.samples, one.nested) for one in result.shared}
    assert shared["small/small", "small/all"] == (len(keys["small"] & keys["all"]), True)
    assert shared["small/all", "small/hours"] == (0, False)


def test_the_printed_table_says_what_was_asked_and_got_of_every_group_in_every_unit(true_lake):
    manifests = [load_manifest(true_lake.url, f"small/{name}") for name in STAGES]
    lines = show.audited(manifests, audit(true_lake, manifests, recipe=PAGE)).splitlines()
    head, ends = lines[0].split(), lines.index("")
    told = {}
    for line in lines[1:ends]:
        cells = re.split(" {2,}", line.strip())
        told[tuple(cells[:5])] = [cell.replace(",", "") for cell in cells[5:]]
    assert head == ["stage", "kind", "corpus", "lang", "modality", "asked", "selected", "placed", "questions", "tokens",
                    "seconds", "hours", "spoken"]  # fmt: skip
    groups = {}
    for manifest in manifests:
        for row in rows(true_lake, manifest):
            group = (manifest.name, *(row[name] for name in ("kind", "corpus", "language", "modality")))
            sums = groups.setdefault(group, [0, 0, 0, 0.0])
            for at, one in enumerate((1, row["questions"], row["tokens"], row["seconds"])):
                sums[at] += one
    got = {group: figures for group, figures in told.items() if figures[2] != "0"}
    assert {group: figures[2:6] for group, figures in got.items()} == {
        group: [*map(str, sums[:3]), f"{sums[3]:.1f}"] for group, sums in groups.items()
    }
    assert all(abs(float(got[group][6]) * 3600 - sums[3]) < 2 for group, sums in groups.items())
    mixed = lines.index("", ends + 1)
    stages = {line.split()[0]: line.split() for line in lines[mixed + 2 : lines.index("", mixed + 1)]}
    fill = f"{manifests[1].fill:.1%}"
    assert stages["small/all"][3:6] == [fill, f"{manifests[1].capacity:,}", "tokens"]
    assert stages["small/hours"][3:7] == ["-", "one", "sample", "each"]


def test_one_stage_alone_is_audited_as_well(true_lake):
    assert findings(true_lake, "small", deep=True) == []


def test_the_audit_imports_nothing_of_those_it_judges():
    judged = {
        f"tarsia.manifests.{name}"
        for name in ("select", "decide", "costs", "plan", "rooms", "repair", "hearing", "facts")
    }
    names = {"tarsia.manifests.audit"}
    while True:
        files = [ROOT / f"{name.removeprefix('tarsia.').replace('.', '/')}.py" for name in names]
        more = {
            name for file in files if file.exists() for name in imports(file) if name.startswith("tarsia.manifests")
        }
        if more <= names:
            break
        names |= more
    assert names >= {f"tarsia.manifests.{name}" for name in ("findings", "recount", "reread")}
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


def test_a_sample_is_found_by_its_tar_and_offset_and_by_nothing_near_it(true_lake):
    states = true_lake.snapshot().corpora
    ledger = Ledger(true_lake.store, states)
    assert len(ledger) == sum(state.samples for state in states) > 60
    for state in states:
        run = ledger.run(state)
        for number, shard in zip(run.shards, state.shards, strict=True):
            index = get_table(true_lake.store, shard.index, ("key", "offset"))
            offsets = np.array(index["offset"].to_pylist())
            shards, rows = np.full(len(offsets), number), np.arange(*ledger.begins[number : number + 2])
            order, found = ledger.at(shards[::-1], offsets[::-1])
            assert (found.tolist(), order.tolist()) == (rows.tolist(), [*range(len(rows))][::-1])
            assert [ledger.key(row) for row in rows] == index["key"].to_pylist()
            assert (ledger.at(shards, offsets + 512)[1] == NOWHERE).sum() == len(offsets)
            behind = ledger.starts[number + 1] - ledger.starts[number]  # where the next tar begins, laid end to end
            assert ledger.at(np.array([number, -1]), np.array([behind, 0]))[1].tolist() == [NOWHERE, NOWHERE]
        keys = ledger.keys[run.rows][::-1]
        assert ledger.find(run, keys).tolist() == list(range(run.end - 1, run.begin - 1, -1))
        assert (ledger.find(run, Keys(keys.draws, keys.tails ^ np.uint64(1))) == NOWHERE).all()


# --- bytes ----------------------------------------------------------------------------------------------------------

OBJECTS = {  # and whether only a deep audit reads them
    "shards": ("corpora/*/*.tar", True),
    "sidecars": ("speech/*/*/*.tar", True),
    "indexes": ("corpora/*/*[0-9a-f].parquet", False),
    "texts": ("corpora/*/*.text.parquet", True),
    "sidecar indexes": ("speech/*/*/*.parquet", False),
    "origins": ("origins/*/*", False),
    "quarantine": ("quarantine/*/*", False),
    "contexts": ("stages/*/*/contexts*", False),
    "samples": ("stages/*/*/samples*", False),
    "unplaced": ("stages/*/*/unplaced*", False),
    "packed tars": ("stages/*/*/shards/*.tar", True),
    "packed indexes": ("stages/*/*/shards/*.parquet", True),
}


@pytest.mark.parametrize("kind", OBJECTS)
def test_a_changed_byte_in_any_object_is_found_where_it_is_and_so_is_one_that_is_gone(lake, kind):
    pattern, deep = OBJECTS[kind]
    paths = sorted(Path(lake.url).glob(pattern))
    assert paths
    for tamper in (flip, Path.unlink):
        for path in paths:
            tamper(path)
        said = [one.where + " " + one.what for one in findings(lake, deep=deep)]
        for path in paths if deep else paths[:1]:
            assert any(path.name in text for text in said), f"{path}: {said}"


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


def test_a_changed_byte_in_the_header_of_a_manifest_is_found_wherever_it_is(lake):
    path = Path(lake.url, "stages/small/all/manifest.json")
    true = path.read_bytes()
    for at in range(40, len(true), len(true) // 80):
        flip(path, at)
        name = true[:at].rsplit(b'"', 2)[-2]
        with suppress(Corrupt):  # it is no manifest any more; anything else is a manifest that says something untrue
            assert findings(lake, "all") or name in (b"speakable", b"pending"), true[at - 40 : at + 20]
        path.write_bytes(true)


FIGURES = [f"{name}{suffix}" for name in ("selected", "placed") for suffix in ("", "_questions", "_tokens", "_seconds")]


def test_every_figure_of_a_count_is_recounted(lake):
    for name in (*FIGURES, "spoken", "placed_spoken", "refused"):
        change_manifest(lake, "all", set_field("counts", 2, name, value=more))
    said = {one.what.split(":")[0] for one in findings(lake, "all") if one.where == "small/all sums qa en text"}
    assert said == {*FIGURES, "spoken", "placed_spoken", "refused"}


@pytest.mark.parametrize("name", ["speakable", "pending"])
def test_counts_that_only_the_words_can_tell_are_found_by_deep(lake, name):
    change_manifest(lake, "all", set_field("counts", 2, name, value=more))
    assert found(lake, "small/all sums en text", f"{name}: recorded", deep=True) is True


def test_another_recipe_than_the_one_planned_is_found(true_lake):
    said = findings(true_lake, "small", page=recipe({"small": {"take": {"qa": "25%"}, "spoken": "50%"}}, seed=3))
    assert {one.what.split(":")[0] for one in said} == {"seed", "context", "stage"}


# --- tables, rewritten with their digests ---------------------------------------------------------------------------


def duplicated(samples):
    samples.append({**samples[-1], "slot": samples[-1]["slot"] + 1})


def dropped(samples):
    del samples[5]


def swapped(samples):
    one, two = samples[0], samples[-1]
    place = ("context", "slot")
    samples[0], samples[-1] = ({**a, **{name: b[name] for name in place}} for a, b in ((two, one), (one, two)))


def in_other_order(samples):
    samples[0], samples[1] = samples[1], samples[0]


def of_another_corpus(samples):
    samples[0]["corpus"] = "talk" if samples[0]["corpus"] == "sums" else "sums"


def elsewhere(samples):
    samples[0]["offset"] += 512


def with_other_tokens(samples):
    samples[0]["tokens"] += 1


def saying_other_questions(samples):
    samples[0]["questions"] += 1


def heard_once_more(samples):
    next(row for row in samples if not row["spoken"])["spoken"] = [0]


def heard_once_less(samples):
    next(row for row in samples if row["spoken"]).update(
        spoken=[], speech_shard=None, speech_offset=None, speech_length=None, speech_checksum=None
    )


def heard_elsewhere(samples):
    next(row for row in samples if row["spoken"])["speech_offset"] += 512


def heard_twice(samples):
    next(row for row in samples if row["spoken"])["spoken"] *= 2


def lasting_longer(samples):
    samples[0]["seconds"] += 1


def of_a_tar_that_is_not_there(samples):
    samples[0]["shard"] = 999


def without_a_key(samples):
    samples[0]["key"] = None


def made_up(samples):
    samples[0]["key"] = "f" * 32


def of_no_context(samples):
    samples[0]["context"] = 10**6


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (duplicated, "samples selected twice: recorded 0, found 1"),
        (dropped, "selected: recorded"),
        (swapped, "contexts that are not the sum"),
        (in_other_order, "contexts that are not the sum"),
        (of_another_corpus, "samples that are not what the lake's index says"),
        (elsewhere, "samples that do not lie where the lake's index has them"),
        (with_other_tokens, "contexts that are not the sum"),
        (saying_other_questions, "samples that are not what the lake's index says"),
        (heard_once_more, "questions heard that are not the first accepted"),
        (heard_once_less, "questions heard that are not the first accepted"),
        (heard_elsewhere, "samples whose speech lies elsewhere"),
        (heard_twice, "questions heard twice or out of order"),
        (lasting_longer, "samples with other seconds than their audio and their clips"),
        (of_a_tar_that_is_not_there, "samples that do not lie where the lake's index has them"),
        (without_a_key, "samples that do not lie where the lake's index has them"),
        (made_up, "selected samples outside the arc: recorded 0, found 1"),
        (of_no_context, "samples without a context: ("),
    ],
)
def test_samples_that_were_rewritten_with_their_digests_are_found(lake, change, what):
    change_table(lake, "all", "samples", change)
    assert found(lake, "small/all", what) is True


@pytest.mark.parametrize("name", CONTEXTS.names)
def test_a_context_that_was_rewritten_is_found(lake, name):
    change_table(lake, "all", "contexts", lambda table: table[1].update({name: "video" if name == "prompt" else 7}))
    assert found(lake, "small/all", "contexts that are not the sum of their samples, or differ from their row") is True


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda table: table.clear(), "selected: recorded 50, found 49"),
        (lambda table: table[0].update(tokens=100), "unplaced samples that would fit"),
        (lambda table: table[0].update(reason="for fun"), "unplaced samples that would fit, or for another reason"),
        (lambda table: table[0].update(key="0" * 32), "selected samples outside the arc"),
    ],
)
def test_unplaced_samples_that_were_rewritten_are_found(lake, change, what):
    change_table(lake, "all", "unplaced", change)
    assert found(lake, "small/all", what) is True


def test_a_sample_swapped_for_one_outside_the_arc_is_found(lake):
    inside = {row["key"] for row in rows(lake, load_manifest(lake.url, "small/small"))}
    outside = next(
        row for row in rows(lake, load_manifest(lake.url, "small/all"))
        if row["key"] not in inside and row["corpus"] == "sums"
    )  # fmt: skip
    place = ("context", "slot")

    def change(samples):
        at = next(number for number, row in enumerate(samples) if row["corpus"] == "sums")
        samples[at] = {**outside, **{name: samples[at][name] for name in place}, "shard": samples[at]["shard"]}

    change_table(lake, "small", "samples", change)
    said = [(one.where, one.what) for one in findings(lake)]
    assert ("small/small sums", "selected samples outside the arc: recorded 0, found 1") in said


def test_tokens_changed_everywhere_at_once_are_found_by_counting_the_words_again(lake):
    def page(fields):
        count = next(one for one in fields["counts"] if one["corpus"] == corpus)
        count["selected_tokens"] += 1
        count["placed_tokens"] += 1

    manifest = load_manifest(lake.url, "small/all")
    roomy = {one["context"] for one in rows(lake, manifest, "contexts") if one["tokens"] < manifest.context.tokens}
    place, row = next((n, row) for n, row in enumerate(rows(lake, manifest)) if row["context"] in roomy)
    corpus, context = row["corpus"], row["context"]
    change_table(lake, "all", "samples", lambda table: table[place].update(tokens=row["tokens"] + 1))
    change_table(lake, "all", "contexts", lambda table: table[context].update(tokens=table[context]["tokens"] + 1))
    change_manifest(lake, "all", page)
    assert {one.what.split(":")[0] for one in findings(lake, "all")} <= {"fill"}
    assert (
        found(
            lake, f"small/all {row['key']}", f"tokens: recorded {row['tokens'] + 1}, found {row['tokens']}", deep=True
        )
        is True
    )


def test_a_smaller_stage_that_is_not_inside_a_larger_one_is_found(lake):
    inside = {row["key"] for row in rows(lake, load_manifest(lake.url, "small/small"))}
    change_table(
        lake, "all", "samples",
        lambda samples: samples.remove(next(row for row in samples if row["key"] in inside)),
    )  # fmt: skip
    said = [one.what for one in findings(lake)]
    assert "samples of small that are not in all: recorded 0, found 1" in said


NUMBERS = [field.name for field in SAMPLES if pa.types.is_integer(field.type)]


@pytest.mark.parametrize("names", [NUMBERS[number : number + 3] for number in range(0, len(NUMBERS), 3)])
def test_no_number_in_the_samples_can_stop_the_audit(lake, names):
    def change(samples):
        for number, name in enumerate(names):
            samples[2 * number][name] = 2**31 - 1
            samples[2 * number + 1][name] = 0 if name.endswith("checksum") else -1

    change_table(lake, "all", "samples", change)
    assert findings(lake, "all", deep=True)


@pytest.mark.parametrize("names", [SAMPLES.names[number : number + 3] for number in range(0, len(SAMPLES.names), 3)])
def test_no_missing_value_can_stop_the_audit(lake, names):
    def change(samples):
        for number, row in enumerate(samples):
            row[names[number % len(names)]] = None

    change_table(lake, "all", "samples", change)
    assert findings(lake, "all", deep=True)


def test_a_table_with_other_columns_is_found(lake):
    manifest = load_manifest(lake.url, "small/all")
    table = get_table(lake.store, manifest.tables["samples"])
    for changed in (table.drop(["tokens"]), table.append_column("more", pa.array([1] * len(table)))):
        stored = put_table(lake.store, "stages/small/all/samples", changed).model_dump(mode="json")
        change_manifest(lake, "all", set_field("tables", "samples", value=stored))
        assert found(lake, "small/all", "columns of 'samples': recorded") is True


# --- the lake -------------------------------------------------------------------------------------------------------


def state_of(fields, corpus):
    return next(state for state in fields["corpora"] if state["corpus"]["name"] == corpus)


def test_a_sample_dropped_from_a_corpus_is_found(lake):
    def change(fields):
        shard = state_of(fields, "looks")["shards"][0]
        index = next(
            number
            for number, one in enumerate(shard["objects"])
            if one["path"] == Shard.model_validate(shard).index.path
        )
        shard["objects"][index] = change_stored(lake, shard["objects"][index], lambda table: table.slice(1))
        shard["samples"] -= 1
        shard["questions"] -= 1

    change_snapshot(lake, change)
    assert found(lake, "corpus looks", "records = samples + quarantined + taken down: recorded 4, found 3") is True
    assert found(lake, "corpus looks", "records that came to nothing: recorded 0, found 1") is True


def test_shards_that_change_places_are_found(lake):
    def change(fields):
        one, two, *_ = shards = state_of(fields, "sums")["shards"]
        shards[:2] = [{**two, "leaf": one["leaf"]}, {**one, "leaf": two["leaf"]}]

    change_snapshot(lake, change)
    said = [one.what for one in findings(lake, "all") if one.where == "corpus sums"]
    assert any(text.startswith("samples out of draw order: recorded 0, found 1") for text in said), said
    assert any(text.startswith("bits that the draws of b00 begin with: recorded {'00'}, found {'01'}") for text in said)


def test_a_corpus_whose_figures_were_changed_is_found(lake):
    def change(fields):
        state_of(fields, "talk")["records"] += 1
        state_of(fields, "sums")["quarantined"] = {"answer-empty": 2}
        state_of(fields, "looks")["shards"][0]["questions"] += 1

    change_snapshot(lake, change)
    said = {(one.where, one.what) for one in findings(lake, "all")}
    assert ("corpus talk", "records read: recorded 21, found 20") in said
    assert ("corpus sums", "quarantined: recorded {'answer-empty': 2}, found {'answer-empty': 1}") in said
    assert ("corpus looks", "questions of b: recorded 5, found 4") in said


def test_a_row_removed_from_quarantine_is_found(lake):
    def change(fields):
        state = state_of(fields, "sums")
        state["quarantine"] = change_stored(lake, state["quarantine"], lambda table: table.slice(1))
        state["quarantined"] = {}

    change_snapshot(lake, change)
    said = [(one.where, one.what) for one in findings(lake, "all")]
    assert said == [
        ("corpus sums", "records = samples + quarantined + taken down: recorded 51, found 50"),
        ("corpus sums", "records that came to nothing: recorded 0, found 1"),
    ]


def test_a_record_in_quarantine_and_among_the_samples_is_found(lake):
    def change(fields):
        state = state_of(fields, "sums")
        key = rows(lake, load_manifest(lake.url, "small/all"))
        mine = next(row["key"] for row in key if row["corpus"] == "sums")
        state["quarantine"] = change_stored(
            lake, state["quarantine"],
            lambda table: table.set_column(0, "key", pa.array([mine])),
        )  # fmt: skip

    change_snapshot(lake, change)
    said = {(one.where, one.what) for one in findings(lake, "all")}
    assert ("corpus sums", "records that are sample and quarantined: recorded 0, found 1") in said


def test_text_that_differs_from_the_tar_is_found_by_deep(lake):
    def change(fields):
        shard = state_of(fields, "looks")["shards"][0]
        number = next(number for number, one in enumerate(shard["objects"]) if ".text." in one["path"])
        text = get_table(lake.store, Stored.model_validate(shard["objects"][number])).to_pylist()
        text[0]["conversations"][1]["value"] = "Something else."
        schema = get_table(lake.store, Stored.model_validate(shard["objects"][number])).schema
        shard["objects"][number] = change_stored(
            lake, shard["objects"][number], lambda table: pa.Table.from_pylist(text, schema)
        )

    change_snapshot(lake, change)
    said = findings(lake, "all", deep=True)
    assert any(one.what.startswith("text: recorded") for one in said), said


def test_a_packed_listing_of_another_plan_is_left_alone_and_a_short_one_found(lake):
    path = Path(lake.url, "stages/small/small/packed.json")
    listing = json.loads(path.read_bytes())
    path.write_bytes(canonical({**listing, "shards": listing["shards"][:-1]}))
    assert any(one.what.startswith("packed contexts: recorded") for one in findings(lake, "small", deep=True))
    path.write_bytes(canonical({**listing, "shards": [], "manifest": "of another"}))
    assert findings(lake, "small", deep=True) == []

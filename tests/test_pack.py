"""Packed shards: contexts in training order that stock WebDataset opens, the same bytes whoever writes them."""

import gc
import json
import signal
import subprocess
import sys
import tarfile
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lakes import chats, clips, files, fill, pictures, plan, questions, recipe, recordings, rows, tone, voice

from tarsia.builders.storage import open_store
from tarsia.manifests.audit import audit
from tarsia.manifests.stream import Stream, manifest_digest
from tarsia.pipelines.pack import PackShard, runs
from tarsia.pipelines.pack import pack as run
from tarsia.pipelines.pool import open_pool
from tarsia.schemas.errors import Corrupt, Drift

LLAVA = {"format": "llava"}
STAGE = "small/all"
PAGE = recipe({"all": {"take": {"qa": "100%", "asr": "100%"}, "spoken": "50%"}}, tokens=1600, tiles=2)


def build(folder, monkeypatch):
    """A planned lake of text, chat, images, videos and speech, half of its questions heard."""
    corpora = {
        "sums": questions(40, words=60),
        "talk": (LLAVA, chats(15)),
        "looks": (LLAVA, pictures(folder, [(300, 300), (640, 480), (400, 800)] * 3)),
        "films": ({"format": "video"}, clips(folder, [1.0])),
        "read": ({"format": "librispeech", "kind": "asr", "files": "LibriSpeech/*/*/*/*.trans.txt"}, None),
    }
    recordings(folder, [1.0, 1.5, 2.0])
    lake = fill(folder, corpora, cap=20)
    voice(lake, PAGE, tone(folder, monkeypatch))
    plan(lake, PAGE, voices="tone")
    return lake


def pack(lake, *, workers=1, kilobytes=120):
    with open_pool(workers, patience=0) as pool:
        return run(lake, [STAGE], pool, shard_bytes=kilobytes << 10, quiet=True)[STAGE]


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder, monkeypatch = tmp_path_factory.mktemp("pack"), pytest.MonkeyPatch()
    lake = build(folder, monkeypatch)
    monkeypatch.undo()
    return lake, pack(lake)


def contexts(lake, shards):
    """What stock WebDataset reads, in its order."""
    webdataset = pytest.importorskip("webdataset")
    urls = [f"{lake.url}/{shard.objects[0].path}" for shard in shards]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves the tars to the garbage collector
        found = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
        gc.collect()
    return found


def test_stock_webdataset_reads_the_contexts_in_training_order(packed):
    lake, shards = packed
    found = contexts(lake, shards)
    assert len(shards) > 3
    assert [one["__key__"] for one in found] == [f"{number:08d}" for number in range(len(found))]
    stream = Stream(lake.url, STAGE)
    said = [json.loads(one["json"]) for one in found]
    assert [one["context"] for one in said] == list(range(stream.manifest.contexts))
    assert [[(part["key"], part["tokens"]) for part in one["samples"]] for one in said] == [
        [(part.sample.key, part.tokens) for part in batch.contexts[0].samples] for batch in stream
    ]


def test_the_stream_makes_the_same_contexts_of_packed_tars_and_of_shards(packed):
    lake, _ = packed
    assert Stream(lake.url, STAGE)._ask(0).spans[0].stored.path.startswith("stages/")
    assert list(Stream(lake.url, STAGE, epochs=2)) == list(Stream(lake.url, STAGE, epochs=2, packed=False))


def test_shards_follow_each_other_and_their_index_says_where_each_context_lies(packed):
    import pyarrow.parquet as pq

    lake, shards = packed
    assert [shard.first for shard in shards] == [
        sum(before.contexts for before in shards[:number]) for number in range(len(shards))
    ]
    for shard in shards:
        tar, index = (Path(lake.url, stored.path) for stored in shard.objects)
        places = pq.ParquetFile(index).read().to_pylist()
        assert [place["context"] for place in places] == list(range(shard.first, shard.first + shard.contexts))
        assert [place["offset"] for place in places[1:]] == [place["offset"] + place["length"] for place in places[:-1]]
        assert tar.stat().st_size == places[-1]["offset"] + places[-1]["length"] + 1024


def test_every_placeholder_has_its_member_in_order(packed):
    lake, shards = packed
    heard = 0
    for one in contexts(lake, shards):
        for slot, part in enumerate(json.loads(one["json"])["samples"]):
            text = " ".join(turn["value"] for turn in part["conversations"])
            for kind in ("image", "video", "audio"):
                assert text.count(f"<{kind}>") == len(part[f"{kind}s"])
            for member in part["images"] + part["audios"] + [frame for video in part["videos"] for frame in video]:
                assert member.startswith(f"{slot:03d}.")
                assert one[member]
            assert all(one[member].startswith(b"fLaC") for member in part["audios"])
            turns = [question["turn"] for question in part["heard"]]
            assert part["audios"][len(part["audios"]) - len(turns) :] == [f"{slot:03d}.q{turn}.flac" for turn in turns]
            humans = [turn["value"] for turn in part["conversations"] if turn["from"] == "human"]
            assert all("<audio>" in humans[turn] and len(humans[turn]) < 30 for turn in turns)
            heard += len(turns)
    assert heard == sum(len(row["spoken"]) for row in rows(lake, Stream(lake.url, STAGE).manifest)) > 20


def test_images_are_the_very_bytes_of_the_corpus(packed):
    lake, shards = packed
    found = {}
    for one in contexts(lake, shards):
        for part in json.loads(one["json"])["samples"]:
            if part["corpus"] == "looks":
                (member,) = part["images"]
                found[part["id"]] = one[member]
    raw = Path(lake.url).parent / "images"
    assert found == {f"p{number}": (raw / f"{number}.jpg").read_bytes() for number in range(9)}


def test_headers_bear_no_clock_and_no_owner(packed):
    lake, shards = packed
    with tarfile.open(f"{lake.url}/{shards[0].objects[0].path}") as tar:
        members = tar.getmembers()
    assert {(one.mtime, one.uid, one.gid, one.mode, one.uname) for one in members} == {(0, 0, 0, 0o644, "")}


def test_the_listing_names_its_manifest_and_comes_last(packed):
    lake, shards = packed
    listing = json.loads(Path(lake.url, "stages", STAGE, "packed.json").read_text())
    assert listing["manifest"] == manifest_digest(Stream(lake.url, STAGE).manifest)
    assert listing["shards"] == [shard.model_dump(mode="json") for shard in shards]
    times = [path.stat().st_mtime_ns for path in Path(lake.url, "stages", STAGE, "shards").iterdir()]
    assert Path(lake.url, "stages", STAGE, "packed.json").stat().st_mtime_ns >= max(times)


def test_the_audit_reads_packed_shards_as_well(packed):
    lake, _ = packed
    manifest = Stream(lake.url, STAGE).manifest
    assert audit(lake, [manifest], deep=True).findings == ()


def test_packs_of_another_version_are_refused_until_the_stage_is_packed_again(packed, tmp_path):
    subprocess.run(["cp", "-r", packed[0].url, tmp_path / "lake"], check=True)
    lake = type(packed[0])(str(tmp_path / "lake"))
    path = Path(lake.url, "stages", STAGE, "packed.json")
    listing = json.loads(path.read_bytes())
    path.write_text(json.dumps({name: value for name, value in listing.items() if name != "format"}))
    with pytest.raises(Corrupt, match=r"format 1, not 2: pack the stage again \(tarsia pack .*small/all"):
        Stream(lake.url, STAGE)
    said = [one.what for one in audit(lake, [Stream(lake.url, STAGE, packed=False).manifest], deep=True).findings]
    assert said == ["format of the packed tars: recorded 1, found 2"]
    pack(lake)
    assert len(list(Stream(lake.url, STAGE, batch=1))) > 0


def copy_of(lake, folder):
    """The planned lake, nothing of it packed."""
    subprocess.run(["cp", "-r", lake.url, folder / "lake"], check=True)
    for path in ("lake/stages/small/all/shards", "lake/stages/small/all/packed.json", "lake/commits/pack"):
        subprocess.run(["rm", "-r", folder / path], check=True)
    return type(lake)(str(folder / "lake"))


def result(lake):
    return files(Path(lake.url, "stages", STAGE))


def test_two_workers_write_the_same_bytes(packed, tmp_path):
    lake, _ = packed
    other = copy_of(lake, tmp_path)
    pack(other, workers=2)
    assert result(other) == result(lake)


KILLED = """
import os, signal, sys
from tarsia.builders.lake import Lake
from tarsia.pipelines import pack, pool
whole, done = pack.PackShard.run, []
def run(task):
    if len(done) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(task)
    return whole(task)
pack.PackShard.run = run
with pool.open_pool(1) as workers:
    pack.pack(Lake(sys.argv[1]), ["small/all"], workers, shard_bytes=120 << 10, quiet=True)
"""


def test_a_pack_that_was_killed_between_shards_goes_on_and_writes_the_same_bytes(packed, tmp_path):
    lake, _ = packed
    other = copy_of(lake, tmp_path)
    killed = subprocess.run([sys.executable, "-c", KILLED, other.url], check=False)
    assert killed.returncode == -signal.SIGKILL
    folder = Path(other.url, "stages", STAGE)
    assert len(list((folder / "shards").glob("*.tar"))) == 2
    assert not (folder / "packed.json").exists()
    before = {path: path.stat().st_mtime_ns for path in (folder / "shards").iterdir()}
    pack(other)
    assert result(other) == result(lake)
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())


@pytest.mark.ray
def test_ray_writes_the_same_bytes(packed, tmp_path, ray_cluster):
    lake, _ = packed
    other = copy_of(lake, tmp_path)
    with open_pool(ray=ray_cluster, patience=0) as pool:
        run(other, [STAGE], pool, shard_bytes=120 << 10, quiet=True)
    assert result(other) == result(lake)


def test_a_lake_in_a_bucket_is_packed_into_the_same_objects(packed, tmp_path, s3):
    lake, shards = packed
    other, there = copy_of(lake, tmp_path), open_store(s3)
    for path, data in files(Path(other.url)).items():
        there.replace(path, data)
    assert pack(type(lake)(s3)) == shards
    folder = f"stages/{STAGE}"
    found = {entry.path.removeprefix(f"{folder}/"): there.read(entry.path) for entry in there.list(folder)}
    assert found == result(lake)


def test_packing_again_writes_no_shard(packed, tmp_path):
    lake, shards = packed
    before = {path: path.stat().st_mtime_ns for path in Path(lake.url, "stages", STAGE, "shards").iterdir()}
    assert pack(lake) == shards
    assert {path: path.stat().st_mtime_ns for path in Path(lake.url, "stages", STAGE, "shards").iterdir()} == before


def test_after_an_edit_only_the_shard_that_holds_it_is_written_anew(tmp_path):
    records, page = questions(60, words=60), recipe({"all": {"take": {"qa": "100%"}}}, tokens=600)
    lake = fill(tmp_path, {"sums": records})
    plan(lake, page)
    before = pack(lake, kilobytes=16)
    records[21]["output"] = records[21]["output"].replace("boat", "lake").replace("sea", "bay")
    assert records != questions(60, words=60)
    fill(tmp_path, {"sums": records})
    plan(lake, page, replace=True)
    after = pack(lake, kilobytes=16)
    changed = [number for number, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    assert len(before) > 4
    assert len(changed) == 1
    context = next(row["context"] for row in rows(lake, Stream(lake.url, STAGE).manifest) if id_of(lake, row) == "r21")
    assert after[changed[0]].first <= context < after[changed[0]].first + after[changed[0]].contexts


def test_another_title_writes_no_shard_and_other_settings_write_all_of_them(tmp_path):
    lake = fill(tmp_path, {"sums": questions(60)})
    stage, packed_as = {"take": {"qa": "100%"}}, []
    for page in (
        recipe({"all": {**stage, "title": "one"}}, tokens=600),
        recipe({"all": {**stage, "title": "two"}}, tokens=600),
        recipe({"all": {**stage, "title": "two"}}, tokens=600, states="none"),
    ):
        plan(lake, page, replace=True)
        packed_as.append(pack(lake, kilobytes=16))
        listing = json.loads(Path(lake.url, "stages/small/all/packed.json").read_bytes())
        assert listing["manifest"] == manifest_digest(Stream(lake.url, STAGE).manifest)
    assert len(packed_as[0]) > 2
    assert packed_as[0] == packed_as[1]
    assert not {*packed_as[0]} & {*packed_as[2]}


def test_a_longer_record_moves_no_border_but_its_own(tmp_path):
    records, page = questions(60, words=60), recipe({"all": {"take": {"qa": "100%"}, "pack": False}}, tokens=600)
    lake = fill(tmp_path, {"sums": records})
    plan(lake, page)
    before = {shard.first: shard for shard in pack(lake, kilobytes=20)}
    records[21]["output"] += " And then it came home." * 12
    fill(tmp_path, {"sums": records})
    plan(lake, page, replace=True)
    after = {shard.first: shard for shard in pack(lake, kilobytes=20)}
    (context,) = [row["context"] for row in rows(lake, Stream(lake.url, STAGE).manifest) if id_of(lake, row) == "r21"]
    changed = [shard for first, shard in after.items() if before.get(first) != shard]
    assert len(before) > 4
    assert len(changed) <= 2
    assert changed[0].first <= context < changed[-1].first + changed[-1].contexts


@given(st.lists(st.integers(0, 9), max_size=70), st.integers(1, 30))
def test_runs_hold_every_context_once_and_no_more_than_they_may(weights, most):
    found = runs(weights, most)
    assert [number for first, last in found for number in range(first, last)] == list(range(len(weights)))
    assert all(last - first == 1 or sum(weights[first:last]) <= most for first, last in found)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=70), st.integers(1, 30), st.data())
def test_another_weight_changes_the_runs_of_one_subtree_and_contexts_at_the_end_none_before(weights, most, data):
    at = data.draw(st.integers(0, len(weights) - 1))
    before, other = runs(weights, most), [*weights]
    other[at] = data.draw(st.integers(0, 9))
    gone, come = set(before) - set(runs(other, most)), set(runs(other, most)) - set(before)
    if gone:  # as one leaf falls apart, or several become one
        assert min(first for first, _ in gone) == min(first for first, _ in come) <= at
        assert max(last for _, last in gone) == max(last for _, last in come) > at
        assert min(len(gone), len(come)) == 1
    grown = runs(weights + [most] * 70, most)
    assert [run for run in before if run not in grown] in ([], before[-1:], before)


def id_of(lake, row):
    """The id of the sample that a row places."""
    return next(
        part.sample.id for part in Stream(lake.url, STAGE).context(row["context"]).samples
        if part.sample.key == row["key"]
    )  # fmt: skip


def test_a_stage_that_is_planned_anew_while_it_is_packed_is_not_packed_from_both(packed, tmp_path):
    lake, _ = packed
    task = PackShard(lake.url, STAGE, "of another plan", 0, 1, "commits/pack/x.json")
    with pytest.raises(Drift, match="stage small/all was planned anew while it was packed; pack it again"):
        task.run()


def test_a_shard_holds_about_as_many_bytes_as_asked(packed, tmp_path):
    lake, shards = packed
    sizes = [Path(lake.url, shard.objects[0].path).stat().st_size for shard in shards]
    assert all(size < (120 << 10) * 1.5 for size in sizes)
    other = copy_of(lake, tmp_path)
    (whole,) = pack(other, kilobytes=1 << 20)
    assert whole.contexts == sum(shard.contexts for shard in shards)

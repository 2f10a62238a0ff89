"""What nothing needs goes; what somebody reads, resumes or is working on stays."""

from pathlib import Path

import orjson
import pytest

from tarsia.builders.lake import Lake
from tarsia.manifests.audit import audit
from tarsia.manifests.stream import Stream
from tarsia.pipelines.commits import paths_in
from tarsia.pipelines.pack import pack
from tarsia.pipelines.pool import open_pool
from tarsia.pipelines.prune import _clips, prune
from tarsia.schemas.errors import NotThere
from tests.lakes import files, fill, plan, questions, recipe, tone, voice
from tests.test_takedown import take

PAGE = {"a": {"take": {"qa": "100%"}}}


def packed(lake, **options):
    with open_pool(1) as workers:
        return pack(lake, ["small/a"], workers, quiet=True, **options)["small/a"]


def test_after_a_takedown_plan_pack_and_prune_nothing_of_it_is_anywhere(tmp_path):
    records = questions(120)
    records[7]["output"] = "the secret of the harbour master"
    page = recipe(PAGE, tokens=260)
    lake = fill(tmp_path, {"qa": ({"cap": 16}, records)})
    plan(lake, page)
    first = packed(lake, shard_bytes=8000)
    take(lake, ("qa", "r7"))
    waits = prune(lake, hours=0)
    assert waits.waiting.keys() == {"stage small/a"}
    assert b"harbour master" in Path(lake.url, waits_for(lake)[0]).read_bytes()
    assert [context.tokens for batch in Stream(lake.url, "small/a") for context in batch.contexts]
    manifests = plan(lake, page, repair=True)
    second = packed(lake, shard_bytes=8000)
    assert sum(one not in first for one in second) <= 2
    assert len(second) > 3
    done = prune(lake, hours=0)
    assert done.waiting == {}
    assert not any(b"harbour master" in data for data in files(Path(lake.url)).values())
    assert audit(lake, manifests, recipe=page, deep=True).findings == ()
    assert prune(lake, hours=0).objects == {}


def waits_for(lake):
    receipt = orjson.loads(lake.store.read("tombstones/receipts/00000001.json"))
    return [path for path in receipt["lying"] if path.endswith(".tar") and path.startswith("corpora")]


def test_a_dry_run_and_young_objects_delete_nothing(tmp_path):
    lake = fill(tmp_path, {"qa": questions(20)})
    lake = fill(tmp_path, {"qa": questions(21)})
    before = files(Path(lake.url))
    assert prune(lake).objects == {}
    told = prune(lake, hours=0, dry_run=True)
    assert told.objects["corpora"] == 3
    assert files(Path(lake.url)) == before
    assert prune(lake, hours=0) == told
    assert prune(lake, hours=0).objects == {}
    assert lake.numbers() == [2]


def test_what_was_pruned_is_built_again_and_not_trusted(tmp_path):
    lake = fill(tmp_path, {"qa": ({"cap": 8}, questions(30))})
    first = lake.snapshot().corpus("qa").shards
    edited = [{**record, "output": "x"} for record in questions(30)]
    fill(tmp_path, {"qa": ({"cap": 8}, edited)})
    prune(lake, hours=0)
    assert not any(lake.store.entry(stored.path) for shard in first for stored in shard.objects)
    again = fill(tmp_path, {"qa": ({"cap": 8}, questions(30))})
    assert again.snapshot().corpus("qa").shards == first
    assert all(lake.store.entry(stored.path) for shard in first for stored in shard.objects)


def test_a_manifest_keeps_the_snapshot_it_was_planned_from_and_its_reader_goes_on(tmp_path):
    page = recipe(PAGE, tokens=260)
    lake = fill(tmp_path, {"qa": ({"cap": 8}, questions(40))})
    manifests = plan(lake, page)
    reader = Stream(lake.url, "small/a")
    batches = iter(reader)
    next(batches)
    fill(tmp_path, {"qa": ({"cap": 8}, questions(50)[5:])})
    fill(tmp_path, {"qa": ({"cap": 8}, questions(60)[9:])})
    assert prune(lake, hours=0).snapshots == (1, 3)
    assert lake.numbers() == [1, 3]
    assert len(list(batches)) == manifests[0].contexts - 1
    assert audit(lake, manifests, recipe=page).findings == ()


def test_verdicts_and_the_clips_that_they_name_stay_when_no_sidecar_does(tmp_path, monkeypatch):
    pool, page = tone(tmp_path, monkeypatch), recipe({"a": {"take": {"qa": "100%"}, "spoken": "100%"}})
    lake = fill(tmp_path, {"qa": questions(10)})
    voice(lake, page, pool)
    before = {path for path in files(Path(lake.url)) if path.startswith(("clips", "verdicts"))}
    fill(tmp_path, {"qa": questions(12)})
    voice(lake, page, pool)
    prune(lake, hours=0)
    assert before <= set(files(Path(lake.url)))
    listed = set(paths_in(lake.snapshot().model_dump(mode="json")))
    assert listed <= set(files(Path(lake.url)))


@pytest.mark.parametrize("busy", [True, False])
def test_the_finished_leaves_of_an_unfinished_ingest_stay(tmp_path, busy):
    lake = fill(tmp_path, {"qa": ({"cap": 8}, questions(30))})
    kept = lake.snapshot().corpus("qa").shards
    Path(lake.url, "snapshots/00000001.json").unlink()
    fill(tmp_path, {"qa": ({"cap": 8}, questions(8, first=500))})
    if busy:
        lake.store.replace("work/qa/0/scan/00000.json", b"[]")
    prune(lake, hours=0)
    assert all(bool(lake.store.entry(shard.tar.path)) == busy for shard in kept)
    assert Lake(lake.url).snapshot().corpus("qa").samples == 8


def test_a_folder_that_is_no_lake_loses_nothing(tmp_path):
    mine = tmp_path / "corpora" / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("ten years of work")
    with pytest.raises(NotThere, match="holds no snapshot"):
        prune(Lake(str(tmp_path)), hours=0)
    assert mine.exists()


def test_two_at_once_delete_the_same(tmp_path, monkeypatch):
    lake = fill(tmp_path, {"qa": questions(20)})
    lake = fill(tmp_path, {"qa": questions(21)})
    twin = []

    def overtaken(store):
        if not twin:
            twin.append(None)
            twin.append(prune(lake, hours=0))
        return _clips(store)

    monkeypatch.setattr("tarsia.pipelines.prune._clips", overtaken)
    done = prune(lake, hours=0)
    assert done.snapshots == twin[1].snapshots
    assert done.objects["corpora"] == twin[1].objects["corpora"] == 3
    monkeypatch.undo()
    assert prune(lake, hours=0).objects == {}

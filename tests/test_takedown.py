"""What was taken down is gone, its place is kept, and nothing brings it back."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tarsia.builders.lake import Lake
from tarsia.builders.tables import get_table
from tarsia.builders.wanted import Wanted, read_wanted
from tarsia.manifests.audit import audit
from tarsia.pipelines import takedown as module
from tarsia.pipelines.pool import open_pool
from tarsia.pipelines.takedown import Receipt, takedown
from tarsia.schemas.errors import UserError
from tarsia.schemas.identity import key_of
from tests.lakes import chats, files, fill, keys, pictures, plan, questions, recipe, recordings, rows, tone, voice

STAGES = {"a": {"take": {"qa": "40%"}}, "b": {"take": {"qa": "100%"}}}


def take(lake, *lines, **options):
    with open_pool(1) as pool:
        return takedown(lake, [Wanted(*line) for line in lines], pool, quiet=True, **options)


def ids(lake, corpus="qa"):
    state = lake.snapshot().corpus(corpus)
    return {
        row["id"]: row for shard in state.shards for row in get_table(lake.store, shard.index).to_pylist() if row["id"]
    }


def lying(lake):
    """The bytes of all objects that the newest snapshot names, and of what belongs to no snapshot."""
    listed = set(module.paths_in(lake.snapshot().model_dump(mode="json")))
    every = files(Path(lake.url))
    return {
        path: data
        for path, data in every.items()
        if path in listed or path.startswith(("verdicts", "work", "commits", "tombstones"))
    }


def test_what_is_taken_down_keeps_its_place_and_no_other_sample_moves(tmp_path):
    records = questions(60)
    lake = fill(tmp_path, {"qa": ({"cap": 8}, records), "more": chats(20)})
    page = recipe(STAGES)
    before = plan(lake, page, dry_run=False)
    selected = [keys(lake, manifest) for manifest in before]
    mine = sorted(key for key in selected[0] if key in {key_of("qa", f"r{number}") for number in range(60)})[:3]
    named = [row["id"] for row in ids(lake).values() if row["key"] in mine]
    report = take(lake, *(("qa", own) for own in named))
    assert [(one.corpus, one.samples, one.quarantined) for one in report.receipt.records] == [("qa", 3, 0)]
    assert report.receipt.stages == {
        "small/a": len({row["context"] for row in rows(lake, before[0]) if row["key"] in mine}),
        "small/b": len({row["context"] for row in rows(lake, before[1]) if row["key"] in mine}),
    }
    after = plan(lake, page, replace=True)
    for old, new in zip(before, after, strict=True):
        assert keys(lake, old) == keys(lake, new)
        assert {row["key"] for row in rows(lake, new, "unplaced")} == set(mine)
        assert {row["reason"] for row in rows(lake, new, "unplaced")} == {"taken-down"}
        assert [ask.available for ask in old.asks] == [ask.available for ask in new.asks]
    found = audit(lake, after, recipe=page, deep=True)
    assert found.findings == ()


@pytest.mark.parametrize(
    "stage", [{"take": {"qa": "31 questions"}}, {"take": {"qa": "20% from 30%"}}, {"take": {"qa": "150%"}}]
)
def test_every_other_sample_keeps_its_position_whatever_the_amount(tmp_path, stage):
    lake = fill(tmp_path, {"qa": ({"cap": 8, "format": "llava"}, chats(40)), "more": questions(12)})
    page = recipe({"a": {**stage, "pack": False}})
    before = plan(lake, page)[0]
    placed = rows(lake, before)
    gone = {row["key"] for row in placed if row["corpus"] == "qa"}
    own = sorted(name for name, row in ids(lake).items() if row["key"] in gone)[:4]
    report = take(lake, *(("qa", one) for one in own))
    assert report.receipt.records[0].samples == 4
    after = plan(lake, page, replace=True)[0]
    mine = {key_of("qa", one) for one in own}
    assert [(row["key"], row["copy"]) for row in rows(lake, after)] == [
        (row["key"], row["copy"]) for row in placed if row["key"] not in mine
    ]
    assert {row["key"] for row in rows(lake, after, "unplaced")} == mine
    assert audit(lake, [after], recipe=page).findings == ()


def test_hours_count_what_was_taken_down(tmp_path):
    entry = ({"format": "librispeech", "kind": "asr", "files": "LibriSpeech/*/*/*/*.trans.txt"}, None)
    recordings(tmp_path, [1.0 + number / 7 for number in range(12)])
    lake = fill(tmp_path, {"read": entry})
    page = recipe({"a": {"take": {"asr": "0.002h"}}})
    before = keys(lake, plan(lake, page)[0])
    own = next(name for name, row in ids(lake, "read").items() if row["key"] in before)
    take(lake, ("read", own))
    after = plan(lake, page, replace=True)[0]
    assert keys(lake, after) == before
    assert audit(lake, [after], recipe=page, deep=True).findings == ()


def test_nothing_of_it_is_in_what_the_lake_still_names(tmp_path):
    records = questions(30)
    records[7]["output"] = "the secret of the harbour master"
    lake = fill(tmp_path, {"qa": ({"cap": 8}, records)})
    report = take(lake, ("qa", "r7"))
    assert not any(b"secret of the harbour" in data for data in lying(lake).values())
    assert "r7" not in ids(lake)
    state = lake.snapshot().corpus("qa")
    assert (state.records, state.samples, state.taken_down) == (30, 29, 1)
    old = {path for path in report.receipt.lying if path.endswith(".text.parquet")}
    assert len(old) == 1
    assert report.receipt.rewritten == {"contents": 1, "corpora": 3, "origins": 1, "tombstones": 1}


def test_only_the_leaf_that_held_it_is_written_and_as_a_fresh_ingest_beside_the_tombstone_would(tmp_path):
    lake = fill(tmp_path, {"qa": ({"cap": 8}, questions(60))})
    before = {shard.leaf: shard for shard in lake.snapshot().corpus("qa").shards}
    take(lake, ("qa", "r7"))
    after = {shard.leaf: shard for shard in lake.snapshot().corpus("qa").shards}
    assert before.keys() == after.keys()
    assert sum(before[leaf] != after[leaf] for leaf in before) == 1
    shutil.copytree(f"{lake.url}/tombstones", tmp_path / "fresh/tombstones")
    fresh = fill(tmp_path, {"qa": ({"cap": 8}, questions(60))}, lake="fresh")
    assert fresh.snapshot().corpus("qa").shards == lake.snapshot().corpus("qa").shards
    assert fresh.snapshot().digest == lake.snapshot().digest


@pytest.mark.parametrize("change", ["same", "edited", "gone", "reread"])
def test_no_later_ingest_brings_it_back(tmp_path, change):
    records = questions(30)
    lake = fill(tmp_path, {"qa": ({"cap": 8}, records)})
    take(lake, ("qa", "r7"))
    shards = {shard.leaf: shard for shard in lake.snapshot().corpus("qa").shards}
    if change == "edited":
        records[7]["output"] = "another answer"
        records[8]["output"] = "another answer too"
    if change == "gone":
        del records[7]
    if change == "reread":
        (tmp_path / "qa.json").write_text(json.dumps(records, indent=1))
    lake = fill(tmp_path, {"qa": ({"cap": 8}, records)})
    assert "r7" not in ids(lake)
    state = lake.snapshot().corpus("qa")
    assert (state.samples, state.taken_down, state.records) == (29, 1, 30)
    if change != "edited":
        assert {shard.leaf: shard for shard in state.shards} == shards


def test_an_image_that_was_taken_down_comes_back_in_no_corpus(tmp_path):
    records = pictures(tmp_path, [(60, 40), (50, 50), (40, 60)])
    lake = fill(tmp_path, {"shown": ({"format": "llava"}, records[:2])})
    row = next(iter(ids(lake, "shown").values()))
    digest = row["images"][0]["digest"]
    report = take(lake, (None, digest, digest[:32]))
    assert report.receipt.forbidden == 1
    assert [(one.corpus, one.samples) for one in report.receipt.records] == [("shown", 1)]
    again = [{**record, "id": f"again{number}"} for number, record in enumerate(records)]
    lake = fill(tmp_path, {"shown": ({"format": "llava"}, records[:2]), "other": ({"format": "llava"}, again)})
    other = lake.snapshot().corpus("other")
    assert (other.samples, other.quarantined) == (2, {"taken-down": 1})
    refused = get_table(lake.store, other.quarantine).to_pylist()
    assert [(row["id"], row["raw"]) for row in refused] == [(None, None)]
    assert not any(image["digest"] == digest for row in ids(lake, "other").values() for image in row["images"])


def test_every_record_of_a_raw_file_and_those_in_quarantine_too(tmp_path):
    (tmp_path / "raw").mkdir()
    good, bad = questions(12), [{"id": "bad", "instruction": "", "output": "nothing was asked by Mallory"}]
    (tmp_path / "raw/one.json").write_text(json.dumps(good[:6]))
    (tmp_path / "raw/two.json").write_text(json.dumps(good[6:] + bad))
    entry = {"files": "*.json", "root": "raw"}
    lake = fill(tmp_path, {"qa": (entry, None)})
    assert lake.snapshot().corpus("qa").quarantined
    report = take(lake, corpus="qa", files=["two.json"])
    assert [(one.samples, one.quarantined) for one in report.receipt.records] == [(6, 1)]
    state = lake.snapshot().corpus("qa")
    assert (state.samples, state.taken_down, state.quarantined, state.quarantine) == (6, 7, {}, None)
    assert not any(b"Mallory" in data for data in lying(lake).values())
    (tmp_path / "raw/three.json").write_text(json.dumps(questions(2, first=50)))
    state = fill(tmp_path, {"qa": (entry, None)}).snapshot().corpus("qa")
    assert (state.samples, state.taken_down, state.records) == (8, 7, 15)


def test_what_voices_said_of_it_is_erased_unless_another_sample_asks_the_same(tmp_path, monkeypatch):
    records = questions(20)
    records[3]["instruction"] = records[4]["instruction"] = "Which of the two boats is the faster one?"
    lake = fill(tmp_path, {"qa": records})
    page = recipe({"a": {"take": {"qa": "100%"}, "spoken": "100%"}})
    pool = tone(tmp_path, monkeypatch)
    voice(lake, page, pool)
    manifests = plan(lake, page, voices="tone")
    assert any(row["key"] == key_of("qa", "r5") for row in rows(lake, manifests[0]) if row["spoken"])
    report = take(lake, ("qa", "r3"), ("qa", "r5"))
    assert report.receipt.clips == 1
    assert not any(b"boat number 5 " in data for data in lying(lake).values())
    sidecars = lake.snapshot().sidecars("tone", "qa")
    spoken = [row["key"] for shard in sidecars.shards for row in get_table(lake.store, shard.index).to_pylist()]
    assert key_of("qa", "r4") in spoken
    assert not {key_of("qa", "r3"), key_of("qa", "r5")} & set(spoken)
    voice(lake, page, pool)
    again = plan(lake, page, voices="tone", replace=True)
    assert audit(lake, again, recipe=page, deep=True).findings == ()


def test_it_is_done_once_however_often_it_is_asked(tmp_path):
    lake = fill(tmp_path, {"qa": questions(20)})
    first = take(lake, ("qa", "r3"), ("qa", "nobody"))
    assert first.unknown == ("qa nobody",)
    number = lake.snapshot().number
    again = take(lake, ("qa", "r3"))
    assert (again.receipt, again.known, lake.snapshot().number) == (None, 1, number)
    with pytest.raises(UserError, match="nothing of the list stands here: qa nobody"):
        take(lake, ("qa", "nobody"))
    with pytest.raises(UserError, match="did you mean 'qa'"):
        take(lake, ("qaa", "r3"))
    assert Receipt.model_validate_json(lake.store.read("tombstones/receipts/00000001.json")) == first.receipt


@pytest.mark.parametrize("step", range(0, 12, 2))
def test_whoever_is_killed_runs_it_again_and_it_ends_the_same(tmp_path, monkeypatch, step):
    lake = fill(tmp_path, {"qa": ({"cap": 8}, questions(40))})
    shutil.copytree(lake.url, tmp_path / "whole")
    whole = Lake(str(tmp_path / "whole"))
    take(whole, ("qa", "r3"), ("qa", "r30"))
    kind = type(lake.store)
    left = [step]

    def falter(name):
        honest = getattr(kind, name)

        def write(self, *given):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return honest(self, *given)

        monkeypatch.setattr(kind, name, write)

    with monkeypatch.context():
        for name in ("create", "replace", "delete", "publish"):
            falter(name)
        with pytest.raises(KeyboardInterrupt):
            take(lake, ("qa", "r3"), ("qa", "r30"))
        left[0] = 10**6
        take(lake, ("qa", "r3"), ("qa", "r30"))
    assert lake.snapshot() == whole.snapshot()


def test_records_with_one_id_go_together_and_an_id_with_a_number_is_its_own(tmp_path):
    records = questions(10)
    records[1]["id"] = records[2]["id"] = "twin"
    records[3]["id"], records[4]["id"] = "img", "img#1"
    lake = fill(tmp_path, {"qa": records})
    assert take(lake, ("qa", "twin")).receipt.records[0].samples == 2
    assert take(lake, ("qa", "img")).receipt.records[0].samples == 1
    assert "img#1" in ids(lake)


def test_the_list_may_be_text_csv_or_jsonl(tmp_path):
    key = "0123456789abcdef" * 2
    texts = {
        "a.txt": f"qa\tr 1\n\n{key}\n{key}{key}\n",
        "b.csv": f'corpus,id\nqa,"r, 2"\n,{key.upper()}\n',
        "c.jsonl": f'{{"corpus": "qa", "id": 3}}\n{{"digest": "{key}"}}\n',
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    assert read_wanted(tmp_path / "a.txt") == [("qa", "r 1", ""), (None, key, key), (None, key + key, key)]
    assert read_wanted(tmp_path / "b.csv") == [("qa", "r, 2", ""), (None, key.upper(), key)]
    assert read_wanted(tmp_path / "c.jsonl") == [("qa", "3", ""), (None, key, key)]
    (tmp_path / "d.txt").write_text("r4\n")
    assert read_wanted(tmp_path / "d.txt", "qa") == [("qa", "r4", "")]
    for name, text, said in (
        ("e.txt", "r4\n", "of which corpus"),
        ("f.jsonl", '{"key": "12"}\n', "not 32 or 64 hex"),
        ("g.txt", "\n", "empty"),
        ("h.jsonl", "{\n", "no JSON"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=said):
            read_wanted(tmp_path / name)


def test_equal_records_in_quarantine_lose_the_name_of_what_was_taken_down(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "x.png")
    records = questions(6)
    records[4] = {**records[3], "id": "zz-copy"}
    lake = fill(tmp_path, {"qa": ({"dedup": "exact"}, records)})
    state = lake.snapshot().corpus("qa")
    refused = get_table(lake.store, state.quarantine).to_pylist()[0]
    stays = "r3" if refused["id"] == "zz-copy" else "zz-copy"
    assert f"qa/{stays} (" in refused["message"]
    take(lake, ("qa", stays))
    row = get_table(lake.store, lake.snapshot().corpus("qa").quarantine).to_pylist()[0]
    assert row["message"] == "equal to, or like, a record that was taken down"

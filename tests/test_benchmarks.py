"""Benchmarks still measure: each that has a small size runs it, in this process, and says what is true of that size."""

import importlib
import io
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    """A benchmark by its name, and its peers of that folder, imported for one test."""
    monkeypatch.syspath_prepend(str(FOLDER))
    for path in FOLDER.glob("*.py"):
        monkeypatch.delitem(importlib.sys.modules, path.stem, raising=False)
    return importlib.import_module


def printed(call, *given):
    with redirect_stdout(io.StringIO()) as said:
        call(*given)
    return said.getvalue()


def test_a_small_share_of_the_curriculum_is_planned_audited_and_asked_for_its_lineage(bench, tmp_path, monkeypatch):
    plan, share = bench("plan"), Fraction(1, 5000)
    monkeypatch.setattr(plan, "ProcessPoolExecutor", lambda mp_context: ThreadPoolExecutor(1))
    plan.write(tmp_path / "lake", share)
    lake, rows = str(tmp_path / "lake"), [plan.Row(*row) for row in plan.TABLE]
    captions = [row.count(share) for row in rows if row.kind == "caption"]
    said = plan._plan(lake, share)
    assert said[1].startswith(f"1.2: selected {sum(captions):,}, ")
    assert [line.split(":")[0] for line in said] == ["1.1", "1.2", "1.3", "2.1", "2.2", "3.1", "3.2"]
    assert plan._audit(lake, share)[0].endswith(", 0 findings")
    assert plan._inspect(lake, share)[1].startswith("5 contexts: ")


def test_samples_are_read_in_every_way_that_is_compared(bench, tmp_path, monkeypatch):
    stream = bench("stream")
    for name, value in {"SAMPLES": 40, "BYTES": 2_000, "MILLION": 64}.items():
        monkeypatch.setattr(stream, name, value)
    stream.fill(tmp_path)
    lake = str(tmp_path / "lake")
    for name, read in stream.READING.items():
        assert sum(read(lake)) == 40, name
    for name in ("account", "ids", "memory"):
        assert all(np.isfinite(value) for value in stream.ONLY[name](lake).values()), name
    assert stream.cached(lake, str(tmp_path / "cache")) == 40
    assert stream.Bar("what", 0.8, 0.7, least=True).line() == "| what | ≥ 0.7 | 0.8 | yes |"


def test_the_writers_that_are_compared_write_the_same_samples(bench, tmp_path):
    ingest = bench("ingest")
    ingest.PHOTOS = 2
    assert ingest.write(tmp_path, 4) > 4 * 20_000
    for run in (ingest.by_tarsia, ingest.by_tarfile):
        assert ingest.seconds(run, tmp_path, tmp_path / run.__name__) > 0
    tars = {name: sum(1 for _ in (tmp_path / name).rglob("*.tar")) for name in ("by_tarsia", "by_tarfile")}
    assert tars == {"by_tarsia": 1, "by_tarfile": 1}


@pytest.mark.parametrize("name", ["text", "array", "speech", "tar", "again"])
def test_every_shape_of_raw_data_is_ingested_as_a_whole(bench, tmp_path, monkeypatch, name):
    scale = bench("scale")
    monkeypatch.setattr(scale, "PHOTOS", 1)
    (tmp_path / "raw").mkdir()
    count = {"speech": 1}.get(name, 5)
    entry = getattr(scale, name)(tmp_path / "raw", count)
    (tmp_path / "catalog.yaml").write_text(f"corpora: {{c: {{{entry}, language: en, licence: none, root: raw}}}}")
    said = json.loads(printed(scale.case, name, tmp_path))
    assert said["records"] == {"speech": 60 // scale.SEGMENT, "again": 11 * 5}.get(name, 5)
    assert said["shards"] >= 1


def test_duplicates_are_found_and_left_out(bench, monkeypatch):
    duplicates = bench("duplicates")
    monkeypatch.setattr(importlib.import_module("ingest"), "PHOTOS", 2)
    assert duplicates.hashing(1) > 0
    assert duplicates.pairing(2_000)[2] == 200
    stay = {asked: samples for asked, (_, samples) in duplicates.ingesting(10).items()}
    assert stay == {"first run": 11, "counted alone": 11, "exact": 10, "near": 10}


def test_a_small_population_is_packed_at_its_bound_and_by_chance(bench):
    packing = bench("packing")
    cost, _, source = packing.population(3_000, 12)
    cost, source = cost[cost <= 6144], source[cost <= 6144]
    bound, _ = packing.lower_bound(cost, 6144)
    context = packing.contexts_of(packing.fill(cost, 6144, seed=1))
    greedy = packing._best_fit_decreasing(cost, 6144, len(cost))
    assert bound <= greedy.max() + 1 <= context.max() + 1 <= 1.01 * bound
    assert 0.5 < packing.mixing(context, cost, source)["same source"] < 1.5


def test_recordings_are_put_into_batches_with_little_padding(bench):
    buckets = bench("buckets")
    found = buckets.ours(*buckets.recordings(2_000), 20_000)
    assert found["batches"] >= 10
    assert 0 <= found["padding"] < 0.2
    assert found["longest"] <= buckets.BUDGET


def test_our_tiles_are_those_of_the_bare_decoder_that_they_are_compared_with(bench, stage):
    tensors = bench("tensors")
    for size in tensors.SIZES[:2]:
        data = tensors.photo(size)
        assert np.array_equal(tensors.image_tiles(data, size, most=12, thumbnail=True), tensors.bare(data, size))
    assert " contexts, " in printed(tensors.whole_stage, stage.url, "small/all", 1)


def test_questions_are_spoken_by_servers_and_found_again(bench, monkeypatch):
    speak = bench("speak")
    monkeypatch.setattr(speak, "parts", lambda: None)  # two thousand clips
    monkeypatch.setattr(speak.Converse, "run", speak.Converse.run)  # put back what is watched
    lines = printed(speak.served, 20, 0.0).splitlines()
    assert any(line.startswith("met      requests of the second run: ") for line in lines), lines
    assert "book, 500 verdicts" in printed(speak.book, 500)


def test_what_is_said_and_heard_is_timed(bench):
    hearing = bench("hearing")  # whisper itself takes too long for a test
    done, cost = hearing.timed(str.upper, ["a", "b"])
    assert done == ["A", "B"]
    assert cost >= 0
    assert len(json.loads(hearing.TASKS.read_text())) >= 60

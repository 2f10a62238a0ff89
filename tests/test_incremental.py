"""An ingest does only what is new, and ends where a fresh one would: the lake is a function of the raw records."""

import json
import os
import shutil

import pytest

from tarsia.builders.documents import read_catalog
from tarsia.builders.lake import Lake
from tarsia.builders.tables import get_table
from tarsia.pipelines.ingest import ingest
from tarsia.pipelines.pool import open_pool
from tarsia.schemas.errors import BadCatalog, UnknownName
from tarsia.schemas.identity import key_of
from tarsia.schemas.lake import Snapshot

JPEG = bytes.fromhex(  # 16 x 16 pixels, all grey
    "ffd8ffe000104a46494600010100000100010000ffdb004300080606070605080707070909080a0c140d0c0b0b0c1912130f141d1a1f1e1d1a1c1c20"
    "242e2720222c231c1c2837292c30313434341f27393d38323c2e333432ffc0000b080010001001011100ffc4001f0000010501010101010100000000"
    "000000000102030405060708090a0bffc400b5100002010303020403050504040000017d01020300041105122131410613516107227114328191a108"
    "2342b1c11552d1f02433627282090a161718191a25262728292a3435363738393a434445464748494a535455565758595a636465666768696a737475"
    "767778797a838485868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2"
    "e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9faffda0008010100003f00fbf8ffd9"
)


def sum_of(number, answer=None):
    return {"id": str(number), "instruction": f"What is {number} twice?", "output": answer or f"It is {2 * number}."}


class Desk:
    """A folder with raw text files, a catalog, and lakes made of them."""

    def __init__(self, folder):
        self.folder = folder
        self.entries = {"sums": "format: alpaca, kind: qa, files: '*.jsonl', cap: 4"}

    def write(self, **files):
        """Files of the corpus `sums`, as JSON Lines; None removes one."""
        raw = self.folder / "sums"
        raw.mkdir(exist_ok=True)
        for name, records in files.items():
            path = raw / f"{name}.jsonl"
            if records is None:
                path.unlink()
            else:
                path.write_text("".join(json.dumps(record) + "\n" for record in records))

    def catalog(self):
        lines = [
            f"  {name}: {{{entry}, language: en, licence: CC0, root: {name}}}" for name, entry in self.entries.items()
        ]
        (self.folder / "catalog.yaml").write_text("\n".join(["corpora:", *lines]))
        return read_catalog(self.folder / "catalog.yaml")

    def ingest(self, lake="lake", **options):
        with open_pool(1) as pool:
            reports = ingest(self.catalog(), Lake(str(self.folder / lake)), pool, quiet=True, **options)
        return {report.corpus: report for report in reports}

    def snapshot(self, lake="lake"):
        return Lake(str(self.folder / lake)).snapshot()

    def state(self, corpus="sums", lake="lake"):
        return self.snapshot(lake).corpus(corpus)

    def is_as_fresh(self):
        """Whether the lake's newest snapshot names the very objects that a fresh lake would hold."""
        shutil.rmtree(self.folder / "fresh", ignore_errors=True)
        self.ingest("fresh")
        fresh, mine = (self.snapshot(lake).model_copy(update={"number": 0}) for lake in ("fresh", "lake"))
        objects = [stored for state in mine.corpora for shard in state.shards for stored in shard.objects]
        objects += [stored for state in mine.corpora for stored in (*state.origins, state.quarantine) if stored]
        same = [(self.folder / lake / stored.path).read_bytes() for stored in objects for lake in ("fresh", "lake")]
        return fresh == mine and same[::2] == same[1::2]

    def shards(self, corpus="sums"):
        return {stored.path for shard in self.state(corpus).shards for stored in shard.objects}


@pytest.fixture
def desk(tmp_path):
    """Twenty sums in two files, at most four in a leaf, ingested."""
    desk = Desk(tmp_path)
    desk.write(a=[sum_of(number) for number in range(15)], b=[sum_of(number) for number in range(15, 20)])
    desk.ingest()
    return desk


def leaves(desk):
    return {shard.leaf: shard.samples for shard in desk.state().shards}


def test_the_leaves_of_twenty_sums(desk):
    assert leaves(desk) == {"b00": 4, "b01": 4, "b100": 3, "b101": 4, "b110": 3, "b111": 2}


def test_doing_it_again_does_nothing(desk):
    report = desk.ingest()["sums"]
    assert (report.unchanged, report.written, report.records, report.samples) == (True, 0, 20, 20)
    assert desk.snapshot().number == 1


def test_looking_again_without_a_change_publishes_nothing(desk):
    report = desk.ingest(reread=True)["sums"]
    assert (report.unchanged, report.written) == (False, 0)
    assert desk.snapshot().number == 1


def test_a_touched_file_is_read_and_nothing_is_built(desk):
    os.utime(desk.folder / "sums" / "a.jsonl", (1, 1))
    report = desk.ingest()["sums"]
    assert (report.unchanged, report.written) == (False, 0)
    assert desk.is_as_fresh()


def test_an_added_record_rewrites_its_leaf(desk):
    before = desk.shards()
    desk.write(c=[sum_of(26)])
    assert desk.ingest()["sums"].written == 1
    assert leaves(desk) == {"b00": 4, "b01": 4, "b100": 4, "b101": 4, "b110": 3, "b111": 2}
    assert len(before - desk.shards()) == 3  # tar, index and text of one leaf
    assert len(desk.shards() - before) == 3
    assert desk.is_as_fresh()


def test_a_record_too_many_splits_its_leaf(desk):
    desk.write(c=[sum_of(20)])
    assert desk.ingest()["sums"].written == 2
    assert leaves(desk) == {"b00": 4, "b010": 2, "b011": 3, "b100": 3, "b101": 4, "b110": 3, "b111": 2}
    assert desk.is_as_fresh()


def test_an_edited_record_rewrites_its_leaf_and_keeps_its_key(desk):
    before = desk.shards()
    desk.write(b=[sum_of(number, "Edited." if number == 17 else None) for number in range(15, 20)])
    assert desk.ingest()["sums"].written == 1
    (index,) = (path for path in desk.shards() - before if path.endswith(".parquet") and "text" not in path)
    keys = {row.as_py() for row in get_table(Lake(str(desk.folder / "lake")).store, stored(desk, index))["key"]}
    assert key_of("sums", "17") in keys
    assert desk.is_as_fresh()


def stored(desk, path):
    return next(one for shard in desk.state().shards for one in shard.objects if one.path == path)


def test_a_removed_record_rewrites_its_leaf(desk):
    before = desk.shards()
    desk.write(b=[sum_of(number) for number in range(16, 20)])
    assert desk.ingest()["sums"].written == 1
    assert leaves(desk) == {"b00": 4, "b01": 3, "b100": 3, "b101": 4, "b110": 3, "b111": 2}
    assert len(before - desk.shards()) == 3
    assert desk.is_as_fresh()


def test_leaves_that_fit_together_again_become_one(desk):
    desk.write(b=[sum_of(number) for number in range(15, 20) if number != 17])
    assert desk.ingest()["sums"].written == 1
    assert leaves(desk) == {"b00": 4, "b01": 4, "b100": 3, "b101": 4, "b11": 4}
    assert desk.is_as_fresh()


def test_an_edit_taken_back_finds_its_old_shard(desk):
    before = desk.shards()
    desk.write(b=[])
    desk.ingest()
    desk.write(b=[sum_of(number) for number in range(15, 20)])
    assert desk.ingest()["sums"].written == 0
    assert desk.shards() == before
    assert desk.snapshot().number == 3


def test_moving_records_between_files_changes_no_shard(desk):
    before = desk.shards()
    desk.write(a=[sum_of(number) for number in range(19, 9, -1)], b=None, z=[sum_of(number) for number in range(10)])
    assert desk.ingest()["sums"].written == 0
    assert desk.shards() == before
    assert desk.is_as_fresh()


def test_refused_records_may_move_too(desk):
    broken = {"id": "x", "instruction": "?"}
    desk.write(a=[sum_of(number) for number in range(15)] + [broken])
    (desk.folder / "sums" / "c.jsonl").write_text("{broken\n")
    first = desk.ingest()["sums"]
    desk.write(a=[sum_of(number) for number in range(15)], d=[broken])
    (desk.folder / "sums" / "c.jsonl").rename(desk.folder / "sums" / "e.jsonl")
    second = desk.ingest()["sums"]
    assert first.quarantined == second.quarantined == {"json-broken": 1, "record-shape": 1}
    assert second.written == 0


def test_another_pattern_of_files_builds_only_what_it_adds(desk):
    desk.entries["sums"] = "format: alpaca, kind: qa, files: a.jsonl, cap: 4"
    desk.ingest("narrow")
    desk.entries["sums"] = "format: alpaca, kind: qa, files: [a.jsonl, b.jsonl], cap: 4"
    report = desk.ingest("narrow")["sums"]
    assert report.samples == 20
    assert report.written < report.shards
    assert {stored.path for shard in desk.state(lake="narrow").shards for stored in shard.objects} == desk.shards()


def test_another_corpus_changes_nothing_of_the_first(desk):
    before = desk.state()
    (desk.folder / "more").mkdir()
    (desk.folder / "more" / "m.jsonl").write_text(json.dumps(sum_of(1)))
    desk.entries["more"] = "format: alpaca, kind: qa, files: '*.jsonl'"
    reports = desk.ingest()
    assert (reports["sums"].unchanged, reports["more"].samples) == (True, 1)
    assert desk.state() == before
    assert desk.is_as_fresh()


def test_only_the_named_corpus_is_touched(desk):
    (desk.folder / "more").mkdir()
    (desk.folder / "more" / "m.jsonl").write_text(json.dumps(sum_of(1)))
    desk.entries["more"] = "format: alpaca, kind: qa, files: '*.jsonl'"
    desk.write(a=None)
    assert set(desk.ingest(only=["more"])) == {"more"}
    assert {state.corpus.name: state.samples for state in desk.snapshot().corpora} == {"more": 1, "sums": 20}
    with pytest.raises(UnknownName, match="no corpus 'sum'; did you mean 'sums'"):
        desk.ingest(only=["sum"])


def test_a_new_licence_or_tag_is_published_without_reading(desk):
    desk.entries["sums"] = "tags: [maths], format: alpaca, kind: qa, files: '*.jsonl', cap: 4"
    report = desk.ingest()["sums"]
    assert (report.unchanged, report.written) == (True, 0)
    assert desk.state().corpus.tags == ("maths",)
    assert desk.snapshot().number == 2
    assert desk.is_as_fresh()


def test_another_kind_builds_everything_anew(desk):
    desk.entries["sums"] = "format: alpaca, kind: caption, files: '*.jsonl', cap: 4"
    report = desk.ingest()["sums"]
    assert report.written == report.shards
    assert desk.is_as_fresh()


def test_a_larger_cap_gives_fewer_leaves_of_the_same_samples(desk):
    desk.entries["sums"] = "format: alpaca, kind: qa, files: '*.jsonl', cap: 100"
    report = desk.ingest()["sums"]
    assert (report.written, report.shards, report.samples) == (1, 1, 20)
    assert desk.is_as_fresh()


def test_snapshots_of_before_stay_readable(desk):
    lake = Lake(str(desk.folder / "lake"))
    before = lake.snapshot(1)
    desk.write(a=[], b=[sum_of(1)])
    desk.ingest()
    assert lake.snapshot(1) == before
    keys = [key.as_py() for shard in before.corpus("sums").shards for key in get_table(lake.store, shard.index)["key"]]
    assert len(keys) == 20


def test_a_corpus_that_became_empty_has_no_shards(desk):
    desk.write(a=[], b=None)
    report = desk.ingest()["sums"]
    assert (report.records, report.samples, report.shards) == (0, 0, 0)
    assert desk.is_as_fresh()


def test_files_of_nothing_but_bad_records_have_no_shards(desk):
    desk.write(a=[{"id": str(number)} for number in range(9)], b=None)
    report = desk.ingest()["sums"]
    assert (report.records, report.samples, report.shards, report.quarantined) == (9, 0, 0, {"record-shape": 9})
    assert desk.is_as_fresh()


# --- media ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def album(tmp_path):
    """Twelve pictures of which one is cut off."""
    desk = Desk(tmp_path)
    desk.entries = {"album": "format: llava, kind: qa, files: qa.jsonl, cap: 4"}
    (tmp_path / "album").mkdir()
    turns = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "Grey."}]
    records = [{"id": str(number), "image": f"{number}.jpg", "conversations": turns} for number in range(12)]
    (tmp_path / "album" / "qa.jsonl").write_text("\n".join(map(json.dumps, records)))
    for number in range(12):
        (tmp_path / "album" / f"{number}.jpg").write_bytes(JPEG[:-2] if number == 5 else JPEG)
    assert desk.ingest()["album"].quarantined == {"image-truncated": 1}
    return desk


def test_a_repaired_image_is_seen_when_looked_for(album):
    (album.folder / "album" / "5.jpg").write_bytes(JPEG)
    assert album.ingest()["album"].unchanged
    report = album.ingest(reread=True)["album"]
    assert (report.quarantined, report.samples, report.written) == ({}, 12, 1)
    assert album.is_as_fresh()


def test_an_image_that_went_missing_is_seen_when_looked_for(album):
    (album.folder / "album" / "7.jpg").unlink()
    report = album.ingest(reread=True)["album"]
    assert (report.quarantined, report.written) == ({"image-truncated": 1, "media-missing": 1}, 1)
    assert album.is_as_fresh()


def test_looking_again_looks_again_even_after_a_run_that_was_cut_off(album):
    lake = Lake(str(album.folder / "lake"))
    work = f"work/album/{lake.snapshot().corpus('album').source[:16]}/sort"
    lake.store.replace(f"{work}/00000.json", b'{"path": "gone", "rows": 0, "origins": null}')  # left by that run
    (album.folder / "album" / "5.jpg").write_bytes(JPEG)
    assert album.ingest(reread=True)["album"].samples == 12


def test_what_a_killed_run_left_is_cleared_by_the_next(album):
    lake = Lake(str(album.folder / "lake"))
    lake.store.replace("work/album/0123456789abcdef/scan/00000.json", b"[]")
    album.ingest()
    assert list(lake.store.list("work")) == []


# --- mistakes -------------------------------------------------------------------------------------------------------


def test_the_lake_is_not_its_own_raw_data(desk):
    desk.entries["sums"] = "format: alpaca, kind: qa, files: '**/*.json*', cap: 4"
    first = desk.ingest("sums/lake")
    again = desk.ingest("sums/lake")
    assert (first["sums"].samples, again["sums"].unchanged) == (20, True)
    with pytest.raises(BadCatalog, match="corpus 'sums': its root is the lake itself"):
        desk.ingest("sums")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("format: alpaka, kind: qa", "corpus 'sums': no format 'alpaka'; did you mean 'alpaca'"),
        ("format: nobody.knows, kind: qa", "corpus 'sums': no format 'nobody.knows'"),
        ("format: os.path, kind: qa", "corpus 'sums': no reader with RECORD, FILES, read, draft in 'os.path'"),
        ("format: alpaca, kind: qa, files: '*.csv'", "corpus 'sums': no file *.csv below {root}"),
        ("format: alpaca, kind: qa, files: [x.json, y.json]", "corpus 'sums': no file x.json or y.json below {root}"),
        ("format: alpaca, kind: qa, files: ../*.json", "'..' leaves {root}"),
        ("format: alpaca, kind: qa, files: a.jsonl/x.json", "corpus 'sums': no file a.jsonl/x.json below {root}"),
    ],
)
def test_a_corpus_that_cannot_be_read_is_said(desk, entry, said):
    desk.entries["sums"] = entry
    with pytest.raises(Exception) as caught:  # noqa: PT011 - each is a UserError
        desk.ingest("other")
    assert said.format(root=desk.folder / "sums") in str(caught.value)
    assert not (desk.folder / "other").exists()


def test_a_root_that_is_not_there_is_said(desk):
    desk.entries = {"nowhere": "format: alpaca, kind: qa"}
    with pytest.raises(BadCatalog, match=f"corpus 'nowhere': no file .* below {desk.folder}/nowhere"):
        desk.ingest("other")


def test_a_file_name_that_is_not_utf8_is_said(desk):
    (desk.folder / "sums" / os.fsdecode(b"\xff.jsonl")).write_text("")
    with pytest.raises(BadCatalog, match=r"corpus 'sums': a file below .* has a name that is not UTF-8"):
        desk.ingest()


def test_a_lake_without_snapshots_is_an_empty_lake(desk):
    desk.folder.joinpath("empty", "snapshots").mkdir(parents=True)
    desk.folder.joinpath("empty", "snapshots", ".DS_Store").write_text("")
    assert Lake(str(desk.folder / "empty")).numbers() == []
    assert desk.ingest("empty")["sums"].samples == 20
    assert desk.snapshot("empty").number == 1


def test_two_who_publish_at_once_both_count(desk):
    lake, other = Lake(str(desk.folder / "lake")), Lake(str(desk.folder / "lake"))
    late = desk.state().model_copy(update={"corpus": desk.state().corpus.model_copy(update={"name": "late"})})
    early = desk.state().model_copy(update={"corpus": desk.state().corpus.model_copy(update={"name": "early"})})
    tried = []

    def add(state):
        def change(snapshot: Snapshot) -> Snapshot:
            if state is late and not tried:
                tried.append(other.publish(add(early)).number)
            return snapshot.model_copy(update={"corpora": (*snapshot.corpora, state)})

        return change

    assert lake.publish(add(late)).number == 3
    assert [state.corpus.name for state in lake.snapshot().corpora] == ["sums", "early", "late"]

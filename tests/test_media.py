"""What a catalog asks of media, end to end: deep looks, changed images, kept videos, places in images, notes."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from lakes import clips, files, fill, pictures, plan, recipe, rows
from PIL import Image, ImageOps

from tarsia.builders.documents import read_catalog
from tarsia.builders.tables import get_table
from tarsia.manifests.audit import audit
from tarsia.pipelines import show
from tarsia.pipelines.check import check
from tarsia.pipelines.ingest import ingest
from tarsia.pipelines.pack import pack
from tarsia.pipelines.pool import open_pool
from tarsia.pipelines.survey import deepened

SEEN = {"format": "llava", "kind": "qa"}
FILMS = {"format": "video", "kind": "qa"}


def stored(lake, corpus):
    """The samples of a corpus by their ids: JSON, and all members."""
    found = {}
    for shard in lake.snapshot().corpus(corpus).shards:
        with tarfile.open(fileobj=io.BytesIO(lake.store.read(shard.tar.path))) as tar:
            for member in tar.getmembers():
                key, _, name = member.name.partition(".")
                found.setdefault(key, {})[name] = tar.extractfile(member).read()
    samples = {json.loads(members["json"])["id"]: members for members in found.values()}
    return {own: (json.loads(members["json"]), members) for own, members in samples.items()}


def refused(lake, corpus):
    """What is in a corpus's quarantine: code and message by id."""
    stored_ = lake.snapshot().corpus(corpus).quarantine
    table = get_table(lake.store, stored_).to_pylist() if stored_ else []
    return {row["id"]: (row["code"], row["message"]) for row in table}


def again(folder, lake, *, deep=False, **options):
    """Ingests the catalog once more; what was written anew."""
    catalog = read_catalog(folder / "catalog.yaml")
    with open_pool(1) as pool:
        return ingest(deepened(catalog) if deep else catalog, lake, pool, quiet=True, **options)


def cut(path):
    """Breaks off a JPEG's scan, and ends it as if it were whole."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3] + b"\xff\xd9")


# --- deep -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(tmp_path):
    """Four pictures, of which the second's scan breaks off."""
    records = pictures(tmp_path, [(640, 480)] * 4)
    for number in range(4):
        Image.effect_noise((640, 480), 60).save(tmp_path / f"images/{number}.jpg")
    cut(tmp_path / "images/1.jpg")
    return records


def test_deep_refuses_what_does_not_decode_and_its_absence_lets_it_pass_again(tmp_path, broken):
    lake = fill(tmp_path, {"seen": (SEEN, broken), "deep": ({**SEEN, "images": {"deep": True}}, broken)})
    assert refused(lake, "seen") == {}
    assert refused(lake, "deep") == {
        "p1": ("image-truncated", "images/1.jpg: the JPEG's scan breaks off before its end")
    }
    shallow = lake.snapshot()
    (seen, deep) = again(tmp_path, lake, deep=True)
    assert (seen.quarantined, seen.written, deep.unchanged) == ({"image-truncated": 1}, 1, True)
    assert refused(lake, "seen") == refused(lake, "deep")
    again(tmp_path, lake)
    assert lake.snapshot().model_copy(update={"number": 0}) == shallow.model_copy(update={"number": 0})


def test_deep_says_the_same_whichever_way_it_is_asked_for(tmp_path, broken):
    option = fill(tmp_path, {"seen": (SEEN, broken)}, lake="option")
    again(tmp_path, option, deep=True)
    rule = fill(tmp_path, {"seen": ({**SEEN, "images": {"deep": True}}, broken)}, lake="rule")
    assert option.snapshot().corpora == rule.snapshot().corpora


# --- changed images -------------------------------------------------------------------------------------------------


@pytest.fixture
def odd(tmp_path):
    """A photograph, one turned by a quarter, one in CMYK, one transparent, one of 16 bits, and one that is long."""
    records = pictures(tmp_path, [(64, 48)] * 6)
    images = tmp_path / "images"
    scene = Image.effect_noise((64, 48), 40).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    scene.save(images / "1.jpg", exif=exif)
    scene.convert("CMYK").save(images / "2.jpg")
    clear = scene.convert("RGBA")
    clear.putalpha(0)
    clear.save(images / "3.jpg", format="PNG")
    Image.new("I;16", (64, 48), 40_000).save(images / "4.jpg", format="PNG")
    scene.resize((400, 300)).save(images / "5.jpg")
    return records


def test_without_rules_images_are_stored_byte_for_byte_and_noted(tmp_path, odd):
    lake = fill(tmp_path, {"odd": (SEEN, odd)})
    for own, (sample, members) in stored(lake, "odd").items():
        (facts,) = sample["images"]
        assert members[facts["member"]] == (tmp_path / f"images/{own[1:]}.jpg").read_bytes()
    assert {own: code for own, (code, _) in refused(lake, "odd").items()} == {"p4": "image-depth"}
    assert lake.snapshot().corpus("odd").notes == {"image: CMYK": 1, "image: transparent": 1, "image: turned": 1}


def test_by_the_rules_images_are_changed_and_facts_are_those_of_what_is_stored(tmp_path, odd):
    rules = {"images": {"upright": True, "rgb": True, "longest": 200}}
    lake = fill(tmp_path, {"odd": ({**SEEN, **rules}, odd)})
    found = stored(lake, "odd")
    sizes = {own: (one["images"][0]["width"], one["images"][0]["height"]) for own, (one, _) in found.items()}
    assert sizes == {**dict.fromkeys(("p0", "p2", "p3", "p4"), (64, 48)), "p1": (48, 64), "p5": (200, 150)}
    for own, (sample, members) in found.items():
        (facts,) = sample["images"]
        with Image.open(io.BytesIO(members[facts["member"]])) as image:
            assert (image.mode, image.size) == ("RGB", sizes[own])
    names = {own: sample["images"][0]["member"] for own, (sample, _) in found.items()}
    assert names == {"p0": "0.jpg", "p1": "0.jpg", "p2": "0.jpg", "p3": "0.png", "p4": "0.png", "p5": "0.jpg"}
    assert found["p0"][1]["0.jpg"] == (tmp_path / "images/0.jpg").read_bytes()
    notes = {"image: made RGB": 3, "image: made upright": 1, "image: shrunk": 1}
    assert lake.snapshot().corpus("odd").notes == notes
    (again_,) = again(tmp_path, lake)
    assert (again_.unchanged, again_.notes) == (True, notes)


def test_changed_images_are_the_same_bytes_for_any_number_of_workers(tmp_path, odd):
    entry = {**SEEN, "images": {"upright": True, "rgb": True, "longest": 40}, "cap": 2}
    one, two = (fill(tmp_path, {"odd": (entry, odd)}, lake=f"lake{n}", workers=n) for n in (1, 2))
    assert files(Path(one.url) / "corpora") == files(Path(two.url) / "corpora")


def test_a_rule_writes_its_own_corpus_anew_and_no_other(tmp_path, odd):
    fill(tmp_path, {"a": (SEEN, odd), "b": (SEEN, odd)})
    lake = fill(tmp_path, {"a": ({**SEEN, "images": {"rgb": True}}, odd), "b": (SEEN, odd)})
    (first, second) = again(tmp_path, lake)
    assert first.unchanged
    assert second.unchanged
    before, after = (lake.snapshot(number) for number in (1, 2))
    assert before.corpus("b") == after.corpus("b")
    assert before.corpus("a").shards != after.corpus("a").shards


# --- filters --------------------------------------------------------------------------------------------------------


def test_what_is_filtered_is_in_the_quarantine_with_its_filter_and_value(tmp_path):
    records = pictures(tmp_path, [(640, 480), (100, 300), (640, 100), (640, 480), (640, 480)])
    records[3]["conversations"][1]["value"] = "No."
    records[4]["split"] = "val"
    for number in range(4):
        records[number]["split"] = "train"
    filters = {"width": "224..", "ratio": "..4", "answer_chars": "5..", "record": {"split": "train"}}
    lake = fill(tmp_path, {"seen": ({**SEEN, "filters": filters}, records)})
    assert set(stored(lake, "seen")) == {"p0"}
    assert refused(lake, "seen") == {
        "p1": ("filtered", "width: 100 is not within 224.."),
        "p2": ("filtered", "ratio: 6.4 is not within ..4"),
        "p3": ("filtered", "answer_chars: 3 is not within 5.."),
        "p4": ("filtered", "record.split: 'val' is not 'train'"),
    }
    state = lake.snapshot().corpus("seen")
    assert state.records == state.samples + sum(state.quarantined.values()) == 5


def test_a_filter_that_refuses_nothing_new_writes_no_shard(tmp_path):
    records = pictures(tmp_path, [(64, 48)] * 3)
    before = fill(tmp_path, {"seen": (SEEN, records)}).snapshot()
    lake = fill(tmp_path, {"seen": ({**SEEN, "filters": {"answer_chars": "1..4000"}}, records)})
    assert lake.snapshot().corpus("seen").shards == before.corpus("seen").shards


# --- videos ---------------------------------------------------------------------------------------------------------


def test_the_original_of_a_video_is_kept_on_request_and_audited(tmp_path):
    records = clips(tmp_path, [2, 5])
    lake = fill(tmp_path, {"films": ({**FILMS, "videos": {"original": True}}, records), "plain": (FILMS, records)})
    for own, (sample, members) in stored(lake, "films").items():
        (facts,) = sample["videos"]
        assert facts["original"]["member"] == "0.mp4"
        assert members["0.mp4"] == (tmp_path / f"videos/{own[1:]}.mp4").read_bytes()
        assert stored(lake, "plain")[own][0]["videos"] == [{**facts, "original": None}]
    (index,) = (get_table(lake.store, shard.index).to_pylist() for shard in lake.snapshot().corpus("films").shards)
    assert {row["videos"][0]["original"]["member"] for row in index} == {"0.mp4"}
    page = recipe({"1": {"take": {"qa": "100%"}}})
    manifests = plan(lake, page)
    assert len(rows(lake, manifests[0])) == 4
    with open_pool(1) as pool:
        pack(lake, ["small/1"], pool, quiet=True)
    assert audit(lake, manifests, recipe=page, deep=True).findings == ()
    packed = [entry.path for entry in lake.store.list("stages/small/1/shards") if entry.path.endswith(".tar")]
    with tarfile.open(fileobj=io.BytesIO(lake.store.read(packed[0]))) as tar:
        assert {name.rpartition(".")[2] for name in tar.getnames()} == {"jpg", "json", "npy"}


# --- places in images -----------------------------------------------------------------------------------------------

OCR = {"format": "icdar", "kind": "caption", "template": "locate-text"}


@pytest.fixture
def signs(tmp_path):
    """An image of 400 x 200 with a sign, once upright and once turned."""
    for name, number in (("plain", 1), ("turned", 6)):
        exif = Image.Exif()
        exif[0x0112] = number
        Image.new("RGB", (400, 200), "grey").save(tmp_path / f"{name}.jpg", exif=exif)
        (tmp_path / f"gt_{name}.txt").write_text("100,50,300,50,300,150,100,150,EXIT\n")
    return {"signs": ({**OCR, "files": "gt_*.txt"}, None)}


def test_places_are_written_when_the_image_is_opened(tmp_path, signs):
    lake = fill(tmp_path, signs)
    for sample, _ in stored(lake, "signs").values():
        question, answer = (turn["value"] for turn in sample["conversations"])
        assert "EXIT" in question
        assert answer == "[250, 250, 750, 750]"
        assert sample["boxes"][0]["points"] == [[100, 50], [300, 50], [300, 150], [100, 150]]
    assert lake.snapshot().corpus("signs").samples == 2


def test_boxes_follow_an_image_that_is_shrunk_and_refuse_to_be_turned(tmp_path, signs):
    entry = {**signs["signs"][0], "images": {"longest": 100, "upright": True}}
    lake = fill(tmp_path, {"signs": (entry, None)})
    ((sample, _),) = stored(lake, "signs").values()
    assert (sample["images"][0]["width"], sample["images"][0]["height"]) == (100, 50)
    assert sample["conversations"][1]["value"] == "[250, 250, 750, 750]"
    assert sample["boxes"][0]["points"] == [[25, 12.5], [75, 12.5], [75, 37.5], [25, 37.5]]
    assert refused(lake, "signs")["turned"][0] == "image-turned"


# --- check ----------------------------------------------------------------------------------------------------------


def test_check_shows_the_rules_in_force_and_why_records_are_refused(tmp_path, odd):
    rules = {
        "images": {"upright": True, "longest": 200},
        "filters": {"width": "60..", "record": {"id": ["p0", "p1", "p4"]}},
        "template": {"en": ["Look."]},
    }
    fill(tmp_path, {"odd": ({**SEEN, **rules}, odd), "films": ({**FILMS, "videos": {"original": True}}, [])})
    (one, other) = check(read_catalog(tmp_path / "catalog.yaml"), count=9)
    assert one.rules == (
        "template: questions of its own, 1 in en",
        "filters: width 60.., record.id p0 or p1 or p4",
        "images: upright, longest 200",
    )
    assert other.rules == ("videos: original",)
    by_id = {record.id: record for record in one.first}
    assert by_id["p1"].refused == "filtered: width: 48 is not within 60.."
    assert by_id["p2"].refused == "filtered: record.id: 'p2' is not 'p0' or 'p1' or 'p4'"
    assert by_id["p4"].refused.startswith("image-depth")
    assert by_id["p0"].notes == ()
    shown = show.checked([one])
    assert "  images: upright, longest 200" in shown
    assert "    refused, filtered: width: 48 is not within 60.." in shown


def test_check_tells_what_has_been_noted_of_an_image(tmp_path, odd):
    fill(tmp_path, {"odd": ({**SEEN, "images": {"rgb": True}}, odd)})
    (one,) = check(read_catalog(tmp_path / "catalog.yaml"), count=9)
    noted = {record.id: record.notes for record in one.first}
    assert noted["p1"] == ("image: turned",)
    assert noted["p2"] == ("image: made RGB",)
    assert "image 64x48, image: turned" in show.checked([one])


@pytest.mark.parametrize(
    ("encoding", "told"),
    [
        ("utf-8", None),
        ("utf-8-sig", "utf-8 with a byte order mark"),
        ("gb18030", "gb18030"),
        ("utf-16", "utf-16-le with a byte order mark"),
    ],
)
def test_check_tells_the_encoding_of_each_file(tmp_path, encoding, told):
    record = {"instruction": "这张图片里有什么？请仔细看一看。", "output": "一条红色的小船停在平静的水面上。"}
    (tmp_path / "a.json").write_bytes(json.dumps([record], ensure_ascii=False).encode(encoding))
    fill(tmp_path, {"said": ({"files": "a.json", "language": "zh"}, None)})
    (one,) = check(read_catalog(tmp_path / "catalog.yaml"))
    assert one.encodings == {"a.json": told or "utf-8"}
    assert (f"  a.json is in {told}" in show.checked([one])) == bool(told)
    assert one.first[0].sample.conversations[0].text == record["instruction"]


def test_a_turned_image_and_its_upright_copy_look_alike(tmp_path, odd):
    lake = fill(tmp_path, {"odd": ({**SEEN, "images": {"upright": True}}, odd)})
    members = stored(lake, "odd")["p1"][1]
    with Image.open(io.BytesIO(members["0.jpg"])) as upright, Image.open(tmp_path / "images/1.jpg") as raw:
        expected = ImageOps.exif_transpose(raw)
        assert upright.size == expected.size == (48, 64)

"""A stranger needs no Tarsia: stock webdataset and datasets open the shards, and images are the raw corpus's bytes."""

import io
import json

import pytest
from PIL import Image

from tarsia.builders.documents import read_catalog
from tarsia.builders.lake import Lake
from tarsia.pipelines.ingest import ingest
from tarsia.pipelines.pool import open_pool


def picture(number, kind):
    data = io.BytesIO()
    Image.new("RGB", (30 + number, 20), (number * 9, 99, 50)).save(data, kind)
    return data.getvalue()


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Raw images by their paths, and the tars of two corpora: one picture each, and no, one or two."""
    folder = tmp_path_factory.mktemp("stock")
    raw = {f"{number}.{kind}": picture(number, kind) for number in range(20) for kind in ("jpeg", "png")}
    for path, data in raw.items():
        (folder / path).write_bytes(data)

    def record(number, images):
        turns = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": f"Number {number}."}]
        return {"id": str(number), "images": images, "conversations": turns}

    same = [record(number, [f"{number}.jpeg"]) for number in range(20)]
    mixed = [record(number, [f"{number}.jpeg", f"{number}.png"][: number % 3]) for number in range(20)]
    (folder / "same.json").write_text(json.dumps(same))
    (folder / "mixed.json").write_text(json.dumps(mixed))
    entry = "format: llava, kind: qa, language: en, licence: CC0, root: ., cap: 8"
    (folder / "catalog.yaml").write_text(
        f"corpora:\n  same: {{{entry}, files: same.json}}\n  mixed: {{{entry}, files: mixed.json}}\n"
    )
    lake = Lake(str(folder / "lake"))
    with open_pool(1) as pool:
        ingest(read_catalog(folder / "catalog.yaml"), lake, pool, quiet=True)
    states = lake.snapshot().corpora
    tars = {state.corpus.name: [f"{lake.url}/{shard.tar.path}" for shard in state.shards] for state in states}
    assert len(tars["same"]) > 2
    return raw, tars


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves closing to the collector
def test_webdataset_reads_them(shards):
    wds = pytest.importorskip("webdataset")
    raw, tars = shards
    found = {}
    for sample in wds.WebDataset(tars["same"] + tars["mixed"], shardshuffle=False, empty_check=False):
        facts = json.loads(sample["json"])
        assert sample["__key__"] == facts["key"]
        found[facts["corpus"], int(facts["id"])] = {name: sample[name] for name in sample if name[0] in "01"}
    assert found == {
        **{("same", number): {"0.jpg": raw[f"{number}.jpeg"]} for number in range(20)},
        **{
            ("mixed", number): dict([("0.jpg", raw[f"{number}.jpeg"]), ("1.png", raw[f"{number}.png"])][: number % 3])
            for number in range(20)
        },
    }


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")

    def load(tars, **options):
        return datasets.load_dataset(
            "webdataset", data_files={"train": tars}, split="train", cache_dir=str(tmp_path), **options
        )

    return load


def test_datasets_reads_a_corpus_with_the_same_members_in_every_sample(shards, load):
    from datasets import Image as Feature

    raw, tars = shards
    rows = load(tars["same"], streaming=True).cast_column("0.jpg", Feature(decode=False))
    found = {int(row["json"]["id"]): row["0.jpg"]["bytes"] for row in rows}
    assert found == {number: raw[f"{number}.jpeg"] for number in range(20)}
    pictures = load(tars["same"])["0.jpg"]
    assert sorted(picture.size for picture in pictures) == [(30 + number, 20) for number in range(20)]


def test_datasets_reads_a_corpus_of_mixed_samples_when_told_the_features(shards, load):
    from datasets import Features, List, Value
    from datasets import Image as Feature

    raw, tars = shards
    with pytest.raises(ValueError, match="don't share the same prefix or the same types"):
        load(tars["mixed"], streaming=True)
    turns = List({"from": Value("string"), "value": Value("string")})
    features = Features(
        {
            "__key__": Value("string"),
            "json": {"id": Value("string"), "conversations": turns},  # as much of it as one wants
            "0.jpg": Feature(decode=False),
            "1.png": Feature(decode=False),
        }
    )
    found = {}
    for row in load(tars["mixed"], streaming=True, features=features):
        found[int(row["json"]["id"])] = [row[name] and row[name]["bytes"] for name in ("0.jpg", "1.png")]
    parts = [(raw[f"{number}.jpeg"], raw[f"{number}.png"]) for number in range(20)]
    assert found == {
        number: [jpeg if number % 3 else None, png if number % 3 == 2 else None]
        for number, (jpeg, png) in enumerate(parts)
    }

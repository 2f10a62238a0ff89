"""Records in = samples + quarantined, whatever the records: each refusal with its reason, its place and its bytes."""

import io
import json

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from tarsia.builders.chat import restore
from tarsia.builders.documents import read_catalog
from tarsia.builders.lake import Lake
from tarsia.builders.shards import members
from tarsia.builders.tables import get_table
from tarsia.pipelines.ingest import ingest
from tarsia.pipelines.pool import open_pool
from tarsia.schemas.shard import QUARANTINE


def jpeg(size=(24, 16)):
    data = io.BytesIO()
    Image.new("RGB", size, (200, 100, 50)).save(data, "JPEG")
    return data.getvalue()


def wav(seconds, loud=0.3):
    data = io.BytesIO()
    soundfile.write(
        data, loud * np.sin(np.arange(int(seconds * 16_000)) * 0.05), 16_000, format="WAV", subtype="PCM_16"
    )
    return data.getvalue()


def mp4():
    data = io.BytesIO()
    with av.open(data, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), number * 30, np.uint8))))
        container.mux(stream.encode())
    return data.getvalue()


MEDIA = {
    "ok.jpg": jpeg(),
    "empty.jpg": b"",
    "cut.jpg": jpeg((300, 300))[:-40],
    "head.jpg": jpeg()[:30],
    "text.jpg": b"<html>404 Not Found</html>",
    "long.jpg": jpeg((4000, 10)),
    "ok.wav": wav(1.0),
    "none.wav": wav(0),
    "short.wav": wav(0.1),
    "long.wav": wav(31),
    "silent.wav": wav(1, loud=0),
    "noise.wav": b"RIFF" + bytes(40),
    "ok.mp4": mp4(),
    "cut.mp4": mp4()[:300],
    "noise.mp4": bytes(range(256)) * 4,
}


def said(*turns, **more):
    names = ("human", "gpt")
    return {**more, "conversations": [{"from": names[n % 2], "value": text} for n, text in enumerate(turns)]}


def picture(path, own):
    return said("<image>\nWhat is it?", "It is orange.", id=own, image=path)


GOOD = [
    picture("ok.jpg", "picture"),
    said("What is it?", "A tone.", id="sound", audio="ok.wav"),
    said("What is it?", "A change.", id="film", video="ok.mp4"),
    said("Why?", "Because.", id="talk"),
    said("你好吗？", "很好。", id="zh"),
    said("Why?", "Because.", id=12345678901234567890),
    said("Why?", "Because.", id=10**30),
    said("Why?", "Because.", more=[1e300, -0.0, {"a": {"b": []}}]),
    said("Why?", "Because."),
    said("Why?", "Because."),
    said("NUL \0 and joiner \u2060 and emoji 🎈", "Both \ufeff kept.", id="odd"),
    picture("./ok.jpg", "dotted"),
    picture("sub\\..\\ok.jpg", "back and forth"),
]
CONTROL = "Say <|im_start|>system and <image> or <|im_end|>, ☞ too."
BAD = [  # a record or its bytes, the code of its refusal
    (picture("no.jpg", "missing"), "media-missing"),
    (picture("sub", "folder"), "media-missing"),
    (picture("n" * 300 + ".jpg", "endless"), "media-missing"),
    (picture("nul\0.jpg", "nul"), "media-outside"),
    (picture("../secret.jpg", "up"), "media-outside"),
    (picture("sub/../../secret.jpg", "up again"), "media-outside"),
    (picture("link.jpg", "link"), "media-outside"),
    (picture("/etc/hostname", "absolute"), "media-outside"),
    (picture("empty.jpg", "empty"), "image-empty"),
    (picture("cut.jpg", "cut"), "image-truncated"),
    (picture("head.jpg", "head"), "image-truncated"),
    (picture("text.jpg", "text"), "image-unknown"),
    (picture("ok.wav", "not an image"), "image-unknown"),
    (picture("long.jpg", "long"), "image-ratio"),
    (said("Hear?", "No.", audio="none.wav"), "audio-empty"),
    (said("Hear?", "No.", audio="short.wav"), "audio-short"),
    (said("Hear?", "No.", audio="long.wav"), "audio-long"),
    (said("Hear?", "No.", audio="silent.wav"), "audio-silent"),
    (said("Hear?", "No.", audio="noise.wav"), "audio-unreadable"),
    (said("Hear?", "No.", audio="ok.jpg"), "audio-unreadable"),
    (said("See?", "No.", video="cut.mp4"), "video-unreadable"),
    (said("See?", "No.", video="noise.mp4"), "video-unreadable"),
    (said("<image> and <image>?", "One.", image="ok.jpg"), "placeholders"),
    (said("<image>?", "None."), "placeholders"),
    (said("Why?", "Because.", image=7), "record-shape"),
    (said("Why?", "Because.", image=[None]), "record-shape"),
    ({"id": "bare"}, "record-shape"),
    ({"id": "text", "conversations": "Why?"}, "record-shape"),
    ({"id": "empty", "conversations": []}, "conversation-empty"),
    ({"id": "words", "conversations": ["Why?", "Because."]}, "record-shape"),
    ({"conversations": [{"from": "human", "value": "a"}, {"from": "human", "value": "b"}]}, "roles-order"),
    ({"conversations": [{"from": "judge", "value": "a"}, {"from": "gpt", "value": "b"}]}, "roles-unknown"),
    ({"conversations": [{"from": "human", "value": 1}, {"from": "gpt", "value": "b"}]}, "text-missing"),
    (said("Why?", ""), "answer-empty"),
    (said("Why?", " \n"), "answer-empty"),
    (said(" ", "Because."), "question-empty"),
    (said("Why?"), "answer-empty"),
    ([1, 2], "record-shape"),
    (None, "record-shape"),
    (7, "record-shape"),
    ("Why?", "record-shape"),
    (b'{"id": "broken", "conversations": [}', "json-broken"),
    (b'{"id": "quote", "conversations: []}', "json-broken"),
    (b'{"id": "nan", "n": NaN}', "json-broken"),
    (b'{"id": "infinity", "n": -Infinity}', "json-broken"),
    (b'{"id": "\\ud800", "conversations": []}', "json-broken"),
    (b'{"id": "' + b"\xff\xfe" + b'"}', "text-encoding"),
    (b'{"deep": ' + b"[" * 300 + b"]" * 300 + b"}", "record-shape"),
    (b'{"deeper": ' + b"[" * 3000 + b"]" * 3000 + b"}", "json-broken"),
    (b"not JSON at all", "json-broken"),
]
FILES = {  # whole files: what they hold, how many samples come of them, and the codes and spans of refusals
    "array.json": (
        b'[%s, {"id": "last", "conver' % json.dumps(said("a?", "b.", id="first")).encode(),
        1,
        ["json-truncated"],
    ),
    "utf16.json": (json.dumps([said("a?", "b.", id="wide")]).encode("utf-16"), 1, []),
    "latin.jsonl": ('{"id": "é"}\n'.encode("latin-1"), 0, ["text-encoding"]),
    "cut.jsonl": (b'{"id": "cut", "conversations": [{"from": "hum', 0, ["json-truncated"]),
    "empty.json": (b"", 0, []),
    "blank.jsonl": (b"\n\n  \n", 0, []),
    "none.json": (b"[]", 0, []),
    "bom.json": (b"\xef\xbb\xbf" + json.dumps([said("bom?", "yes.", id="bom")]).encode(), 1, []),
    "zeros.jsonl": (bytes(100), 0, ["json-broken"]),
}


@pytest.fixture(scope="module")
def mess(tmp_path_factory):
    """A corpus of records bad in every way, with good ones between, and the lake that was made of it."""
    folder = tmp_path_factory.mktemp("mess")
    (folder / "raw" / "sub").mkdir(parents=True)
    (folder / "secret.jpg").write_bytes(jpeg())
    (folder / "raw" / "link.jpg").symlink_to("../secret.jpg")
    for name, data in MEDIA.items():
        (folder / "raw" / name).write_bytes(data)
    lines = [raw if isinstance(raw, bytes) else json.dumps(raw).encode() for raw, _ in BAD]
    good = [json.dumps(record).encode() for record in GOOD]
    (folder / "raw" / "records.jsonl").write_bytes(b"\n".join([*good[:5], *lines, *good[5:]]))
    for name, (data, _, _) in FILES.items():
        (folder / "raw" / name).write_bytes(data)
    (folder / "catalog.yaml").write_text(
        "corpora: {mess: {format: llava, kind: qa, language: zh+en, licence: CC0, root: raw, cap: 16,"
        " files: ['*.json', '*.jsonl']}}"
    )
    lake = Lake(str(folder / "lake"))
    with open_pool(1) as pool:
        (report,) = ingest(read_catalog(folder / "catalog.yaml"), lake, pool, quiet=True)
    state = lake.snapshot().corpus("mess")
    rows = get_table(lake.store, state.quarantine, verify=True)
    assert rows.schema.equals(QUARANTINE)
    return folder, report, rows.to_pylist(), state, lake


def test_nothing_is_lost(mess):
    _, report, rows, state, _ = mess
    files = [(samples, len(codes)) for _, samples, codes in FILES.values()]
    assert report.samples == len(GOOD) + sum(samples for samples, _ in files)
    assert len(rows) == len(BAD) + sum(refused for _, refused in files)
    assert report.records == state.records == report.samples + len(rows)
    assert sum(report.quarantined.values()) == len(rows)


@pytest.mark.parametrize("number", range(len(BAD)), ids=[f"{code}-{number}" for number, (_, code) in enumerate(BAD)])
def test_a_bad_record_is_refused_for_its_reason_and_found_again(mess, number):
    folder, _, rows, _, _ = mess
    raw, code = BAD[number]
    line = raw if isinstance(raw, bytes) else json.dumps(raw).encode()
    data = (folder / "raw" / "records.jsonl").read_bytes()
    found = [row for row in rows if row["file"] == "records.jsonl" and data[row["begin"] : row["end"]] == line]
    assert [row["code"] for row in found] == [code]
    assert found[0]["message"]
    if isinstance(raw, bytes):
        assert found[0]["raw"] == line
    else:
        assert json.loads(found[0]["raw"]) == raw


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_costs_only_what_is_bad_in_it(mess, name):
    _, _, rows, _, _ = mess
    data, _, codes = FILES[name]
    found = [row for row in rows if row["file"] == name]
    assert [row["code"] for row in found] == codes
    assert all(data[row["begin"] : row["end"]].startswith(row["raw"]) for row in found)


def test_each_refusal_has_a_key_of_its_own(mess):
    _, _, rows, _, _ = mess
    keys = [row["key"] for row in rows]
    assert keys == sorted(set(keys))


def samples(mess):
    _, _, _, state, lake = mess
    for shard in state.shards:
        for row in get_table(lake.store, shard.index).to_pylist():
            data = lake.store.read_range(shard.tar.path, row["offset"], row["length"])
            parts = members(data, row["key"])
            yield json.loads(parts["json"]), parts


def test_good_records_between_bad_ones_are_whole(mess):
    by_id = {sample["id"]: (sample, parts) for sample, parts in samples(mess)}
    assert {"picture", "sound", "film", "talk", "zh", "odd", "dotted", "12345678901234567890", "bom"} < set(by_id)
    assert by_id["picture"][1]["0.jpg"] == MEDIA["ok.jpg"]
    assert by_id["back and forth"][1]["0.jpg"] == MEDIA["ok.jpg"]
    assert [turn["value"] for turn in by_id["odd"][0]["conversations"]] == [
        "NUL \0 and joiner \u2060 and emoji 🎈",
        "Both \ufeff kept.",
    ]
    assert by_id["zh"][0]["language"] == "zh"
    assert by_id["talk"][0]["language"] == "en"
    assert len(by_id["film"][0]["videos"][0]["frames"]) == 8


def test_equal_records_are_all_kept(mess):
    twins = [sample["id"] for sample, _ in samples(mess) if sample["id"].startswith("#")]
    assert len(twins) == 4
    assert len([own for own in twins if own.endswith("#1")]) == 1


def test_control_tokens_of_a_corpus_are_text(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"instruction": CONTROL, "output": "☞ " + CONTROL}))
    (tmp_path / "catalog.yaml").write_text(
        "corpora: {a: {format: alpaca, kind: qa, language: en, licence: CC0, root: ., files: a.jsonl}}"
    )
    lake = Lake(str(tmp_path / "lake"))
    with open_pool(1) as pool:
        ingest(read_catalog(tmp_path / "catalog.yaml"), lake, pool, quiet=True)
    (shard,) = lake.snapshot().corpus("a").shards
    ((question, answer),) = get_table(lake.store, shard.text)["conversations"].to_pylist()
    assert not any(token in question["value"] + answer["value"] for token in ("<|im_start|>", "<|im_end|>", "<image>"))
    assert not answer["value"].startswith("☞")
    assert restore(question["value"]) == CONTROL
    assert restore(answer["value"]) == "☞ " + CONTROL


READER = """
from tarsia.builders.corpora import Raw
from tarsia.schemas.sample import Draft, Turn
RECORD, FILES = "one line", ("*.txt",)

def read(source, file):
    end = 0
    for number, line in enumerate(source.read(file).split(b"\\n")):
        begin, end = end, end + len(line) + 1
        if line == b"trip":
            raise LookupError("tripped")
        record = {"line": line.decode()} if line != b"set" else {"line": {1}}
        yield Raw(number, record, begin, end - 1)

def draft(record, at):
    if record["line"] == "crash":
        return {}["nothing"]
    return Draft(turns=(Turn(speaker="human", text=record["line"]), Turn(speaker="gpt", text="yes")))
"""


def test_a_reader_that_trips_loses_nothing_and_stops_nothing(tmp_path, monkeypatch):
    (tmp_path / "reader_that_trips").mkdir()
    (tmp_path / "reader_that_trips" / "lines.py").write_text(READER)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "a.txt").write_text("one\ncrash\nset\ntwo\ntrip\nnever seen")
    (tmp_path / "b.txt").write_text("three")
    (tmp_path / "catalog.yaml").write_text(
        "corpora: {a: {format: reader_that_trips.lines, kind: qa, language: en, licence: CC0, root: .}}"
    )
    lake = Lake(str(tmp_path / "lake"))
    with open_pool(1) as pool:
        (report,) = ingest(read_catalog(tmp_path / "catalog.yaml"), lake, pool, quiet=True)
    assert (report.records, report.samples) == (6, 3)
    rows = get_table(lake.store, lake.snapshot().corpus("a").quarantine).to_pylist()
    found = sorted((row["begin"], row["end"], row["code"], row["message"], row["raw"]) for row in rows)
    assert found == [
        (4, 9, "reader-failed", "KeyError: 'nothing'", b'{"line":"crash"}'),
        (10, 13, "record-shape", "Type is not JSON serializable: set", b"set"),
        (17, 33, "reader-failed", "LookupError: tripped", b""),
    ]

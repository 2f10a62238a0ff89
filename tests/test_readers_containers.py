"""Readers of containers: tars, tables with media in them, folders of pairs, and what the library `datasets` opens."""

import gzip
import io
import json
import sys
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_readers import HELLO, code, draft, read, said, talk

from tarsia.builders.corpora import Fault, Raw, Span, find
from tarsia.builders.reading.rows import medium_of, take_media
from tarsia.builders.reading.tarfile_ import members
from tarsia.builders.reading.templates import TEMPLATES
from tarsia.builders.storage import open_store
from tarsia.schemas.errors import BadCatalog, MissingExtra, Outside, Refused

NOTE = {"medium": "image", "at": "@image", "bytes": 3, "path": "1.jpg"}
SOUND = {
    "hub": {"images": [NOTE, {**NOTE, "at": "@images.1"}], "messages": talk(("user", "hi"), ("assistant", "hello"))},
    "image_text": {"image": "a.jpg", "caption": "A dog."},
    "parquet": {"id": 1, "image": NOTE, "text": "A dog.", "captions": ["a", "b"], "answer": None},
    "video": {"videoid": "1", "name": "A dog runs.", "page_dir": "0_50"},
    "webdataset": {
        "key": "1",
        "txt": "A dog.",
        "json": {"caption": "A cat.", "status": "success"},
        "members": {"jpg": 9, "1.png": 7},
    },
}


def image(color=0, form="JPEG"):
    """A picture of one colour, as bytes."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (color, 0, 0)).save(file, form)
    return file.getvalue()


def tar(path, *members, mode="w", **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, **more) as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def tar_bytes(*files, **more):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", **more) as packed:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    return file.getvalue()


def content(folder, raw):
    """The media of a raw record, wherever they lie."""
    store = open_store(str(folder))
    return {name: store.read_range(*where) if isinstance(where, Span) else where for name, where in raw.media.items()}


def ids(found):
    return [raw.id if isinstance(raw, Raw) else raw.code for raw in found]


# --- webdataset -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [("0.tar", Span), ("0.tar.gz", bytes), ("0.tgz", bytes)])
def test_members_with_one_key_are_a_sample_wherever_they_lie(tmp_path, name, kind):
    members = [
        ("s/2.jpg", b"two"),
        ("s/1.jpg", b"one"),
        ("s/2.txt", b"second"),
        ("s/1.json", b'{"caption": "first", "url": "x"}'),
        ("s/2.json", b'{"url": "y"}'),
    ]
    tar(tmp_path / name, *members, mode="w" if name.endswith(".tar") else "w:gz")
    found = read(tmp_path, "webdataset")
    assert [raw.record for raw in found] == [
        {"key": "s/2", "json": {"url": "y"}, "txt": "second", "members": {"jpg": 3}},
        {"key": "s/1", "json": {"caption": "first", "url": "x"}, "members": {"jpg": 3}},
    ]
    assert [content(tmp_path, raw) for raw in found] == [{"jpg": b"two"}, {"jpg": b"one"}]
    assert {type(where) for raw in found for where in raw.media.values()} == {kind}
    assert ids(found) == ["s/2", "s/1"]
    assert [(raw.begin, raw.end) for raw in found] == [(0, 5120), (1024, 4096)]


def test_a_key_ends_at_the_first_dot_of_the_base_name(tmp_path):
    tar(tmp_path / "0.tar", ("v1.0/a.left.jpg", b"l"), ("v1.0/a.right.jpg", b"r"), ("v1.0/a.txt", b"two views"))
    (raw,) = read(tmp_path, "webdataset")
    assert (raw.id, sorted(raw.media)) == ("v1.0/a", ["left.jpg", "right.jpg"])
    drafted = draft("webdataset", raw.record, kind="caption")
    assert drafted.images == ("@left.jpg", "@right.jpg")
    assert said(drafted)[0][1].count("<image>") == 2


def test_a_caption_stands_in_the_text_or_in_the_json():
    members = {"jpg": 1}
    text = draft("webdataset", {"members": members, "txt": " A dog.\n", "json": {"caption": "A cat."}})
    (_, question), answer = said(text)
    assert question.removeprefix("<image>\n") in TEMPLATES["describe-image", "en"]
    assert answer == ("gpt", "A dog.")
    assert said(draft("webdataset", {"members": members, "json": {"caption": "A cat."}}))[1] == ("gpt", "A cat.")


def test_a_clip_with_a_text_is_a_caption_and_a_sound_a_transcript():
    clip = draft("webdataset", {"members": {"mp4": 1, "m4a": 1}, "txt": "A dog runs."})
    assert (clip.videos, clip.audios) == (("@mp4",), ())
    assert said(clip)[0][1].removeprefix("<video>\n") in TEMPLATES["describe-video", "en"]
    for ending in ("wav", "flac", "mp3", "opus", "ogg"):
        speech = {"members": {ending: 1}, "txt": "HELLO"}
        assert said(draft("webdataset", speech, kind="asr")) == [("human", "<audio>"), ("gpt", "HELLO")]
        assert draft("webdataset", speech, kind="asr").audios == (f"@{ending}",)
    assert said(draft("webdataset", speech, kind="caption"))[0][1].removeprefix("<audio>\n") in TEMPLATES["sound", "en"]


def test_json_with_a_conversation_is_about_all_media_by_their_numbers():
    talked = talk(("human", "<image>\n<image>\n<image>\nCompare."), ("gpt", "They differ."))
    members = {"10.jpg": 1, "2.jpg": 1, "1.jpg": 1}
    drafted = draft("webdataset", {"members": members, "json": {"conversations": talked}})
    assert drafted.images == ("@1.jpg", "@2.jpg", "@10.jpg")
    assert said(drafted)[1] == ("gpt", "They differ.")
    heard = draft("webdataset", {"members": {"wav": 1}, "json": {"messages": talk(("user", "?"), ("assistant", "!"))}})
    assert (heard.audios, said(heard)[0]) == (("@wav",), ("human", "<audio>\n?"))


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"members": {}, "txt": "A dog.", "json": {"status": "failed_to_download"}}, "download-failed"),
        ({"members": {}, "txt": "A dog.", "json": {"status": "success"}}, "media-missing"),
        ({"members": {"npy": 1}, "txt": "A dog."}, "media-missing"),
        ({"members": {"jpg": 1}}, "text-missing"),
        ({"members": {"jpg": 1}, "json": {"caption": None}}, "text-missing"),
        ({"members": {"jpg": 1}, "txt": " "}, "answer-empty"),
        ({"members": {"wav": 1}, "txt": ""}, "answer-empty"),
    ],
)
def test_samples_that_lack_something_are_refused(record, expected):
    assert code("webdataset", record) == expected


def test_a_truncated_tar_keeps_the_samples_before_the_cut(tmp_path):
    path = tar(tmp_path / "0.tar", ("1.jpg", b"x" * 600), ("1.txt", b"one"), ("2.jpg", b"y" * 600), ("2.txt", b"two"))
    data = path.read_bytes()
    path.write_bytes(data[:3200])
    found = read(tmp_path, "webdataset")
    assert found[0] == ("tar-truncated", "the file ends inside '2.jpg'", data[2560:3072], 2560, 3200)
    assert ids(found) == ["tar-truncated", "1"]
    path.write_bytes(data[:2600])
    assert [(fault.code, fault.begin, fault.end) for fault in read(tmp_path, "webdataset")[:1]] == [
        ("tar-truncated", 2560, 2600)
    ]
    for size in (2560, 2100, 0):  # between two members, inside the filling of one, before the first: no end is marked
        path.write_bytes(data[:size])
        faults = [fault for fault in read(tmp_path, "webdataset") if isinstance(fault, Fault)]
        assert [(fault.code, fault.begin, fault.end) for fault in faults] == [("tar-truncated", size, size)]
        assert ids(read(tmp_path, "webdataset")) == (["tar-truncated", "1"] if size else ["tar-truncated"])


def test_a_truncated_zip_of_a_tar_keeps_the_samples_before_the_cut(tmp_path):
    members = [(f"{number}.txt", bytes(range(256)) * number) for number in range(1, 40)]
    data = gzip.compress(tar(tmp_path / "0.tar", *members).read_bytes())
    (tmp_path / "0.tar").unlink()
    (tmp_path / "0.tar.gz").write_bytes(data[: len(data) // 2])
    found = read(tmp_path, "webdataset")
    assert [fault.code for fault in found if isinstance(fault, Fault) and fault.code != "text-encoding"] == [
        "tar-truncated",
        "gzip-broken",
    ]
    assert found[-1].end == len(data) // 2


def test_a_broken_header_costs_its_member_and_nothing_else(tmp_path):
    path = tar(tmp_path / "0.tar", ("1.txt", b"one"), ("2.txt", b"two"), ("3.txt", b"three"))
    data = bytearray(path.read_bytes())
    data[1024:1100] = b"\xff" * 76
    path.write_bytes(data)
    found = read(tmp_path, "webdataset")
    assert [(raw.begin, raw.end) for raw in found] == [(1024, 2048), (0, 1024), (2048, 3072)]
    assert ids(found) == ["tar-broken", "1", "3"]


WHOLE = tar_bytes(("1.jpg", b"x" * 700), ("1.txt", b"one"), ("2.json", b"{}"), ("很" * 60 + ".jpg", b"y"))


@settings(deadline=None, max_examples=300)
@given(changes=st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=40)), max_size=4))
def test_whatever_happened_to_a_tar_every_byte_is_accounted_for(changes):
    data = bytearray(WHOLE)
    for place, new in changes:
        data[place : place + len(new)] = new
    end = 0
    for found in members(io.BytesIO(data)):
        assert end <= found.begin < found.end <= len(data)
        assert not any(data[end : found.begin]) or data[end + 156] in b"5g"  # a folder, or what is said of all
        end = found.end
    assert not any(data[end:]) or data[end + 156] in b"5g"


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_and_foreign_names_are_read(tmp_path, form):
    name = "目录/" + "很长的名字" * 40
    tar(tmp_path / "0.tar", (f"{name}.txt", b"text"), (f"{name}.jpg", b"jpeg"), format=form)
    (raw,) = read(tmp_path, "webdataset")
    assert (raw.id, raw.record["txt"], content(tmp_path, raw)) == (name, "text", {"jpg": b"jpeg"})


def test_joined_tars_and_repeated_keys_lose_nothing(tmp_path):
    first = tar(tmp_path / "a", ("1.txt", b"one"), ("1.jpg", b"A")).read_bytes()
    second = tar(tmp_path / "b", ("1.txt", b"two"), ("1.jpg", b"B")).read_bytes()
    (tmp_path / "0.tar").write_bytes(first + second)
    found = read(tmp_path, "webdataset")
    assert [(raw.id, raw.record["txt"], content(tmp_path, raw)["jpg"]) for raw in found] == [
        ("1", "one", b"A"),
        ("1", "two", b"B"),
    ]


def test_members_that_are_no_part_of_a_sample_are_counted(tmp_path):
    path = tar(tmp_path / "0.tar", ("README", b"hello"), (".hidden.txt", b""), ("1.txt", b"one"))
    with tarfile.open(path, "a") as file:
        for name, kind in (("2.jpg", tarfile.SYMTYPE), ("3.jpg", tarfile.LNKTYPE), ("folder", tarfile.DIRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            file.addfile(info)
    found = read(tmp_path, "webdataset")
    assert ids(found) == ["tar-member", "tar-member", "tar-link", "tar-link", "1"]
    assert found[0].message == "'README' belongs to no sample"


def test_a_sample_with_a_broken_text_is_one_fault(tmp_path):
    members = [("1.jpg", b"x"), ("1.json", b'{"caption"'), ("2.jpg", b"x"), ("2.txt", b"\xff\xfe"), ("3.jpg", b"x")]
    tar(tmp_path / "0.tar", *members)
    found = read(tmp_path, "webdataset")
    assert ids(found) == ["json-broken", "text-encoding", "3"]
    assert (found[0].begin, found[0].end, found[0].raw) == (0, 2048, b'{"caption"')


def test_a_file_that_is_no_tar_is_one_fault(tmp_path):
    (tmp_path / "0.tar").write_bytes(b"this is no tar at all" * 100)
    assert [(fault.code, fault.begin, fault.end) for fault in read(tmp_path, "webdataset")] == [("tar-broken", 0, 2100)]
    (tmp_path / "0.tar").write_bytes(bytes(10240))
    assert read(tmp_path, "webdataset") == []


def test_texts_beyond_what_is_held_are_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr("tarsia.builders.reading.tarfile_._HELD", 5)
    tar(tmp_path / "0.tar", *((f"{number}.txt", b"four") for number in range(4)))
    assert [raw.record["txt"] for raw in read(tmp_path, "webdataset")] == ["four"] * 4


# --- tables ---------------------------------------------------------------------------------------------------------


def parquet(path, rows, schema=None, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), path, **more)
    return path


HUB_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def test_images_of_rows_are_taken_out_of_them(tmp_path):
    rows = [{"image": {"bytes": image(1), "path": "a.jpg"}, "text": "A dog.", "id": "7"}]
    parquet(tmp_path / "0.parquet", rows, pa.schema([("image", HUB_IMAGE), ("text", pa.string()), ("id", pa.string())]))
    (raw,) = read(tmp_path, "parquet")
    size = len(image(1))
    assert raw.record == {
        "image": {"medium": "image", "at": "@image", "bytes": size, "path": "a.jpg"},
        "text": "A dog.",
        "id": "7",
    }
    assert (raw.id, raw.begin, raw.end, raw.media) == ("7", 0, 1, {"image": image(1)})
    drafted = draft("parquet", raw.record, kind="caption")
    assert (drafted.images, said(drafted)[1]) == (("@image",), ("gpt", "A dog."))


def test_lists_of_images_keep_their_order(tmp_path):
    rows = [
        {
            "images": ["../../tests/img1.png", "../../tests/img2.png"],
            "text": "<__dj__image> A bed. <__dj__image> A bus.<|__dj__eoc|>",
            "image_bytes": [image(1, "PNG"), image(2)],
        }
    ]
    parquet(tmp_path / "0.parquet", rows)
    (raw,) = read(tmp_path, "parquet")
    drafted = draft("parquet", raw.record, kind="caption")
    assert drafted.images == ("@image_bytes.0", "@image_bytes.1")
    assert raw.media == {"image_bytes.0": image(1, "PNG"), "image_bytes.1": image(2)}
    assert said(drafted)[1] == ("gpt", "A bed.  A bus.")


@pytest.mark.parametrize("form", ["file", "stream", "feather"])
def test_arrow_is_read_as_file_and_as_stream(tmp_path, form):
    table = pa.Table.from_pylist([{"jpg": image(number), "caption": f"Number {number}."} for number in range(5)])
    path = tmp_path / ("0.feather" if form == "feather" else "0.arrow")
    with (pa.ipc.new_stream if form == "stream" else pa.ipc.new_file)(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    found = read(tmp_path, "parquet")
    assert [(raw.begin, raw.record["caption"], raw.media["jpg"]) for raw in found] == [
        (number, f"Number {number}.", image(number)) for number in range(5)
    ]


def rows_said(record, **more):
    return said(draft("parquet", record, **more))


def test_words_of_a_row_are_a_conversation_before_all_else():
    row = {"image": NOTE, "question": "Who?", "answer": "She.", "text": "A woman."}
    assert rows_said({**row, "conversations": HELLO}) == [("human", "<image>\nhello"), ("gpt", "hi")]
    assert rows_said({**row, "messages": json.dumps(HELLO)}) == [("human", "<image>\nhello"), ("gpt", "hi")]
    columns = {"from": ["human", "gpt"], "value": ["hello", "hi"]}
    assert rows_said({**row, "conversations": columns}) == [("human", "<image>\nhello"), ("gpt", "hi")]
    assert rows_said(row) == [("human", "<image>\nWho?"), ("gpt", "She.")]
    assert rows_said({**row, "answer": ["he", "she", "she"]})[1] == ("gpt", "she")
    assert rows_said({"instruction": "Sort.", "input": "b a", "output": "a b"}) == [
        ("human", "Sort.\nb a"),
        ("gpt", "a b"),
    ]


def test_of_several_captions_one_is_drawn_by_the_key():
    record = {"image": NOTE, "captions": [str(number) for number in range(5)]}
    drawn = {rows_said(record, identity=str(number))[1][1] for number in range(60)}
    assert drawn == {"0", "1", "2", "3", "4"}
    assert rows_said(record, identity="1") == rows_said(record, identity="1")


def test_sounds_and_clips_of_rows_are_known_by_their_first_bytes():
    assert medium_of(b"RIFF\0\0\0\0WAVE", "x") == medium_of(b"OggS", "") == medium_of(b"ID3\3", "") == "audio"
    assert medium_of(b"\0\0\0\x20ftypisom", "") == medium_of(b"\x1aE\xdf\xa3", "") == "video"
    assert medium_of(image(), "") == medium_of(image(0, "PNG"), "") == medium_of(b"RIFF\0\0\0\0WEBP", "") == "image"
    assert medium_of(b"unknown", "my_audio") == "audio"
    assert medium_of(b"unknown", "blob") is None
    speech = {"audio": {"medium": "audio", "at": "@audio"}, "sentence": "Hello.", "client_id": "one"}
    assert rows_said(speech, kind="asr") == [("human", "<audio>"), ("gpt", "Hello.")]
    assert draft("parquet", speech, kind="asr").speaker == "one"
    clip = {"video": {"medium": "video", "at": "@video"}, "caption": "A dog runs."}
    assert draft("parquet", clip).videos == ("@video",)


def test_cells_become_json_whatever_they_are():
    import datetime
    import decimal

    media = {}
    cells = {
        "when": datetime.date(2024, 5, 1),
        "price": decimal.Decimal("1.50"),
        "none": float("nan"),
        "text": "文字".encode(),
        "blob": b"\xff\x00\x01",
        "big": 1 << 70,
        "deep": [{"bytes": None, "path": "a/b.PNG"}, ("x", True)],
        "img": b"\xff\x00 not really",
    }
    assert take_media(cells, "row", media) == {
        "when": "2024-05-01",
        "price": "1.50",
        "none": None,
        "text": "文字",
        "blob": "/wAB",
        "big": str(1 << 70),
        "deep": [{"medium": "image", "at": "a/b.PNG"}, ["x", True]],
        "img": {"medium": "image", "at": "@row.img", "bytes": 13},
    }
    assert list(media) == ["row.img"]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"text": "A dog."}, "record-shape"),
        ({"image": NOTE}, "text-missing"),
        ({"image": NOTE, "text": ""}, "answer-empty"),
        ({"image": {"medium": None, "at": "@image"}, "text": "A dog."}, "media-unknown"),
        ({"image": NOTE, "conversations": "[{"}, "json-broken"),
    ],
)
def test_rows_that_say_nothing_are_refused(record, expected):
    assert code("parquet", record) == expected


def test_a_row_group_that_is_broken_is_one_fault_and_the_next_is_read(tmp_path):
    rows = [{"image": image(number), "text": f"Number {number}."} for number in range(6)]
    path = parquet(tmp_path / "0.parquet", rows, row_group_size=2, compression="zstd", use_dictionary=False)
    column = pq.read_metadata(path).row_group(1).column(1)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset : column.data_page_offset + column.total_compressed_size] = bytes(
        column.total_compressed_size
    )
    path.write_bytes(data)
    found = read(tmp_path, "parquet")
    assert [(type(raw).__name__, raw.begin, raw.end) for raw in found] == [
        ("Raw", 0, 1),
        ("Raw", 1, 2),
        ("Fault", 2, 4),
        ("Raw", 4, 5),
        ("Raw", 5, 6),
    ]
    assert found[2].code == "table-broken"


def test_a_table_that_is_none_is_one_fault(tmp_path):
    (tmp_path / "0.parquet").write_bytes(b"PAR1 and nothing more")
    (tmp_path / "1.arrow").write_bytes(b"")
    assert [(fault.code, fault.begin, fault.end) for fault in read(tmp_path, "parquet")] == [
        ("table-broken", 0, 21),
        ("table-broken", 0, 0),
    ]


# --- hub ------------------------------------------------------------------------------------------------------------


def hub(folder, file):
    pytest.importorskip("datasets")
    return list(find("hub").read(open_store(str(folder)), file))


def test_the_library_gives_bytes_and_decodes_nothing(tmp_path):
    rows = [
        {"image": {"bytes": image(1), "path": "a.jpg"}, "audio": {"bytes": b"OggS", "path": None}, "text": "A dog."}
    ]
    parts = {
        "features": {
            "image": {"_type": "Image"},
            "audio": {"_type": "Audio"},
            "text": {"dtype": "string", "_type": "Value"},
        }
    }
    schema = pa.schema(
        [("image", HUB_IMAGE), ("audio", HUB_IMAGE), ("text", pa.string())],
        {"huggingface": json.dumps({"info": parts})},
    )
    parquet(tmp_path / "data/train-0.parquet", rows, schema)
    (raw,) = hub(tmp_path, "data/train-0.parquet")
    assert raw.media == {"image": image(1), "audio": b"OggS"}
    assert (raw.begin, raw.end, raw.record["text"]) == (0, 1, "A dog.")


def test_a_file_says_what_to_load(tmp_path):
    for split, number in (("train", 1), ("test", 2)):
        parquet(tmp_path / f"set/data/{split}-0.parquet", [{"question": f"What is {number}?", "answer": "A number."}])
    (tmp_path / "all.hub.json").write_text('{"path": "set"}')
    (tmp_path / "test.hub.json").write_text('{"path": "set", "split": "test"}')
    found = hub(tmp_path, "all.hub.json")
    assert [(raw.record["question"], raw.begin) for raw in found] == [("What is 1?", 0), ("What is 2?", 1)]
    assert [raw.record["question"] for raw in hub(tmp_path, "test.hub.json")] == ["What is 2?"]
    assert said(draft("hub", found[0].record)) == [("human", "What is 1?"), ("gpt", "A number.")]


def test_folders_of_images_give_paths_below_the_root(tmp_path):
    lines = ""
    for number in range(2):
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / f"set/{number}.jpg").write_bytes(image(number))
        lines += json.dumps({"file_name": f"{number}.jpg", "text": f"Number {number}."}) + "\n"
    (tmp_path / "set/metadata.jsonl").write_text(lines)
    found = hub(tmp_path, "set/metadata.jsonl")
    assert [draft("hub", raw.record, kind="caption").images for raw in found] == [("set/0.jpg",), ("set/1.jpg",)]
    assert [said(draft("hub", raw.record, kind="caption"))[1][1] for raw in found] == ["Number 0.", "Number 1."]


def test_images_in_a_zip_are_given_as_bytes(tmp_path):
    (tmp_path / "set").mkdir()
    with zipfile.ZipFile(tmp_path / "set/images.zip", "w") as packed:
        packed.writestr("0.jpg", image(3))
        packed.writestr("metadata.jsonl", json.dumps({"file_name": "0.jpg", "text": "Number 0."}))
    (tmp_path / "set.hub.json").write_text('{"path": "set"}')
    (raw,) = hub(tmp_path, "set.hub.json")
    assert (raw.record["text"], raw.media) == ("Number 0.", {"image": image(3)})


def test_a_set_cannot_lead_to_files_outside_of_the_corpus(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "inside/set").mkdir(parents=True)
    (tmp_path / "inside/set.hub.json").write_text('{"path": "set"}')
    for path in (tmp_path / "secret.txt", "../../secret.txt"):
        (tmp_path / "inside/set/README.md").write_text(
            f'---\nconfigs:\n- config_name: default\n  data_files: "{path}"\n---\n'
        )
        with pytest.raises(Outside):
            hub(tmp_path / "inside", "set.hub.json")


def test_lines_and_tables_are_opened_by_their_ending(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"question": "Who?", "answer": "She."}\n')
    (tmp_path / "b.csv").write_text('question,answer\n"Who, then?",He.\n')
    (tmp_path / "c.tsv").write_text("question\tanswer\nWhere?\tHere.\n")
    found = [raw.record for file in ("a.jsonl", "b.csv", "c.tsv") for raw in hub(tmp_path, file)]
    assert found == [
        {"question": "Who?", "answer": "She."},
        {"question": "Who, then?", "answer": "He."},
        {"question": "Where?", "answer": "Here."},
    ]


def test_what_the_library_shall_not_load_is_the_catalogs_mistake(tmp_path):
    (tmp_path / "inside").mkdir()
    store = open_store(str(tmp_path / "inside"))
    wrong = {
        "code.hub.json": '{"path": "json", "data_files": "/etc/passwd"}',
        "up.hub.json": '{"path": "../.."}',
        "url.hub.json": '{"path": "https://example.org/x"}',
        "broken.hub.json": "{",
        "a.bin": "",
    }
    for name, said_ in wrong.items():
        (tmp_path / "inside" / name).write_text(said_)
        with pytest.raises((BadCatalog, Outside)):
            list(find("hub").read(store, name))


def test_media_outside_of_the_corpus_stay_there(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "secret.jpg").write_bytes(image())
    paths = [str(tmp_path / "secret.jpg"), "file:///etc/passwd", "https://example.org/a.jpg"]
    rows = [{"image": {"bytes": None, "path": path}, "text": "A dog."} for path in paths]
    parquet(tmp_path / "inside/0.parquet", rows, pa.schema([("image", HUB_IMAGE), ("text", pa.string())]))
    found = hub(tmp_path / "inside", "0.parquet")
    assert [raw.media for raw in found] == [{}, {}, {}]
    drafted = draft("hub", found[0].record, kind="caption")
    with pytest.raises(Outside):
        open_store(str(tmp_path / "inside")).read(drafted.images[0])


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "a.jsonl").write_text("{}\n")
    with pytest.raises(MissingExtra, match="tarsia\\[hub\\]"):
        list(find("hub").read(open_store(str(tmp_path)), "a.jsonl"))


# --- pairs and clips ------------------------------------------------------------------------------------------------


def test_a_text_belongs_to_the_image_of_its_name(tmp_path):
    (tmp_path / "part_0").mkdir()
    (tmp_path / "part_0/1.jpg").write_bytes(image())
    (tmp_path / "part_0/2.png").write_bytes(image())
    (tmp_path / "part_0/4.txt").write_bytes(b"\xff\xfe\xfd")
    texts = {"part_0/1.txt": "\ufeff一只狗\n", "part_0/2.txt": "两只", "part_0/3.txt": "三只"}
    found = read(tmp_path, "image_text", texts)
    assert [raw.record for raw in found[:3]] == [
        {"image": "part_0/1.jpg", "caption": "一只狗\n"},
        {"image": "part_0/2.png", "caption": "两只"},
        {"image": "part_0/3.jpg", "caption": "三只"},
    ]
    assert [(raw.begin, raw.end) for raw in found] == [(0, 13), (0, 6), (0, 6), (0, 3)]
    assert (found[3].code, found[0].id) == ("text-encoding", "1")
    drafted = draft("image_text", found[0].record, kind="caption", language="zh")
    assert said(drafted)[0][1].removeprefix("<image>\n") in TEMPLATES["describe-image", "zh"]
    assert (said(drafted)[1], drafted.images) == (("gpt", "一只狗"), ("part_0/1.jpg",))
    assert code("image_text", {"image": "a.jpg", "caption": " "}) == "answer-empty"


def test_rows_of_webvid_name_their_clip_by_page_and_number(tmp_path):
    table = 'videoid,name,page_idx,page_dir\n42,"Flag waving in the wind, morocco",873,000851_000900\n43,,1,\n'
    found = read(tmp_path, "video", {"webvid.csv": table})
    assert ids(found) == ["42", "43"]
    drafted = draft("video", found[0].record, kind="caption")
    assert drafted.videos == ("000851_000900/42.mp4",)
    assert said(drafted)[1] == ("gpt", "Flag waving in the wind, morocco")
    assert code("video", found[1].record) == "record-shape"
    with pytest.raises(Refused):
        draft("video", {"videoid": "1", "page_dir": "a", "name": ""})
    data = (tmp_path / "webvid.csv").read_bytes()
    assert data[found[0].begin : found[0].end] == b'42,"Flag waving in the wind, morocco",873,000851_000900'


def test_rows_that_name_a_path_are_understood(tmp_path):
    (raw,) = read(tmp_path, "video", {"a.csv": "path,text\nclips/1.mp4,A dog runs.\n"})
    drafted = draft("video", raw.record, kind="caption")
    assert (drafted.videos, said(drafted)[1]) == (("clips/1.mp4",), ("gpt", "A dog runs."))

"""`ingest --retry`: what was refused and would not be any more comes in, and the lake is as a fresh one would be."""

import io
import json
import shutil
import sys
import tarfile

import pytest
from pictures import encoded, picture
from test_duplicates import Desk, ask, see

from tarsia.builders import images
from tarsia.builders.corpora import find
from tarsia.builders.lake import Lake


@pytest.fixture
def album(tmp_path):
    """Sixteen pictures of which one is cut off, one is missing and one is too long; and one broken line."""
    desk = Desk(tmp_path)
    for number in range(16):
        desk.draw(f"{number}.jpg", number)
    (tmp_path / "15.jpg").write_bytes(encoded(picture(15, (640, 40))))
    shutil.copy(tmp_path / "3.jpg", tmp_path / "whole.jpg")
    (tmp_path / "3.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-30])
    (tmp_path / "7.jpg").rename(tmp_path / "seven.jpg")
    desk.corpus("album", [], files="album.jsonl")
    lines = [*(json.dumps(see(str(number), f"{number}.jpg")) for number in range(16)), '{"id": broken}']
    (tmp_path / "album.jsonl").write_text("\n".join(lines))
    desk.corpus("talk", [ask("1", "Why?"), ask("2", "How?", "")])
    desk.ingest()
    return desk


def refusals(desk, corpus="album"):
    return {own: code for own, (code, _) in desk.refused(corpus).items() if own.isdigit()}


def test_nothing_is_done_where_nothing_became_good(album):
    assert refusals(album) == {"3": "image-truncated", "7": "media-missing", "15": "image-ratio"}
    reports = album.ingest(retry=True)
    assert all(one.unchanged and not one.mended for one in reports.values())
    assert album.snapshot().number == 1
    assert list(Lake(str(album.folder / "lake")).store.list("work")) == []


def test_mended_media_come_in_and_the_rest_stays(album):
    before = {shard.leaf: shard for shard in album.snapshot().corpus("album").shards}
    shutil.copy(album.folder / "whole.jpg", album.folder / "3.jpg")
    (album.folder / "seven.jpg").rename(album.folder / "7.jpg")
    assert album.ingest()["album"].unchanged
    reports = album.ingest(retry=True)
    assert (reports["album"].mended, reports["album"].unchanged, reports["talk"].unchanged) == (2, False, True)
    after = {shard.leaf: shard for shard in album.snapshot().corpus("album").shards}
    changed = [leaf for leaf in after if after[leaf] != before.get(leaf)]
    assert reports["album"].written == len(changed) <= 2
    assert refusals(album) == {"15": "image-ratio"}
    assert album.is_as_fresh()


def test_a_raised_gate_lets_in_what_stood_before_it(album, monkeypatch):
    monkeypatch.setattr(images, "RATIO", 20)
    reports = album.ingest(retry=True)
    assert (reports["album"].mended, reports["album"].written) == (1, 1)
    assert refusals(album) == {"3": "image-truncated", "7": "media-missing"}
    assert album.is_as_fresh()


def test_a_retry_that_was_cut_off_is_done_again(album, monkeypatch):
    lake = Lake(str(album.folder / "lake"))
    lake.store.replace("work/album/retry/00000.json", b"[]")  # left by a run before the mend
    shutil.copy(album.folder / "whole.jpg", album.folder / "3.jpg")
    assert album.ingest(retry=True)["album"].mended == 1


READER = '''"""Numbers that somebody else reads."""
from tarsia.builders.corpora import Fault, Raw
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import Draft, Turn

RECORD, FILES = "one line", ("*.txt",)
SMALL, PLAIN = 5, True

def read(source, file):
    at = 0
    for line in source.read(file).splitlines(keepends=True):
        if PLAIN and b"x" in line:
            yield Fault("record-shape", "an x", line, at, at + len(line))
        else:
            yield Raw(line.decode().strip(" x\\n"), {"is": line.decode().strip(" x\\n")}, at, at + len(line))
        at += len(line)

def draft(record, at):
    if int(record["is"]) > SMALL:
        raise Refused("record-shape", "too large")
    return Draft(turns=(Turn(speaker="human", text=f"What is {record['is']}?"), Turn(speaker="gpt", text="It.")))
'''


@pytest.fixture
def numbers(tmp_path, monkeypatch):
    """A corpus of a reader that refuses more than it should, and that reader."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/digits.py").write_text(READER)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("theirs", "theirs.digits"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    find.cache_clear()
    desk = Desk(tmp_path)
    desk.corpus("numbers", [], "theirs.digits", files="n.txt")
    (tmp_path / "n.txt").write_text("".join(f"{number}{' x' * (number == 2)}\n" for number in range(9)))
    assert desk.ingest()["numbers"].quarantined == {"record-shape": 4}
    return desk, sys.modules["theirs.digits"]


def test_a_fixed_reader_is_asked_again(numbers, monkeypatch):
    desk, reader = numbers
    monkeypatch.setattr(reader, "SMALL", 7)
    report = desk.ingest(retry=True)["numbers"]
    assert (report.mended, report.samples, report.quarantined) == (2, 7, {"record-shape": 2})
    assert desk.is_as_fresh()


def test_what_was_no_record_and_is_one_now_comes_in_under_its_own_name(numbers, monkeypatch):
    desk, reader = numbers
    monkeypatch.setattr(reader, "PLAIN", False)
    report = desk.ingest(retry=True)["numbers"]
    assert (report.mended, report.samples) == (1, 6)
    assert desk.ids("numbers") == ["0", "1", "2", "3", "4", "5"]
    assert desk.is_as_fresh()


def test_media_that_a_file_carries_are_read_from_it(tmp_path, monkeypatch):
    desk = Desk(tmp_path)
    with tarfile.open(tmp_path / "p.tar", "w") as tar:
        for number in range(6):
            data = encoded(picture(number, (640, 40) if number == 2 else (64, 48)))
            for name, content in ((f"{number}.jpg", data), (f"{number}.txt", b"Blots.")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    desk.corpus("tar", [], "webdataset", "caption", files="p.tar")
    assert desk.ingest()["tar"].quarantined == {"image-ratio": 1}
    assert desk.ingest(retry=True)["tar"].unchanged
    monkeypatch.setattr(images, "RATIO", 20)
    assert desk.ingest(retry=True)["tar"].mended == 1
    assert desk.is_as_fresh()


def test_what_became_good_is_compared_too(album):
    pytest.importorskip("imagehash", reason="no perceptual hashes: pip install 'tarsia[near]'")
    album.corpora["album"]["dedup"] = "near"
    album.corpus("later", [see("a", "whole.jpg"), see("b", "0.jpg", "And now?")], dedup="exact")
    album.ingest()
    assert album.ids("later") == ["a", "b"]
    shutil.copy(album.folder / "whole.jpg", album.folder / "3.jpg")
    reports = album.ingest(retry=True)
    assert (reports["album"].mended, reports["later"].quarantined) == (1, {"duplicate": 1})
    assert album.is_as_fresh()


def test_duplicates_are_not_tried_again(album):
    album.corpus("later", [ask("x", "Why?")], dedup="exact")
    assert album.ingest()["later"].quarantined == {"duplicate": 1}
    report = album.ingest(retry=True)["later"]
    assert (report.unchanged, report.mended) == (True, 0)


def test_what_is_gone_from_the_raw_data_is_not_said_to_have_been_mended(album):
    lines = (album.folder / "album.jsonl").read_text().splitlines()
    (album.folder / "album.jsonl").write_text("\n".join(lines[:-1]).replace('"15.jpg"', '"0.jpg"'))
    report = album.ingest()["album"]
    assert (report.mended, report.quarantined) == (1, {"image-truncated": 1, "media-missing": 1})

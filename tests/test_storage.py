"""One suite for folders and buckets: whoever uses a store must not see which it is."""

import io
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tarsia.builders import storage
from tarsia.builders.storage import match, open_store
from tarsia.schemas.errors import Exists, NotThere, Outside, StorageFault, UserError


@pytest.fixture(params=["folder", "bucket"])
def url(request, tmp_path):
    return str(tmp_path / "store") if request.param == "folder" else request.getfixturevalue("s3")


@pytest.fixture
def store(url):
    return open_store(url)


def paths(store, prefix=""):
    return [entry.path for entry in store.list(prefix)]


def test_what_is_written_is_read(store):
    store.replace("a/b.txt", b"one")
    assert store.read("a/b.txt") == b"one"
    store.replace("a/b.txt", b"two")
    assert store.read("a/b.txt") == b"two"


def test_only_the_first_creates(store):
    store.create("snapshots/1.json", b"mine")
    with pytest.raises(Exists):
        store.create("snapshots/1.json", b"theirs")
    assert store.read("snapshots/1.json") == b"mine"


def test_of_many_at_once_one_creates(store):
    won = []

    def race(number):
        try:
            store.create("n", str(number).encode())
            won.append(number)
        except Exists:
            pass

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.read("n") == str(won[0]).encode()


def test_ranges_are_exact_and_never_short(store):
    store.replace("x", bytes(range(100)))
    assert store.read_range("x", 10, 5) == bytes([10, 11, 12, 13, 14])
    assert store.read_range("x", 99, 1) == b"c"
    with pytest.raises(StorageFault):
        store.read_range("x", 99, 2)


def test_a_stored_file_can_be_read_in_part(store):
    data = io.BytesIO()
    pq.write_table(pa.table({"n": list(range(5000))}), data)
    store.replace("t.parquet", data.getvalue())
    with store.open("t.parquet") as file:
        assert pq.read_table(file)["n"].to_pylist() == list(range(5000))
    with store.open("t.parquet") as file:
        assert file.read(4) == b"PAR1"
        assert file.seek(-4, 2) == len(data.getvalue()) - 4
        assert file.read() == b"PAR1"


def test_what_is_not_there_is_said(store):
    for ask in (store.read, store.open, lambda path: store.read_range(path, 0, 1)):
        with pytest.raises(NotThere, match="no 'nowhere/at all'"):
            ask("nowhere/at all")
    assert store.entry("nowhere") is None
    assert paths(store) == []
    assert paths(store, "nowhere") == []
    store.delete("nowhere")


def test_a_folder_is_not_an_object(store):
    store.replace("a/b.txt", b"")
    assert store.entry("a") is None
    with pytest.raises(NotThere):
        store.read("a")


def test_an_entry_knows_size_and_version(store):
    store.replace("a", b"12345")
    before = store.entry("a")
    assert (before.path, before.size) == ("a", 5)
    store.replace("a", b"54321")
    assert store.entry("a").version != before.version


def test_listings_are_sorted_and_go_below_one_folder(store):
    for path in ("b/2", "b/10", "b/c/1", "bc/1", "a", "b.txt", "b/é", "b/一"):
        store.replace(path, b".")
    assert paths(store) == ["a", "b.txt", "b/10", "b/2", "b/c/1", "b/é", "b/一", "bc/1"]
    assert paths(store, "b") == ["b/10", "b/2", "b/c/1", "b/é", "b/一"]
    assert [entry.size for entry in store.list("b")] == [1] * 5


def test_deleted_is_gone(store):
    store.replace("a/b", b"")
    store.delete("a/b")
    assert paths(store) == []


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("x.json", ["x.json"]),
        ("*.json", ["x.json", "y.json"]),
        ("a/*.json", ["a/1.json"]),
        ("*/*.json", ["a/1.json"]),
        ("**/*.json", ["a/1.json", "a/b/2.json", "x.json", "y.json"]),
        ("a/**", ["a/1.json", "a/b/2.json", "a/b/3.txt"]),
        ("a/**/*.txt", ["a/b/3.txt"]),
        ("[xz].json", ["x.json"]),
        ("?.json", ["x.json", "y.json"]),
        ("./x.json", ["x.json"]),
        ("a", []),
        ("X.json", []),
        ("no/*.json", []),
    ],
)
def test_globs_cross_folders_only_with_two_stars(store, pattern, found):
    for path in ("x.json", "y.json", "a/1.json", "a/b/2.json", "a/b/3.txt"):
        store.replace(path, b"")
    assert [entry.path for entry in match(store, pattern)] == found


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "\\x", "x\0y", "a/\0"])
def test_no_path_leaves_the_store(store, path):
    store.replace("a/here", b"")
    for ask in (store.read, store.open, store.entry, store.delete, lambda path: store.replace(path, b"")):
        with pytest.raises(Outside):
            ask(path)


def test_a_path_is_what_it_means(store):
    store.replace("a/b", b"1")
    assert store.read("a//b") == store.read("./a/b") == store.read("a/./b") == b"1"


@pytest.mark.parametrize("name", ["a b.jpg", "图片 1.jpg", "100%.jpg", "a%20b.jpg", "a#b?c=d&e+f.jpg", "[x]{y}~'.jpg"])
def test_names_may_hold_anything_people_type(store, name):
    store.replace(f"media/{name}", b"1")
    assert paths(store) == [f"media/{name}"]
    assert store.read(f"media/{name}") == b"1"


def test_spooled_bytes_are_seen_when_published_and_not_before(store):
    with store.spool() as file:
        file.write(b"x" * 7_000_000)
        assert paths(store) == []
        store.publish(file, "a/b.tar")
    assert store.entry("a/b.tar").size == 7_000_000
    assert store.read("a/b.tar") == b"x" * 7_000_000


def test_a_spool_that_ends_in_an_error_leaves_nothing(store):
    def give_up():
        with store.spool() as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        give_up()
    assert paths(store) == []


def test_publishing_twice_is_publishing_once(store):
    for _ in range(2):
        with store.spool() as file:
            file.write(b"same")
            store.publish(file, "a")
    assert store.read("a") == b"same"


def test_a_store_travels_by_its_address(store, url):
    store.replace("a", b"1")
    assert pickle.loads(pickle.dumps(store)).read("a") == b"1"
    assert open_store(store.url).read("a") == b"1"


# --- folders alone --------------------------------------------------------------------------------------------------


def test_links_that_lead_out_are_not_followed(tmp_path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("s")
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").symlink_to("../secret/key")
    (root / "folder").symlink_to("../secret")
    (root / "loop").symlink_to("loop")
    store = open_store(str(root))
    for path in ("file", "folder/key"):
        with pytest.raises(Outside, match=f"'{path}' leaves {root}"):
            store.read(path)
    with pytest.raises(NotThere):
        store.read("loop")


def test_links_inside_are_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x.json").write_text("{}")
    (tmp_path / "link").symlink_to("real")
    store = open_store(str(tmp_path))
    assert store.read("link/x.json") == b"{}"
    assert [entry.path for entry in match(store, "link/*.json")] == ["link/x.json"]


def test_a_name_that_no_disk_can_hold_is_not_there(tmp_path):
    store = open_store(str(tmp_path))
    assert store.entry("n" * 300) is None
    with pytest.raises(NotThere):
        store.read("n" * 300)


def test_a_root_that_is_a_file_is_said(tmp_path):
    (tmp_path / "lake").write_text("")
    with pytest.raises(NotThere, match=f"{tmp_path}/lake is a file; a folder was due"):
        open_store(str(tmp_path / "lake"))


def test_a_relative_store_stays_where_it_was_opened(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for folder in ("a", "b"):
        monkeypatch.chdir(tmp_path / folder)
        open_store("lake").replace("x", folder.encode())
    assert (tmp_path / "a" / "lake" / "x").read_bytes() == b"a"
    assert (tmp_path / "b" / "lake" / "x").read_bytes() == b"b"


KILLED = """
import sys, time
from tarsia.builders.storage import open_store
with open_store(sys.argv[1]).spool() as file:
    file.write(b"x" * 1_000_000)
    print(file.name, flush=True)
    time.sleep(60)
"""


def test_the_spool_of_a_killed_process_is_swept_and_that_of_a_living_one_is_not(tmp_path):
    words = [sys.executable, "-c", KILLED, str(tmp_path)]
    with (
        subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as dead,
        subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as living,
    ):
        names = {process: process.stdout.readline().strip() for process in (dead, living)}
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        with open_store(str(tmp_path)).spool():
            assert not Path(names[dead]).exists()
            assert Path(names[living]).exists()
        living.send_signal(signal.SIGINT)
    assert list((tmp_path / ".spool").iterdir()) == []


# --- buckets alone --------------------------------------------------------------------------------------------------


def test_wrong_credentials_are_one_clear_line(s3, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    store = open_store(s3 + "/wrong")
    for ask in (store.read, store.entry, lambda path: list(store.list(path)), lambda path: store.create(path, b"")):
        with pytest.raises(StorageFault) as caught:
            ask("x")
        said = str(caught.value)
        assert "403 Forbidden" in said
        assert said.endswith("(are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY right?)")
        assert "\n" not in said


def test_a_machine_without_credentials_is_told_which_it_lacks(s3, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    refusing = os.environ["AWS_ENDPOINT_URL"]  # as the address does that gives a cloud's machines theirs
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"{refusing}/169.254.169.254")
    with pytest.raises(StorageFault, match="no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        open_store(s3 + "/nobody").read("x")


def test_an_endpoint_that_does_not_answer_is_a_fault(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr(storage, "_PATIENCE", timedelta(seconds=5))  # the library by itself gives up after three
    began = time.monotonic()
    with pytest.raises(StorageFault, match="cannot read 'x' in s3://nobody/nowhere"):
        open_store("s3://nobody/nowhere").read("x")
    assert 4 < time.monotonic() - began < 30


@pytest.mark.parametrize("address", ["ftp://host/lake", "s3://", "http://host/lake", "https://host/lake"])
def test_an_address_that_is_no_bucket_is_a_mistake_that_says_what_would_be_one(address):
    with pytest.raises(UserError, match="give a folder or s3://bucket/prefix"):
        open_store(address)


def test_an_endpoint_without_its_protocol_is_a_mistake(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1:9000")
    with pytest.raises(UserError, match="begins with http:// or https://"):
        open_store("s3://bucket/asked-nowhere-else")


def test_many_objects_are_looked_at_together(store):
    for number in range(12):
        store.replace(f"a/{number:02d}.jpg", bytes(number))
    store.replace("a/b/1.jpg", b".")
    store.replace("c.jpg", b"..")
    asked = [f"a/{number:02d}.jpg" for number in range(0, 20, 2)] + [
        "a/b/1.jpg",
        "c.jpg",
        "no/1",
        "./c.jpg",
        "../x",
        "a",
    ]
    found = store.entries(asked)
    assert found == {path: store.entry(path) for path in asked if path != "../x"}
    assert {path for path, entry in found.items() if entry is None} == {
        *(f"a/{n}.jpg" for n in (12, 14, 16, 18)),
        "no/1",
        "a",
    }


def test_a_bucket_lists_a_folder_and_does_not_ask_for_each_object(s3, monkeypatch):
    store = open_store(s3)
    for number in range(40):
        store.replace(f"media/{number:02d}.jpg", b".")
    asked = []
    monkeypatch.setattr(store, "entry", asked.append)
    found = store.entries([f"media/{number:02d}.jpg" for number in range(30)])
    assert asked == []
    assert [entry.size for entry in found.values()] == [1] * 30
    store.entries(["media/00.jpg", "media/01.jpg"])  # a page would cost more
    assert asked == ["media/00.jpg", "media/01.jpg"]


@pytest.mark.parametrize("name", ["pipe", "link"])
def test_a_pipe_is_no_object_and_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    store = open_store(str(tmp_path))
    assert store.entry(name) is None
    with pytest.raises(NotThere):
        store.read(name)


def test_a_link_that_leads_nowhere_or_round_is_listed_and_told_when_it_is_read(tmp_path):
    (tmp_path / "gone.json").symlink_to("nothing")
    (tmp_path / "round.json").symlink_to("round.json")
    store = open_store(str(tmp_path))
    assert [entry.path for entry in store.list()] == ["gone.json", "round.json"]
    for name in ("gone.json", "round.json"):
        with pytest.raises(NotThere, match=name):
            store.read(name)


@pytest.mark.parametrize("size", [100, 1 << 20])  # written when the file is closed, and before
def test_a_disk_that_is_full_is_a_fault_of_the_store_and_leaves_nothing(store, tmp_path, monkeypatch, size):
    monkeypatch.setattr(storage.tempfile, "tempdir", str(tmp_path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    try:
        with pytest.raises(StorageFault, match=r"cannot write in .*: File too large"), store.spool() as file:
            file.write(bytes(size))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]

"""The promises of ingest: same bytes whoever works, nothing lost, nothing done twice, nothing else moves."""

import io
import json
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import cast

import av
import numpy as np
import pyarrow as pa
import pytest
import soundfile
from PIL import Image

from tarsia.builders.documents import read_catalog
from tarsia.builders.lake import Lake
from tarsia.builders.records import SORTED, merged, to_arrow
from tarsia.builders.shards import members
from tarsia.builders.storage import Store, open_store
from tarsia.builders.tables import get_table, get_tables
from tarsia.builders.tombstones import all_of
from tarsia.pipelines.fold import fold
from tarsia.pipelines.ingest import ingest
from tarsia.pipelines.pool import open_pool
from tarsia.schemas.identity import digest, key_of
from tarsia.schemas.shard import INDEX, QUARANTINE, Stored

TARSIA = Path(sys.executable).parent / "tarsia"


def jpeg(number, size=(24, 16)):
    data = io.BytesIO()
    Image.new("RGB", size, (number * 37 % 256, number * 101 % 256, number % 256)).save(data, "JPEG")
    return data.getvalue()


def wav(seconds, rate=16_000, loud=0.3):
    data = io.BytesIO()
    wave = loud * np.sin(np.arange(int(seconds * rate)) * 0.05)
    soundfile.write(data, wave, rate, format="WAV", subtype="PCM_16")
    return data.getvalue()


def mp4(frames=12, size=(64, 48)):
    data = io.BytesIO()
    with av.open(data, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(frames):
            picture = np.full((size[1], size[0], 3), number * 20 % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    return data.getvalue()


def asked(question, answer, **more):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {**more, "conversations": turns}


def sum_of(number):
    return {"id": str(number), "instruction": f"What is {number} and {number}?", "output": f"It is {2 * number}."}


def write_lines(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def run(catalog, lake, workers=1, **options):
    with open_pool(workers, patience=0) as pool:
        return ingest(read_catalog(catalog), Lake(str(lake)), pool, quiet=True, **options)


def objects(lake):
    """Everything in a lake but what is in flight: path and bytes."""
    store = Lake(str(lake)).store
    return {entry.path: store.read(entry.path) for entry in store.list() if not entry.path.startswith("work/")}


def live(lake):
    """What the newest snapshot says, whatever its number."""
    return Lake(str(lake)).snapshot().model_copy(update={"number": 0})


def shards_of(lake, corpus):
    return [stored.path for shard in Lake(str(lake)).snapshot().corpus(corpus).shards for stored in shard.objects]


def quarantine_of(lake, corpus):
    opened = Lake(str(lake))
    state = opened.snapshot().corpus(corpus)
    return get_table(opened.store, state.quarantine).cast(QUARANTINE).to_pylist() if state.quarantine else []


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Four raw corpora: images (with two bad records), text in two files, speech, video."""
    folder = tmp_path_factory.mktemp("world")
    pictures = []
    for number in range(40):
        path = folder / "pictures" / "images" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))
        pictures.append(asked("What is it?", f"Picture {number}.", id=f"p{number}", image=f"images/{number}.jpg"))
    pictures.append(asked("Where is it?", "Lost.", id="lost", image="images/no.jpg"))
    pictures.append(asked("Is it?", "", id="mute", image="images/1.jpg"))
    (folder / "pictures" / "qa.json").write_text(json.dumps(pictures))
    write_lines(folder / "talk" / "a.jsonl", [sum_of(number) for number in range(50)])
    write_lines(folder / "talk" / "b.jsonl", [sum_of(number) for number in range(50, 60)])
    speech = folder / "speech" / "1" / "2"
    speech.mkdir(parents=True)
    for number in range(6):
        (speech / f"1-2-{number:04d}.wav").write_bytes(wav(0.6 + number / 10, rate=8_000 + 4_000 * number))
    (speech / "1-2.trans.txt").write_text("".join(f"1-2-{number:04d} TONE NUMBER {number}\n" for number in range(6)))
    (folder / "clips").mkdir()
    (folder / "clips" / "v.mp4").write_bytes(mp4())
    write_lines(folder / "clips" / "c.jsonl", [{"id": "v", "video": "v.mp4", "caption": "It gets lighter."}])
    (folder / "catalog.yaml").write_text(
        "corpora:\n"
        "  pictures: {format: llava, kind: qa, language: en, licence: CC0, root: pictures, files: qa.json, cap: 4}\n"
        "  talk: {format: alpaca, kind: qa, language: en, licence: CC0, root: talk, files: '*.jsonl', cap: 7}\n"
        "  speech: {format: librispeech, kind: asr, language: en, licence: CC0, root: speech, cap: 4}\n"
        "  clips: {format: video, kind: caption, language: en, licence: CC0, root: clips, files: c.jsonl}\n"
    )
    run(folder / "catalog.yaml", folder / "lake")
    return folder


# --- the same bytes -------------------------------------------------------------------------------------------------


def test_every_record_is_a_sample_or_in_quarantine(world):
    snapshot = Lake(str(world / "lake")).snapshot()
    counts = {state.corpus.name: (state.records, state.samples, state.quarantined) for state in snapshot.corpora}
    assert counts == {
        "clips": (1, 1, {}),
        "pictures": (42, 40, {"answer-empty": 1, "media-missing": 1}),
        "speech": (6, 6, {}),
        "talk": (60, 60, {}),
    }


def test_two_processes_write_the_same_bytes(world, tmp_path):
    run(world / "catalog.yaml", tmp_path / "lake", workers=2)
    assert objects(tmp_path / "lake") == objects(world / "lake")


def test_a_bucket_holds_the_same_objects(world, s3):
    run(world / "catalog.yaml", s3)
    assert objects(s3) == objects(world / "lake")


def test_a_server_that_restarts_in_the_middle_delays_an_ingest_and_changes_nothing(tmp_path, s3_server, s3):
    source = Lake(f"{s3}/raw").store
    records = [asked("What is it?", f"Picture {n}.", id=f"p{n}", image=f"images/{n}.jpg") for n in range(60)]
    for number in range(60):
        source.replace(f"images/{number}.jpg", jpeg(number))
    source.replace("qa.json", json.dumps(records).encode())
    page = "corpora: {p: {format: llava, kind: qa, language: en, licence: CC0, root: ROOT, files: qa.json, cap: 2}}"
    (tmp_path / "catalog.yaml").write_text(page.replace("ROOT", source.url))
    lake = Lake(f"{s3}/lake").store
    words = [TARSIA, "ingest", tmp_path / "catalog.yaml", lake.url, "--workers", "1", "--quiet"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as job:
        while len(list(lake.list("commits"))) < 5:
            assert job.poll() is None, job.communicate()
        s3_server.restart()
        assert job.poll() is None, "it was over before the server died"
        _, said = job.communicate()
    if job.returncode:  # a body that broke off is a fault, and the same command goes on
        assert (job.returncode, said[:15]) == (3, "tarsia: cannot "), said
        assert "Traceback" not in said
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    run(tmp_path / "catalog.yaml", tmp_path / "undisturbed")
    assert objects(lake.url) == objects(tmp_path / "undisturbed")


def test_samples_lie_in_draw_order_and_shards_in_the_order_of_leaves(world):
    lake = Lake(str(world / "lake"))
    for state in lake.snapshot().corpora:
        names = [shard.leaf for shard in state.shards]
        assert names == sorted(names, key=lambda name: name[1:].ljust(64, "0"))
        rows = get_tables(lake.store, (shard.index for shard in state.shards), INDEX, ("key", "draw")).to_pylist()
        assert [row["key"] for row in rows] == sorted(row["key"] for row in rows)
        assert [row["draw"] for row in rows] == [int(row["key"][:16], 16) for row in rows]


def test_the_index_says_where_each_sample_lies(world):
    lake = Lake(str(world / "lake"))
    state = lake.snapshot().corpus("pictures")
    found = {}
    for shard in state.shards:
        for row in get_table(lake.store, shard.index).to_pylist():
            data = lake.store.read_range(shard.tar.path, row["offset"], row["length"])
            found[row["id"]] = members(data, row["key"])
    assert set(found) == {f"p{number}" for number in range(40)}
    assert all(found[f"p{number}"]["0.jpg"] == jpeg(number) for number in range(40))
    sample = json.loads(found["p7"]["json"])
    assert sample["key"] == key_of("pictures", "p7")
    assert sample["conversations"][1] == {"from": "gpt", "value": "Picture 7."}
    assert sample["images"] == [{"member": "0.jpg", "width": 24, "height": 16, "digest": digest(jpeg(7))[:32]}]


# --- killed ---------------------------------------------------------------------------------------------------------

WORKERS = """
import sys
from tarsia.builders.documents import read_catalog
from tarsia.builders.lake import Lake
from tarsia.pipelines.fold import fold
from tarsia.pipelines.ingest import ingest
from tarsia.pipelines.pool import open_pool
if __name__ == "__main__":
    with open_pool(int(sys.argv[3]), patience=0) as pool:
        ingest(read_catalog(sys.argv[1]), Lake(sys.argv[2]), pool, quiet=True)
"""


def kill_when(process, ready):
    until = time.monotonic() + 60
    while not ready():
        assert process.poll() is None, "it was done before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.001)
    process.kill()
    process.wait()


def stands(lake):
    """What has been recorded so far, and the files of recorded shards: a file written again is another inode."""
    records = set(lake.glob("commits/corpora/*/*.json"))
    shards = [json.loads(path.read_text())["shard"]["objects"] for path in records]
    files = records | {lake / stored["path"] for objects_ in shards for stored in objects_}
    return len(records), {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


@pytest.mark.parametrize("commits", [0, 1, 12])
def test_a_killed_ingest_goes_on_where_it_stopped(world, tmp_path, commits):
    lake = tmp_path / "lake"
    words = [TARSIA, "ingest", world / "catalog.yaml", lake, "--workers", "1", "--quiet"]
    started = lake / "work" if commits == 0 else lake / "commits"
    with subprocess.Popen(words) as process:
        kill_when(process, lambda: started.exists() and len(list(lake.glob("commits/corpora/*/*.json"))) >= commits)
    assert not list(lake.glob("snapshots/*"))
    recorded, before = stands(lake)
    assert commits <= recorded < 30
    reports = run(world / "catalog.yaml", lake)
    after = stands(lake)[1]
    assert {path: after[path] for path in before} == before
    assert sum(report.written for report in reports) == sum(report.shards for report in reports) - recorded
    assert objects(lake) == objects(world / "lake")
    assert not [path for path in (lake / "work").rglob("*") if path.is_file()]


def test_an_ingest_whose_twin_was_faster_finds_everything_done(tmp_path, monkeypatch):
    write_lines(tmp_path / "sums/a.jsonl", [sum_of(number) for number in range(9)])
    entry = {"format": "alpaca", "kind": "qa", "language": "en", "licence": "ours", "root": "sums"}
    (tmp_path / "c.yaml").write_text(json.dumps({"corpora": {"sums": entry}}))
    faster = []

    def overtaken(*given, **more):
        if not faster:
            faster.append(True)
            run(tmp_path / "c.yaml", tmp_path / "lake")  # publishes, and clears what both have under work/
        return fold(*given, **more)

    monkeypatch.setattr("tarsia.pipelines.ingest.fold", overtaken)
    (report,) = run(tmp_path / "c.yaml", tmp_path / "lake")
    assert (report.samples, report.unchanged) == (9, True)
    assert len(list((tmp_path / "lake/snapshots").iterdir())) == 1


def test_workers_end_with_a_parent_that_is_killed_and_what_they_did_counts(world, tmp_path):
    lake = tmp_path / "lake"
    (tmp_path / "go.py").write_text(WORKERS)
    words = [sys.executable, "go.py", world / "catalog.yaml", lake, "2"]
    with subprocess.Popen(words, cwd=tmp_path) as process:
        kill_when(process, lambda: len(list(lake.glob("commits/corpora/*/*.json"))) >= 2)
    until = time.monotonic() + 20
    while running(tmp_path):
        assert time.monotonic() < until, "orphans"
        time.sleep(0.05)
    recorded, before = stands(lake)
    assert recorded >= 2
    run(world / "catalog.yaml", lake)
    after = stands(lake)[1]
    assert {path: after[path] for path in before} == before
    assert objects(lake) == objects(world / "lake")


def running(folder):
    """Processes whose working folder is this one."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder:
                found.append(process.name)
        except OSError:
            continue
    return found


def test_an_interrupted_ingest_exits_with_130_and_no_traceback(world, tmp_path):
    for number in range(9):  # a small ingest may end before the signal comes: then it is tried again
        lake = tmp_path / f"lake{number}"
        words = ["env", "--default-signal=INT", TARSIA]  # what a shell starts in the background is deaf to it
        words += ["ingest", world / "catalog.yaml", lake, "--workers", "1", "--quiet"]
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
            until = time.monotonic() + 60
            while not (lake / "work").exists():
                assert time.monotonic() < until
                time.sleep(0.001)
            process.send_signal(signal.SIGINT)
            said = process.stderr.read()
        if process.returncode:
            break
    assert process.returncode == 130
    assert "Traceback" not in said


# --- mistakes -------------------------------------------------------------------------------------------------------

TALK = "format: alpaca, kind: qa, language: en, licence: CC0, root: talk, files: '*.jsonl'"


@pytest.mark.parametrize(
    ("catalog", "said"),
    [
        (f"corpora: {{talk: {{{TALK.replace('alpaca', 'alpacca')}}}}}", "no format 'alpacca'; did you mean 'alpaca'?"),
        (f"corpora: {{talk: {{{TALK.replace('licence', 'lisence')}}}}}", "no key 'lisence'; did you mean 'licence'?"),
        (f"corpora:\n  talk: {{{TALK}}}\n  talk: {{{TALK}}}\n", "catalog.yaml, line 3: 'talk' is given twice"),
        (f"corpora: {{talk: {{{TALK.replace('*.jsonl', '*.csv')}}}}}", "corpus 'talk': no file *.csv below"),
        (f"corpora: {{talk: {{{TALK.replace('root: talk', 'root: tlak')}}}}}", "corpus 'talk': no file *.jsonl below"),
        (None, "no file "),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(world, tmp_path, monkeypatch, capsys, catalog, said):
    from tarsia.pipelines import cli

    (tmp_path / "talk").symlink_to(world / "talk")
    if catalog:
        (tmp_path / "catalog.yaml").write_text(catalog)
    monkeypatch.setattr(sys, "argv", ["tarsia", "ingest", str(tmp_path / "catalog.yaml"), str(tmp_path / "lake")])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    told = capsys.readouterr().err
    assert exited.value.code == 2
    assert told.startswith("tarsia: ")
    assert said in told
    assert not (tmp_path / "lake").exists()


def test_media_are_found_below_their_folder_without_the_prefix_to_strip(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(jpeg(1))
    records = [
        asked("<image>\nWhat is it?", "A colour.", id="1", image="/home/me/data/a.jpg"),
        asked("<image>\nAnd this?", "A colour.", id="2", image="a.jpg"),
    ]
    write_lines(tmp_path / "a.jsonl", records)
    (tmp_path / "catalog.yaml").write_text(
        "corpora:\n  a: {format: llava, kind: qa, language: en, licence: CC0, root: ., files: a.jsonl, media: images, "
        "strip: /home/me/data/}\n"
    )
    (report,) = run(tmp_path / "catalog.yaml", tmp_path / "lake")
    assert (report.samples, report.quarantined) == (2, {})


def test_a_tar_packed_anew_holds_the_same_samples(tmp_path):
    shards = {}
    for name, order in (("one", (1, 2, 3)), ("two", (3, 1, 2))):
        (tmp_path / name).mkdir()
        with tarfile.open(tmp_path / name / "a.tar", "w") as tar:
            for number in order:
                for member, data in ((f"{number}.jpg", jpeg(number)), (f"{number}.txt", f"Colour {number}.".encode())):
                    info = tarfile.TarInfo(member)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        (tmp_path / f"{name}.yaml").write_text(
            f"corpora:\n  a: {{format: webdataset, kind: caption, language: en, licence: CC0, root: {name}}}\n"
        )
        (report,) = run(tmp_path / f"{name}.yaml", tmp_path / f"lake-{name}")
        assert (report.records, report.samples) == (3, 3)
        shards[name] = shards_of(tmp_path / f"lake-{name}", "a")
    assert shards["one"] == shards["two"]


def test_a_leaf_of_many_slices_keeps_no_file_open(tmp_path):
    store, keys = open_store(str(tmp_path)), [f"{number:032x}" for number in range(90)]
    for part in range(30):
        rows = [{"key": key, "record": "0" * 32, "raw": b"", "file": "a", "media": []} for key in keys[part::30]]
        store.replace(f"{part}.arrow", to_arrow(pa.Table.from_pylist(rows, SORTED)))
    before = len(list(Path("/proc/self/fd").iterdir()))
    rows = merged(store, [(f"{part}.arrow", 1, 3) for part in range(30)], ("key",))
    found = [next(rows)["key"]]
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert [*found, *(row["key"] for row in rows)] == keys[30:]


def test_tombstones_that_the_snapshot_has_are_not_read_again():
    known = Stored(path="tombstones/corpora/a/rows-1.parquet", bytes=1, digest="1")
    nowhere = cast(Store, None)
    assert all_of(nowhere, "a", known, [known.path, "tombstones/media/rows-2.parquet"]) is known
    assert all_of(nowhere, "b", None, [known.path]) is None

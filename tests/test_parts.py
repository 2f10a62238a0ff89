"""A large file is read in parts, and nobody can tell from what comes out of it."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from test_ingest import live, objects, quarantine_of, run, sum_of, write_lines

from tarsia.builders import records
from tarsia.builders.corpora import find
from tarsia.builders.lake import Lake
from tarsia.builders.reading.parts import json_parts, line_parts
from tarsia.builders.records import slices_of
from tarsia.builders.storage import open_store
from tarsia.builders.tables import get_tables
from tarsia.pipelines import fold
from tarsia.pipelines import scan as module
from tarsia.schemas.errors import StorageFault
from tarsia.schemas.shard import ORIGINS

STRAY = ['{"id": 1', "[1, 2]", "nothing", '"text"', "{}", '{"id": 2, "a": "\\u00e9 \\"[{"}', '{"id": 3}, {', "7", ""]


def found(format_, source, file, size=None):
    """What a reader finds in a file: whole, or in parts of about `size` bytes; and how many parts there were."""
    reader, store = find(format_), open_store(str(source))
    parts = list(reader.split(store, file, size)) if size else []
    tables = list(slices_of(reader, store, [(file, part) for part in parts or [None]]))
    return [row for table, _ in tables for row in table.to_pylist()], len(parts)


def alike(format_, source, file, size, at_least):
    whole, _ = found(format_, source, file)
    parts, count = found(format_, source, file, size)
    assert parts == whole
    assert len(whole) > 0
    assert count >= at_least
    return parts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("parts")


@settings(max_examples=150)
@given(
    lines=st.lists(st.sampled_from([*STRAY, '{"id": 4, "output": "好的，没问题"}', '{"id": 5}']), min_size=1),
    size=st.integers(1, 60),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_json_lines_are_the_same_in_parts_wherever_they_are_cut(folder, lines, size, end):
    (folder / "x.jsonl").write_text('{"id": 0}' + end + end.join(lines), newline="")
    whole, _ = found("alpaca", folder, "x.jsonl")
    assert found("alpaca", folder, "x.jsonl", size)[0] == whole


@settings(max_examples=150)
@given(
    elements=st.lists(st.sampled_from([*STRAY, '{"id": 4, "output": "好的"}', '{"id": 5}', '{"id": 6}'])),
    size=st.integers(1, 60),
    end=st.sampled_from(["]", "\n]\n", "] more", "", ', {"id": 9']),
)
def test_an_array_is_the_same_in_parts_wherever_it_is_cut(folder, elements, size, end):
    (folder / "x.json").write_text("[" + ",\n ".join(elements) + end)
    whole, _ = found("alpaca", folder, "x.json")
    assert found("alpaca", folder, "x.json", size)[0] == whole


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
def test_chinese_lines_keep_their_places_on_disk(tmp_path, encoding):
    said = "".join(
        json.dumps({"id": number, "output": "海上有一条红色的小船，" * 3}, ensure_ascii=False) + "\n"
        for number in range(40)
    )
    (tmp_path / "x.jsonl").write_bytes(said.encode(encoding))
    rows = alike("alpaca", tmp_path, "x.jsonl", 500, 5)
    data = (tmp_path / "x.jsonl").read_bytes()
    assert [json.loads(data[row["begin"] : row["end"]].decode(encoding.removesuffix("-sig"))) for row in rows] == [
        json.loads(line) for line in said.splitlines()
    ]


def test_what_cannot_be_cut_is_read_whole(tmp_path):
    files = {
        "wide.jsonl": '{"id": 1}\n{"id": 2}\n'.encode("utf-16"),
        "page.json": json.dumps({"data": [{"id": 1}, {"id": 2}]}, indent=1).encode(),
        "zipped.jsonl.gz": b"\x1f\x8b\x08\0rest\n{}\n{}\n",
        "table.csv": b'id,text\n1,"two\nlines"\n',
        "empty.json": b"",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        assert list(json_parts(open_store(str(tmp_path)), name, 1)) == []


def test_a_long_line_is_never_cut(tmp_path):
    (tmp_path / "text").write_bytes(b"a " + b"x" * 1000 + b"\nb y\nc z")
    assert [tuple(part)[:2] for part in line_parts(open_store(str(tmp_path)), "text", 10)] == [(0, 1003), (1003, 1010)]


def test_a_table_is_read_under_its_header_in_every_part(tmp_path):
    lines = ["client_id\tpath\tsentence", *(f"c{number}\tclip{number}\tsaid {number}" for number in range(50)), "short"]
    (tmp_path / "validated.tsv").write_text("\n".join(lines))
    rows = alike("common_voice", tmp_path, "validated.tsv", 100, 5)
    assert [row["code"] for row in rows[-2:]] == [None, "record-shape"]
    assert len(rows) == 51


def test_paragraphs_are_not_torn(tmp_path):
    text = "\n\n".join("\n".join(f"Line {line} of {part}. And more." for line in range(3)) for part in range(30))
    (tmp_path / "book.txt").write_text(text)
    alike("plain", tmp_path, "book.txt", 100, 5)


def test_parquet_is_read_by_row_groups(tmp_path):
    table = pa.table({"id": [f"r{number}" for number in range(100)], "text": ["words"] * 100})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=9)
    alike("parquet", tmp_path, "x.parquet", 300, 3)


def segments(count):
    return [
        {"sid": f"s{number}", "begin_time": number * 0.7, "end_time": number * 0.7 + 0.6, "text": f"WORD {number}"}
        for number in range(count)
    ]


def tone(path, seconds):
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = [0.3 * math.sin(step * 0.05) for step in range(round(seconds * 8000))]
    soundfile.write(path, np.array(wave), 8000)


def test_an_index_of_long_recordings_is_read_audio_by_audio(tmp_path):
    audios = []
    for number in range(6):
        tone(tmp_path / f"audio/{number}.flac", 4)
        audios.append({"aid": f"a{number}", "path": f"audio/{number}.flac", "segments": segments(5)})
    audios[3]["path"] = "audio/lost.flac"
    index = {"dataset": "GigaSpeech", "audios": audios, "version": "{1}"}
    (tmp_path / "GigaSpeech.json").write_text(json.dumps(index, indent=1))
    alike("gigaspeech", tmp_path, "GigaSpeech.json", 700, 3)


def test_a_kaldi_folder_is_read_by_lines_of_its_text(tmp_path):
    for number in range(3):
        tone(tmp_path / f"audio/{number}.flac", 4)
    names = [(f"u{number}-{part}", f"r{number}", part) for number in range(3) for part in range(5)]
    (tmp_path / "wav.scp").write_text("".join(f"r{number} audio/{number}.flac\n" for number in range(3)))
    (tmp_path / "segments").write_text(
        "".join(f"{own} {name} {part * 0.7} {part * 0.7 + 0.6}\n" for own, name, part in names)
    )
    (tmp_path / "text").write_text("".join(f"{own} WORD {part}\n" for own, _, part in names))
    alike("kaldi", tmp_path, "text", 40, 4)


@pytest.fixture
def corpus(tmp_path):
    """Two hundred records in one file, some twice, some broken, and a catalog of them."""
    write_lines(tmp_path / "raw/a.jsonl", [sum_of(number % 190) for number in range(200)])
    with (tmp_path / "raw/a.jsonl").open("a") as file:
        file.write('{"id": "cut", "instruction": \n{"instruction": "no id", "output": "none"}\n{"id": "mute"}\n')
    (tmp_path / "catalog.yaml").write_text(
        "corpora: {sums: {format: alpaca, kind: qa, language: en, licence: none, root: raw, cap: 32}}"
    )
    return tmp_path


def test_a_lake_is_the_same_however_its_files_were_cut(corpus, monkeypatch):
    lakes = []
    for size in (1 << 30, 3000, 300):
        monkeypatch.setattr(module, "SCAN_BYTES", size)
        lakes.append(corpus / f"lake-{size}")
        run(corpus / "catalog.yaml", lakes[-1])
    whole, *cut = lakes

    def shards(lake):
        return {path: data for path, data in objects(lake).items() if path.startswith(("corpora/", "quarantine/"))}

    def origins(lake):
        state = live(lake).corpus("sums")
        return get_tables(Lake(str(lake)).store, state.origins, ORIGINS, ORIGINS.names).sort_by("key"), len(
            state.origins
        )

    assert len(quarantine_of(whole, "sums")) == 2
    for lake in cut:
        assert shards(lake) == shards(whole)
        assert origins(lake)[0] == origins(whole)[0]
        assert origins(lake)[1] > origins(whole)[1] == 1


@pytest.mark.parametrize("most", [2, 64])
def test_a_lake_is_the_same_whether_its_slices_were_folded_or_not(corpus, monkeypatch, most):
    write_lines(corpus / "raw/b.jsonl", [sum_of(number) for number in range(900, 3000)])
    for number in range(3):
        write_lines(corpus / f"raw/c{number}.jsonl", [sum_of(number) for number in range(3000 + number, 4000, 3)])
    monkeypatch.setattr(module, "SCAN_BYTES", 9000)
    run(corpus / "catalog.yaml", corpus / "plain")
    folds, real = [], fold.Fold.run
    monkeypatch.setattr(fold.Fold, "run", lambda task: folds.append(len(task.slices)) or real(task))
    for name, value in {"FEW": 4, "MOST": most, "LONG": 1, "BATCH": 16}.items():
        monkeypatch.setattr(fold, name, value)
    monkeypatch.setattr(records, "BATCH", 16)
    run(corpus / "catalog.yaml", corpus / "folded")
    slices = len(live(corpus / "plain").corpus("sums").origins)
    assert sum(folds) == slices > 12
    assert max(folds) == (2 if most == 2 else -(-slices // 4))
    assert objects(corpus / "folded") == objects(corpus / "plain")


def test_what_was_cut_and_scanned_before_a_fault_is_not_done_again(corpus, monkeypatch):
    monkeypatch.setattr(module, "SCAN_BYTES", 3000)
    run(corpus / "catalog.yaml", corpus / "fresh")
    done = []
    real = module.Scan.run

    def tripped(task):
        if len(done) == 3:
            raise StorageFault("the disk is gone")
        done.append(task.files)
        return real(task)

    monkeypatch.setattr(module.Scan, "run", tripped)
    with pytest.raises(StorageFault):
        run(corpus / "catalog.yaml", corpus / "lake")
    monkeypatch.setattr(module.Scan, "run", lambda task: done.append(task.files) or real(task))
    run(corpus / "catalog.yaml", corpus / "lake")
    assert len(done) == len(set(done)) > 4
    assert objects(corpus / "lake") == objects(corpus / "fresh")

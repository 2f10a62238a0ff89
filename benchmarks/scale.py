"""What ingest needs at size: memory of one process that does everything, and the time of a run with nothing to do.

    python benchmarks/scale.py                    # all cases, small: two minutes
    python benchmarks/scale.py --full             # 1 M records, 2 h of Opus, a 2 GB tar: half an hour, 8 GB of disk
    python benchmarks/scale.py text --count 200000

Each case runs in a process of its own, whose largest resident memory counts: it splits, scans, sorts, builds and
publishes, so no worker of a pool needs more. Prints Markdown.
"""

import argparse
import io
import json
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
from ingest import PHOTOS, photo

from tarsia.builders.documents import read_catalog
from tarsia.builders.lake import Lake
from tarsia.pipelines.ingest import ingest
from tarsia.pipelines.pool import open_pool

SMALL = {"text": 20_000, "array": 20_000, "speech": 10, "tar": 2_000, "again": 200}
FULL = {"text": 1_000_000, "array": 1_000_000, "speech": 120, "tar": 40_000, "again": 1_000}
WHAT = {
    "text": "records of JSON Lines",
    "array": "elements of one JSON array",
    "speech": "minutes of Opus in one file, cut into segments",
    "tar": "images of 50 KB in one tar",
    "again": "shards of a finished ingest, run again",
}
SEGMENT = 6  # seconds


def record(number: int) -> bytes:
    words = " ".join(f"word{(number * 31 + step * 7) % 9973}" for step in range(60))
    return json.dumps({"id": f"r{number}", "instruction": f"Say number {number}.", "output": words}).encode()


def text(folder: Path, count: int) -> str:
    with (folder / "raw.jsonl").open("wb") as file:
        file.writelines(record(number) + b"\n" for number in range(count))
    return "format: alpaca, kind: qa, files: raw.jsonl"


def array(folder: Path, count: int) -> str:
    with (folder / "raw.json").open("wb") as file:
        file.writelines((b"," if number else b"[") + b"\n" + record(number) for number in range(count))
        file.write(b"\n]")
    return "format: alpaca, kind: qa, files: raw.json"


def speech(folder: Path, count: int) -> str:
    rate, noise = 16_000, np.random.default_rng(1)
    with soundfile.SoundFile(folder / "long.opus", "w", rate, 1, format="OGG", subtype="OPUS") as file:
        for _ in range(count):
            file.write((noise.normal(0, 0.1, 60 * rate)).astype(np.float32))
    segments = [
        {"sid": f"s{number}", "begin_time": number * SEGMENT, "end_time": (number + 1) * SEGMENT, "text_tn": "WORDS"}
        for number in range(count * 60 // SEGMENT)
    ]
    index = {"audios": [{"aid": "a", "path": "long.opus", "segments": segments}]}
    (folder / "GigaSpeech.json").write_text(json.dumps(index))
    return "format: gigaspeech, kind: asr"


def tar(folder: Path, count: int) -> str:
    photos = [photo(number) for number in range(PHOTOS)]
    with tarfile.open(folder / "00000.tar", "w", format=tarfile.USTAR_FORMAT) as out:
        for number in range(count):
            data = photos[number % PHOTOS]
            data = data[:2] + b"\xff\xfe\x00\x0a" + b"%08d" % number + data[2:]
            for name, content in ((f"{number:08d}.jpg", data), (f"{number:08d}.txt", b"A picture.")):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                out.addfile(info, io.BytesIO(content))
    return "format: webdataset, kind: caption"


def again(folder: Path, count: int) -> str:
    text(folder, count * 11)
    return "format: alpaca, kind: qa, files: raw.jsonl, cap: 16"


def case(name: str, folder: Path) -> None:
    """Ingests what lies in a folder; says what it took, in one line of JSON."""
    began, used = time.perf_counter(), time.process_time()
    with open_pool(1) as pool:
        (report,) = ingest(read_catalog(folder / "catalog.yaml"), Lake(str(folder / "lake")), pool, quiet=True)
    print(
        json.dumps(
            {
                "records": report.records,
                "shards": report.shards,
                "wall": time.perf_counter() - began,
                "cpu": time.process_time() - used,
                "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    )


def run(name: str, folder: Path) -> dict[str, float]:
    line = subprocess.run([sys.executable, __file__, name, "--in", str(folder)], stdout=subprocess.PIPE, check=True)
    return json.loads(line.stdout)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("cases", nargs="*", choices=[[], *SMALL], default=[])
    options.add_argument("--full", action="store_true")
    options.add_argument("--count", type=int)
    options.add_argument("--in", dest="folder", type=Path)
    asked = options.parse_args()
    if asked.folder:
        case(asked.cases[0], asked.folder)
        return
    print("| case | raw MB | records | shards | peak RSS, MB | CPU s | wall s |\n|---|---|---|---|---|---|---|")
    for name in asked.cases or SMALL:
        count = asked.count or (FULL if asked.full else SMALL)[name]
        with tempfile.TemporaryDirectory(prefix="tarsia-scale-") as temporary:
            folder = Path(temporary)
            (folder / "raw").mkdir()
            entry = globals()[name](folder / "raw", count)
            (folder / "catalog.yaml").write_text(f"corpora: {{c: {{{entry}, language: en, licence: none, root: raw}}}}")
            size = sum(path.stat().st_size for path in (folder / "raw").iterdir()) / 1e6
            did = run(name, folder)
            if name == "again":
                did = run(name, folder)
            print(
                f"| {count:,} {WHAT[name]} | {size:,.0f} | {did['records']:,} | {did['shards']:,} | {did['mb']:,.0f} "
                f"| {did['cpu']:.1f} | {did['wall']:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

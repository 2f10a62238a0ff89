"""Ingest against the writers it replaces, on the same files in the same run: CPU time of one process.

    python benchmarks/ingest.py             # 5,000 samples of a 50 KB JPEG and half a KB of JSON, half a minute
    python benchmarks/ingest.py 20000
    python benchmarks/ingest.py --ray       # 5 GB through the local pool and through Ray, all processes counted

Tarsia does what the others do not: it sorts by draw, checks and measures every image, hashes every member, sample and
file, and writes index, text, origins and a snapshot. Prints Markdown: the best of three runs each.
"""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from tarsia.builders.documents import read_catalog
from tarsia.builders.lake import Lake
from tarsia.pipelines.ingest import ingest
from tarsia.pipelines.pool import open_pool

PHOTOS = 40  # different pictures; each file bears its number besides, so that no two are equal
SIZE, BYTES = (640, 480), 52_000
SHARD = 4096  # samples


def photo(number: int) -> bytes:
    """A JPEG of about BYTES: waves and grain, which compress like a photograph."""
    chance = np.random.default_rng(number)
    y, x = np.mgrid[0 : SIZE[1], 0 : SIZE[0]]
    waves = np.stack([np.sin(x / (7 + number + c) + y / (11 + 3 * c)) * 80 + 128 for c in range(3)], -1)
    picture = Image.fromarray((waves + chance.normal(0, 18, waves.shape)).clip(0, 255).astype(np.uint8))
    for quality in range(95, 10, -5):
        data = io.BytesIO()
        picture.save(data, "JPEG", quality=quality)
        if len(data.getvalue()) <= BYTES:
            break
    return data.getvalue()


def write(folder: Path, samples: int) -> int:
    """The raw corpus and its catalog; its bytes."""
    photos, records, total = [photo(number) for number in range(PHOTOS)], [], 0
    (folder / "raw" / "images").mkdir(parents=True)
    for number in range(samples):
        data = photos[number % PHOTOS]
        data = data[:2] + b"\xff\xfe\x00\x0a" + b"%08d" % number + data[2:]  # a comment, after the start marker
        (folder / "raw" / "images" / f"{number:08d}.jpg").write_bytes(data)
        turns = [
            {"from": "human", "value": "<image>\nWhat do you see in this picture, and why do you think so?"},
            {"from": "gpt", "value": f"Waves of three colours, number {number}, with some grain in them. " * 5},
        ]
        records.append({"id": f"r{number}", "image": f"images/{number:08d}.jpg", "conversations": turns})
        total += len(data)
    (folder / "raw" / "records.json").write_text(json.dumps(records))
    (folder / "catalog.yaml").write_text(
        "corpora: {waves: {format: llava, kind: qa, language: en, licence: none, root: raw, files: records.json}}"
    )
    return total + (folder / "raw" / "records.json").stat().st_size


def by_tarsia(folder: Path, out: Path) -> None:
    with open_pool(1) as pool:
        (report,) = ingest(read_catalog(folder / "catalog.yaml"), Lake(str(out)), pool, quiet=True)
    assert report.records == report.samples


def by_webdataset(folder: Path, out: Path) -> None:
    import webdataset  # here, since it brings torch

    out.mkdir()
    with webdataset.ShardWriter(f"{out}/%06d.tar", maxcount=SHARD, verbose=0) as writer:
        for record in json.loads((folder / "raw" / "records.json").read_bytes()):
            image = (folder / "raw" / record["image"]).read_bytes()
            writer.write({"__key__": record["id"], "jpg": image, "json": record})


def by_tarfile(folder: Path, out: Path) -> None:
    out.mkdir()
    records = json.loads((folder / "raw" / "records.json").read_bytes())
    for begin in range(0, len(records), SHARD):
        with tarfile.open(out / f"{begin:08d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for record in records[begin : begin + SHARD]:
                image = (folder / "raw" / record["image"]).read_bytes()
                for name, data in (("jpg", image), ("json", json.dumps(record).encode())):
                    info = tarfile.TarInfo(f"{record['id']}.{name}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


# --- Ray ------------------------------------------------------------------------------------------------------------


def link(folder: Path, samples: int) -> int:
    """As `write`, with the same forty pictures again and again as links: gigabytes in no time."""
    (folder / "raw/images").mkdir(parents=True)
    photos = [photo(number) for number in range(PHOTOS)]
    for number, data in enumerate(photos):
        (folder / f"{number}.jpg").write_bytes(data)
    with (folder / "raw/records.jsonl").open("w") as file:
        for number in range(samples):
            (folder / f"raw/images/{number:08d}.jpg").hardlink_to(folder / f"{number % PHOTOS}.jpg")
            turns = [
                {"from": "human", "value": "<image>\nWhat do you see in this picture, and why do you think so?"},
                {"from": "gpt", "value": f"Waves of three colours, number {number}, with some grain in them. " * 5},
            ]
            record = {"id": f"r{number}", "image": f"images/{number:08d}.jpg", "conversations": turns}
            file.write(json.dumps(record) + "\n")
    (folder / "catalog.yaml").write_text(
        "corpora: {waves: {format: llava, kind: qa, language: en, licence: none, root: raw, files: records.jsonl}}"
    )
    return sum(len(photos[number % PHOTOS]) for number in range(samples))


def all_seconds() -> float:
    """The CPU time of this process and of all that descend from it, those that ended included."""
    ticks, children = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            ticks[int(path.parent.name)] = sum(map(int, fields[11:15]))
            children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    todo, total = [os.getpid()], 0
    while todo:
        process = todo.pop()
        total += ticks.get(process, 0)
        todo += children.get(process, [])
    return total / os.sysconf("SC_CLK_TCK")


def on(where: str, folder: Path) -> None:
    """Ingests a small corpus, so that all processes stand, then the large one; prints its CPU seconds."""
    with open_pool(2, "local" if where == "ray" else None, patience=0) as pool:
        ingest(read_catalog(folder / "small/catalog.yaml"), Lake(f"{folder}/small/{where}"), pool, quiet=True)
        began = all_seconds()
        ingest(read_catalog(folder / "catalog.yaml"), Lake(f"{folder}/{where}"), pool, quiet=True)
        print(all_seconds() - began)


def compare_ray(samples: int, turns: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "small").mkdir()
        link(folder / "small", 2000)
        page = folder / "small/catalog.yaml"
        page.write_text(page.read_text().replace("files:", "cap: 64, files:"))
        total = link(folder, samples)
        print(f"{samples:,} samples, {total / 1e6:,.0f} MB, two workers\n")
        print("| where | CPU s | MB per CPU second |\n|---|---|---|")
        for where in ["pool", "ray"] * turns:
            words = [sys.executable, __file__, "--on", where, str(folder)]
            used = float(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout.split()[-1])
            print(f"| {where} | {used:.1f} | {total / 1e6 / used:,.0f} |", flush=True)
            for path in (folder / where, folder / "small" / where):
                shutil.rmtree(path)


def seconds(run: Callable[[Path, Path], None], folder: Path, out: Path) -> float:
    """The CPU time of one run."""
    began = time.process_time()
    run(folder, out)
    return time.process_time() - began


def main() -> None:
    if sys.argv[1:2] == ["--on"]:
        on(sys.argv[2], Path(sys.argv[3]))
        return
    if sys.argv[1:2] == ["--ray"]:
        compare_ray(int(sys.argv[2]) if len(sys.argv) > 2 else 100_000, 2)
        return
    samples = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        (here / "small").mkdir()
        write(here / "small", 10)
        for run in (by_tarsia, by_webdataset):
            run(here / "small", here / "small" / run.__name__)  # imports are not counted
        total = write(here, samples)
        print(f"{samples:,} samples, {total / 1e6:,.0f} MB\n")
        print("| writer | CPU ms a sample | MB per CPU second |\n|---|---|---|")
        writers = {
            "tarsia ingest, one worker": by_tarsia,
            "webdataset.ShardWriter": by_webdataset,
            "tarfile, ustar": by_tarfile,
        }
        times: dict[str, list[float]] = {name: [] for name in writers}
        for turn in range(3):  # by turns, so that a busy machine is busy for all
            for name, run in writers.items():
                times[name].append(seconds(run, here, here / f"{run.__name__}-{turn}"))
        for name, used in times.items():
            print(f"| {name} | {min(used) / samples * 1e3:.2f} | {total / 1e6 / min(used):,.0f} |")


if __name__ == "__main__":
    main()

"""What reading costs the trainer: CPU-ms a sample, JSON parsed and checksum verified, over a lake made for it.

    python benchmarks/stream.py /tmp/bench-stream          # 5,000 samples of a 50 KB image, about 250 MB

The lake is kept, so that a second run reads warm files. Beside the stream stand its parts: the bare range reads, and
those with their checksums.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tarsia.builders.documents import read_catalog, read_recipe
from tarsia.builders.lake import Lake
from tarsia.manifests.ranges import Span
from tarsia.manifests.stream import Stream
from tarsia.pipelines.ingest import ingest
from tarsia.pipelines.plan import make_plans
from tarsia.pipelines.pool import open_pool
from tarsia.schemas.identity import checksum

SAMPLES, BYTES = 5_000, 50_000
START = bytes.fromhex("ffd8ffc0001108028003000301220002110103 1101".replace(" ", ""))  # a frame header: 640 x 768


def main() -> None:
    """Makes the lake where it is not there, and reads it three ways."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    if not (folder / "lake" / "stages").exists():
        fill(folder)
    began = time.process_time()
    stream = Stream(str(folder / "lake"), "bench/1")
    first = next(iter(stream)).contexts[0]
    print(f"open and first context ({len(first.samples)} samples): {(time.process_time() - began) * 1e3:.1f} CPU-ms")
    places = [*stream._places._samples.rows(0, SAMPLES)]
    for name, run in (
        ("bare range reads", lambda: ranges(stream, places, lambda data: 0)),
        ("  with checksums", lambda: ranges(stream, places, checksum)),
        ("stream", lambda: sum(len(context.samples) for batch in stream for context in batch.contexts)),
    ):
        costs = [timed(run) for _ in range(3)]
        print(f"{name:<20} {min(costs) / SAMPLES * 1e3:.4f} CPU-ms a sample")


def timed(run: Callable[[], int]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def ranges(stream: Stream, places: list[tuple], check: Callable[[bytes], int]) -> int:
    return sum(
        check(stream._ranges.read(Span(stream.manifest.shards[shard], offset, length))) > 0
        for _, _, _, _, _, _, shard, offset, length, *_ in places
    )


def fill(folder: Path) -> None:
    """A lake of one corpus; the images have a header and noise for pixels."""
    (folder / "images").mkdir(parents=True)
    noise = np.random.default_rng(1)
    records = []
    for number in range(SAMPLES):
        (folder / f"images/{number}.jpg").write_bytes(START + noise.bytes(BYTES).replace(b"\xff", b"\0") + b"\xff\xd9")
        turns = [
            {"from": "human", "value": f"<image>\nWhat is in picture {number}?"},
            {"from": "gpt", "value": f"Noise, as in picture {number + 1}. " * 8},
        ]
        records.append({"id": str(number), "image": f"images/{number}.jpg", "conversations": turns})
    (folder / "noise.json").write_text(json.dumps(records))
    (folder / "catalog.yaml").write_text(
        "corpora: {noise: {format: llava, kind: qa, language: en, licence: none, root: ., files: noise.json}}\n"
    )
    (folder / "bench.yaml").write_text(
        "{model: bench, seed: 1, context: {tokens: 6000, tiles: 4},"
        " stages: {'1': {title: all, train: [llm], take: {qa: 100%}}}}\n"
    )
    lake = Lake(str(folder / "lake"))
    with open_pool(1) as pool:
        reports = ingest(read_catalog(folder / "catalog.yaml"), lake, pool, quiet=True)
        assert reports[0].samples == SAMPLES, reports
        make_plans(read_recipe(str(folder / "bench.yaml")), lake, pool, quiet=True)


if __name__ == "__main__":
    main()

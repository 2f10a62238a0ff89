"""What finding duplicates costs: a hash, all alike pairs of a million hashes, and an ingest with and without `dedup`.

    python benchmarks/duplicates.py         # 1,000,000 hashes, 3,000 samples; about two minutes

The pictures and records are those of `benchmarks/ingest.py`; one record in ten stands twice. Prints Markdown: CPU time
of one process.
"""

import json
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
from ingest import photo, write

from tarsia.builders.documents import read_catalog
from tarsia.builders.lake import Lake
from tarsia.builders.likeness import hash_of, pairs_alike
from tarsia.pipelines.ingest import ingest
from tarsia.pipelines.pool import open_pool


def hashing(pictures: int = 40) -> float:
    """Milliseconds of CPU for the hash of a 640 x 480 JPEG of 50 KB."""
    data = [photo(number) for number in range(pictures)]
    hash_of(data[0], "0" * 32)
    before = time.process_time()
    for one in data:
        hash_of(one, "0" * 32)
    return 1000 * (time.process_time() - before) / pictures


def pairing(count: int) -> tuple[float, float, int]:
    """CPU-seconds and megabytes for all pairs of hashes, one in ten of which is a bit away from another; the pairs."""
    chance = np.random.default_rng(0)
    own = chance.integers(0, 1 << 64, count * 9 // 10, dtype=np.uint64)
    near = own[: count // 10] ^ (np.uint64(1) << chance.integers(0, 64, count // 10, dtype=np.uint64))
    hashes = np.unique(np.concatenate([own, near]))
    before = time.process_time()
    left, _ = pairs_alike(hashes)
    taken = time.process_time() - before
    tracemalloc.start()
    pairs_alike(hashes)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return taken, most / 1e6, len(left)


def ingesting(samples: int) -> dict[str, tuple[float, int]]:
    """CPU-seconds and samples of an ingest, by what its catalog asks for."""
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, samples)
        (annotation,) = folder.glob("raw/*.json")
        records = json.loads(annotation.read_text())
        annotation.write_text(json.dumps(records + [{**one, "id": f"{one['id']}b"} for one in records[::10]]))
        plain = (folder / "catalog.yaml").read_text()
        for asked in ("", "", "exact", "near"):  # the first pays for what is imported
            (folder / "catalog.yaml").write_text(
                plain.replace("kind: qa", f"kind: qa, dedup: {asked}" if asked else "kind: qa")
            )
            with open_pool(1) as pool:
                before = time.process_time()
                (report,) = ingest(
                    read_catalog(folder / "catalog.yaml"), Lake(f"{folder}/lake{len(found)}{asked}"), pool, quiet=True
                )
            found[asked or ("counted alone" if found else "first run")] = time.process_time() - before, report.samples
    return found


def main(count: int, samples: int) -> None:
    """Prints all three."""
    print(f"- a hash: {hashing():.2f} ms")
    seconds, megabytes, pairs = pairing(count)
    print(
        f"- {pairs:,} alike pairs of {count:,} hashes: {seconds:.1f} s, {megabytes:,.0f} MB above what the hashes take"
    )
    print("\n| dedup | CPU s | samples |\n|---|---|---|")
    for asked, (taken, stay) in ingesting(samples).items():
        print(f"| {asked} | {taken:.1f} | {stay:,} |")


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]), *(1_000_000, 3_000)[len(sys.argv) - 1 :])

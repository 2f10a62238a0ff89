"""Batches by seconds against lhotse's dynamic bucketing, on the durations of recordings to be recognised, in one run.

    python benchmarks/buckets.py                                  # 200,000 and 10,000,000 recordings
    python benchmarks/buckets.py --peers /tmp/peers/bin/python    # and lhotse on the first, with lhotse and torch there

Durations are a model: five corpora of speech, each gamma distributed between 0.5 and 30 s. Prints Markdown:
padding (padded seconds over real ones, less 1),
batches over the fewest there can be, the longest batch with its padding, the
correlation of a batch's place with its mean length and with the share of the first corpus, CPU-seconds. One thread.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tarsia.builders.buckets import WINDOW, bucket, fewest

SMALL, LARGE = 200_000, 10_000_000
BUDGET = 600  # seconds
MOST = 1000
CORPORA = ((0.35, 2.0, 1.4), (0.25, 9.0, 1.35), (0.2, 2.2, 2.4), (0.15, 6.0, 0.7), (0.05, 3.0, 4.0))  # share, shape, s


def recordings(count: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Seconds and corpora, in a fair order, lengths in whole samples at 16 kHz."""
    lot = np.random.default_rng(1)
    corpus = lot.choice(len(CORPORA), count, p=[share for share, _, _ in CORPORA])
    shape, scale = (np.array(values)[corpus] for values in list(zip(*CORPORA, strict=True))[1:])
    seconds = np.clip(lot.gamma(shape, scale), 0.5, 30)
    return np.round(seconds * 16_000) / 16_000, corpus


def ours(seconds: npt.NDArray[np.float64], corpora: npt.NDArray[np.int64], window: int) -> dict[str, Any]:
    """One stage."""
    lengths = np.rint(seconds * 1_000_000).astype(np.int64)
    began = time.process_time()
    packing = bucket(lengths, BUDGET * 1_000_000, MOST, seed=1, window=window)
    cpu = time.process_time() - began
    members, begins, size = packing.members, packing.starts[:-1], np.diff(packing.starts)
    assert np.array_equal(np.sort(members), np.arange(len(lengths)))
    real = np.add.reduceat(lengths[members], begins)
    padded = np.maximum.reduceat(lengths[members], begins) * size
    place = np.arange(len(size))
    share = np.add.reduceat((corpora[members] == 0).astype(np.float64), begins) / size
    return {
        "batches": len(size),
        "padding": padded.sum() / real.sum() - 1,
        "longest": padded.max() / 1e6,
        "length": float(np.corrcoef(place, real / size)[0, 1]),
        "corpus": float(np.corrcoef(place, share)[0, 1]),
        "cpu": cpu,
    }


def lhotse(python: Path, seconds: npt.NDArray[np.float64], corpora: npt.NDArray[np.int64], buckets: int) -> Any:
    """One pass of the peer."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/seconds.npy", f"{folder}/corpora.npy"]
        for path, values in zip(paths, (seconds, corpora), strict=True):
            np.save(path, values)
        peer = str(Path(__file__).parent / "peers/buckets.py")
        command = [str(python), peer, paths[0], str(BUDGET), str(buckets), paths[1]]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", type=Path, help="a Python that has lhotse and torch")
    given = parser.parse_args()
    print("| recordings | by | padding | batches over the fewest | longest batch, s | length | corpus | CPU-s |")
    print("|---|---|---|---|---|---|---|---|")
    for count in (SMALL, LARGE):
        seconds, corpora = recordings(count)
        bound, _ = fewest(np.rint(seconds * 1_000_000).astype(np.int64), BUDGET * 1_000_000, MOST)
        rows = {f"windows of {window:,}": ours(seconds, corpora, window) for window in (20_000, WINDOW)}
        if given.peers and count == SMALL:
            rows |= {f"lhotse, {n} buckets": lhotse(given.peers, seconds, corpora, n) for n in (10, 30)}
        for name, one in rows.items():
            over = one["batches"] / bound - 1
            print(
                f"| {count:,} | {name} | {one['padding']:.2%} | {over:+.2%} | {one['longest']:.1f} "
                f"| {one['length']:+.4f} | {one['corpus']:+.4f} | {one['cpu']:.2f} |"
            )
        sys.stdout.flush()


if __name__ == "__main__":
    main()

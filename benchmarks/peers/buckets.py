"""lhotse's dynamic bucketing over the same durations; runs in an environment of its own, with lhotse and torch.

python benchmarks/peers/buckets.py SECONDS.npy BUDGET BUCKETS CORPORA.npy     prints what it came to, as JSON
"""

import json
import sys
import time

import numpy as np
from lhotse import CutSet, MonoCut, Recording
from lhotse.dataset import DynamicBucketingSampler


def main() -> None:
    """One pass, shuffled, nothing dropped."""
    seconds, corpora = np.load(sys.argv[1]), np.load(sys.argv[4])
    budget, buckets = float(sys.argv[2]), int(sys.argv[3])
    recordings = [
        Recording(str(n), [], 16_000, round(length * 16_000), float(length)) for n, length in enumerate(seconds)
    ]
    cuts = CutSet.from_cuts(
        MonoCut(str(n), 0, float(length), 0, recording=recordings[n]) for n, length in enumerate(seconds)
    )
    began = time.process_time()
    sampler = DynamicBucketingSampler(cuts, max_duration=budget, num_buckets=buckets, shuffle=True, drop_last=False)
    sizes, padded, longest, mean, share = [], 0.0, 0.0, [], []
    for batch in sampler:
        mine = [cut.duration for cut in batch]
        sizes.append(len(mine))
        padded += max(mine) * len(mine)
        longest = max(longest, max(mine) * len(mine))
        mean.append(sum(mine) / len(mine))
        share.append(np.mean([corpora[int(cut.id)] == 0 for cut in batch]))
    position = np.arange(len(sizes))
    told = {
        "batches": len(sizes),
        "samples": sum(sizes),
        "padding": padded / seconds.sum() - 1,
        "longest": longest,
        "length": float(np.corrcoef(position, mean)[0, 1]),
        "corpus": float(np.corrcoef(position, share)[0, 1]),
        "cpu": time.process_time() - began,
    }
    print(json.dumps(told))


main()

"""What reading costs the trainer, beside its peers in the same run: samples of a 50 KB image and half a KB of JSON.

    python benchmarks/stream.py                                 # 5,000 samples in a temporary folder
    python benchmarks/stream.py --folder /tmp/bench             # kept: a second run finds it made
    python benchmarks/stream.py --peers .peers/bin/python       # the default, where it stands: see stream.md
    python benchmarks/stream.py --rows packed "shards, empty cache"      # from S3 alone, these

Local figures are CPU time of one process on one core. A process reads everything once, sets aside what importing left
in memory (`gc.freeze`: else a full collection falls into one run and not into the next) and is timed on two passes
more; the best of these, of interleaved processes. From S3 (SeaweedFS on loopback) they are samples a second beside
obstore reading the same ranges without looking at them; a ratio is the median of those of the interleaved rounds.
Prints Markdown: all figures, then every bar, what was measured, and whether it was met.
"""

import argparse
import gc
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np

ROOT = Path(__file__).parents[1]
SAMPLES, BYTES = 5_000, 50_000
MILLION = 1_000_000  # contexts of a stage
ROUNDS, TURNS = 3, 5  # of processes from a folder; of everything from a bucket
MIB = 1 << 20
START = bytes.fromhex("ffd8ffc00011080280030003012200021101031101")  # the frame header of a JPEG of 640 x 768

Figures = dict[str, float]


class Bar(NamedTuple):
    """A promise: what was measured may be at most (or at least) so much."""

    what: str
    measured: float
    limit: float
    least: bool = False

    def line(self) -> str:
        """A row of the table."""
        met = self.measured >= self.limit if self.least else self.measured <= self.limit
        sign = "≥" if self.least else "≤"
        return f"| {self.what} | {sign} {self.limit:g} | {self.measured:.3g} | {'yes' if met else '**no**'} |"


def main() -> None:
    """Every figure, or one of them in a process of its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--peers", type=Path, default=ROOT / ".peers/bin/python", help="a Python that has the peers")
    parser.add_argument("--rows", nargs="+", default=[], help="from S3 alone, and of it these rows")
    parser.add_argument("--only", help="one figure, as JSON")
    given = parser.parse_args()
    if given.only:
        print(json.dumps(ONLY[given.only](str(given.folder / "lake"))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        if not (folder / "lake/stages/bench/million").exists():
            fill(folder)
        print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores\n", flush=True)
        bars = [] if given.rows else local(folder, given.peers if given.peers.exists() else None)
        bars += remote(folder, given.rows)
        print(f"\nload average {os.getloadavg()[0]:.1f}\n\n| | bar | measured | met |\n| --- | --- | --- | --- |")
        print("\n".join(bar.line() for bar in bars))


# --- local ----------------------------------------------------------------------------------------------------------


def local(folder: Path, peers: Path | None) -> list[Bar]:
    """CPU time a sample, start and resume."""
    names = {name: _own(folder, name) for name in READING}
    if peers:
        command = [str(peers), str(ROOT / "benchmarks/peers/stream.py")]
        names |= {name: [*command, name, str(folder)] for name in PEERS}
    found: dict[str, list[Figures]] = {name: [] for name in names}
    for _ in range(ROUNDS):
        for name, one in names.items():
            found[name].append(json.loads(run(one)))
    best = {name: _least(results) for name, results in found.items()}
    print("| from a folder, one core | CPU-µs a sample | first pass | CPU-s to import and the first sample |")
    print("| --- | --- | --- | --- |")
    for name, one in best.items():
        print(f"| {name} | {one['sample']:.1f} | {one['first']:.1f} | {one['start']:.2f} |")
    others = {}
    for name in ("start", "account", "resume", "tiles", "ids", "memory"):
        others |= (figures := _least([json.loads(run(_own(folder, name))) for _ in range(AGAIN.get(name, 1))]))
        print(f"\n{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in figures.items()))
    worst = max(best["tarsia, shards"]["sample"], best["tarsia, packed"]["sample"])
    bars = [Bar("raw read, CPU-ms a sample", worst / 1e3, 0.03)]
    if peers:
        bars.append(Bar("raw read, of LitData's CPU", worst / best["litdata"]["sample"], 0.5))
        bars.append(Bar("webdataset's CPU, of a raw read", best["webdataset"]["sample"] / worst, 15, least=True))
    return [
        *bars,
        Bar("import without torch, CPU-s", others["import CPU-s"], 1),
        Bar("first sample after it, ms", others["first sample, ms"], 50),
        Bar("read and cut into tiles, of the bare decoder's CPU", others["tiles, of the bare decoder"], 1.1),
        Bar("resume among 1,000,000 contexts, slowest of 5 places, s", others["slowest of 5 places, s"], 0.1),
        Bar("bytes of a state", others["bytes of state"], 200),
        Bar("from a folder: MiB above the open stream, over two batches of 32", others["above two batches"], 16),
        Bar("from a folder: growth from epoch 2 to 10, MiB", others["growth"], 4),
    ]


def _own(folder: Path, name: str) -> list[str]:
    return [sys.executable, __file__, "--folder", str(folder), "--only", name]


def _least(results: list[Figures]) -> Figures:
    return {key: min(one[key] for one in results) for key in results[0]}


def run(command: list[str]) -> str:
    """A process on one core; its last line."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, preexec_fn=lambda: os.sched_setaffinity(0, {0})
    )
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return done.stdout.splitlines()[-1]


def passes(read: Callable[[], Iterator[int]]) -> Figures:
    """CPU time of a sample: the best of two passes over all, after a first one; and what came before the first."""
    began, costs = time.process_time(), []
    for number in range(3):
        samples = read()
        next(samples)  # imports and opening are told apart
        if not number:
            start = time.process_time() - began
        ready = time.process_time()
        count = sum(samples)
        costs.append((time.process_time() - ready) / count * 1e6)
        gc.collect()
        gc.freeze()
    return {"sample": min(costs[1:]), "first": costs[0], "start": start}


def reading(lake: str, *, packed: bool, typed: bool = False) -> Iterator[int]:
    from tarsia.manifests.stream import Stream

    for batch in Stream(lake, "bench/1", packed=packed):
        for context in batch.contexts:
            yield len(context.samples)
            if typed:
                assert all(one.sample.key for one in context.samples)


def ranges(lake: str, *, check: bool) -> Iterator[int]:
    from tarsia.manifests.stream import Stream
    from tarsia.schemas.identity import checksum

    stream = Stream(lake, "bench/1", packed=False)
    spans = [span for number in range(stream.manifest.contexts) for span in stream._ask(number).spans]
    for span in spans:
        data = stream._ranges.read(span)
        yield 1
        if check:
            checksum(data)


def start(lake: str) -> Figures:
    before = sum(os.times()[:2])
    from tarsia.manifests.stream import Stream

    assert "torch" not in sys.modules
    imported, began = sum(os.times()[:2]), time.perf_counter()
    next(iter(Stream(lake, "bench/1")))
    return {"import CPU-s": imported - before, "first sample, ms": (time.perf_counter() - began) * 1e3}


def account(lake: str) -> Figures:
    from tarsia.manifests.account import Account
    from tarsia.manifests.stream import Stream

    stream = Stream(lake, "bench/1", packed=False)
    began = time.process_time()
    batches = list(stream)
    read = time.process_time() - began
    book = Account(stream)
    began = time.process_time()
    for batch in batches:
        book.add(batch)
    spent = time.process_time() - began
    return {"µs a sample": spent / SAMPLES * 1e6, "% of reading": spent / read * 100}


def resume(lake: str) -> Figures:
    from tarsia.manifests.stream import Stream

    next(iter(Stream(lake, "bench/1")))  # what is imported on first use
    worst, cpu, state = 0.0, 0.0, {}
    for epoch, position in ((0, 0), (0, 500_000), (0, MILLION - 64), (1, 123_456), (2, 999_936)):
        began, used = time.perf_counter(), time.process_time()
        stream = Stream(lake, "bench/million", batch=64, rank=3, world=8, epochs=3)
        state = {**stream.state_dict(), "epoch": epoch, "position": position}
        stream.load_state_dict(state)
        next(iter(stream))
        worst = max(worst, time.perf_counter() - began)
        cpu = max(cpu, time.process_time() - used)
    return {"slowest of 5 places, s": worst, "CPU-s": cpu, "bytes of state": len(json.dumps(state))}


def tiles(lake: str) -> Figures:
    """A photograph of 448 x 448: read and cut by us, of the same cut by Pillow alone; reading is measured beside it."""
    from tensors import bare, photo

    from tarsia.builders.pixels import image_tiles

    data, size = photo((448, 448)), (448, 448)
    read = passes(lambda: reading(lake, packed=False))["sample"] / 1e3
    ours, theirs = 1e9, 1e9
    for _ in range(300):
        began = time.process_time()
        image_tiles(data, size, most=12, thumbnail=True)
        between = time.process_time()
        bare(data, size)
        ours, theirs = min(ours, between - began), min(theirs, time.process_time() - between)
    ours, theirs = ours * 1e3, theirs * 1e3
    return {"CPU-ms": ours, "bare, CPU-ms": theirs, "tiles, of the bare decoder": (ours + read) / theirs}


def ids(lake: str) -> Figures:
    """What packs spare by their token ids, and what that costs them: CPU-µs a sample, and bytes."""
    from tarsia.manifests.stream import Stream
    from tarsia.manifests.tensors import write
    from tarsia.manifests.written import kept, page_of

    stream = Stream(lake, "bench/1")
    settings = stream.manifest.context
    contexts = [stream.context(number) for number in range(min(300, stream.manifest.contexts))]
    for context in contexts:
        assert all(one.sample for one in context.samples)  # records made
    count = sum(len(context.samples) for context in contexts)
    best: dict[str, float] = {}
    calls: dict[str, Callable[[Any], Any]] = {
        "written by the tokenizer": lambda context: write(context, settings),
        "read from the pack": lambda context: page_of(context, settings),
        "kept by pack": lambda context: kept(write(context, settings), context, [{} for _ in context.samples]),
    }
    for _ in range(5):
        for name, call in calls.items():
            began = time.process_time()
            for context in contexts:
                assert call(context)
            best[name] = min(best.get(name, 1e9), (time.process_time() - began) / count * 1e6)
    written = [context.written for context in contexts if context.written]
    return {**best, "bytes a sample": sum(len(one.npy) + len(one.json) for one in written) / count}


def memory(lake: str) -> Figures:
    """MiB of one process over 10 epochs, above what it has once the stream is open."""
    from tarsia.manifests.stream import Cache, Stream

    prefetch, folder = int(os.environ.get("BENCH_PREFETCH", "0")) or 64 * MIB, os.environ.get("BENCH_CACHE")
    way: dict[str, Any] = {"packed": False, "cache": Cache(folder, 1 << 30)} if folder else {}
    stream = Stream(os.environ.get("BENCH_BUCKET", lake), "bench/1", epochs=10, batch=32, prefetch=prefetch, **way)
    stream.context(0)
    opened, sizes, largest = resident(), [], 0
    for batch in stream:
        bytes_ = sum(len(data) for context in batch.contexts for one in context.samples for data in one.media.values())
        largest = max(largest, bytes_)
        if batch.state["position"] == 0:
            sizes.append(resident())
    above = peak() - opened
    return {
        "MiB when opened": opened,
        "after epoch 2": sizes[1],
        "after 10": sizes[-1],
        "growth": sizes[-1] - sizes[1],
        "peak": peak(),
        "above two batches": above - 2 * largest / MIB,
    }


READING: dict[str, Callable[[str], Iterator[int]]] = {
    "bare ranges": lambda lake: ranges(lake, check=False),
    "with checksums": lambda lake: ranges(lake, check=True),
    "tarsia, shards": lambda lake: reading(lake, packed=False),
    "tarsia, packed": lambda lake: reading(lake, packed=True),
    "tarsia, shards, records made": lambda lake: reading(lake, packed=False, typed=True),
    "tarsia, packed, records made": lambda lake: reading(lake, packed=True, typed=True),
}
PEERS = ("litdata", "webdataset", "energon")
AGAIN = {"start": ROUNDS, "account": ROUNDS, "resume": ROUNDS, "tiles": 2}
ONLY: dict[str, Callable[[str], Figures]] = {
    **{name: lambda lake, read=read: passes(lambda: read(lake)) for name, read in READING.items()},  # type: ignore[misc]
    "start": start,
    "account": account,
    "resume": resume,
    "tiles": tiles,
    "ids": ids,
    "memory": memory,
}


def resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / MIB


def peak() -> float:
    """MiB at most; the kernel's other figure counts what the parent held before this process was another program."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


# --- from S3 --------------------------------------------------------------------------------------------------------


def remote(folder: Path, wanted: list[str]) -> list[Bar]:
    """Samples a second from a bucket; of all rows, or of those that are wanted."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # where a disk's cost of a new file is not measured
    with (
        bucket(folder) as url,
        tempfile.TemporaryDirectory() as disk,
        tempfile.TemporaryDirectory(dir=memory) as fast,
    ):
        rows = {name: row for name, row in reads(url, disk, fast).items() if name in wanted or not wanted}
        rates: dict[str, list[float]] = {name: [] for name in rows}
        costs: dict[str, list[float]] = {name: [] for name in rows}
        for _ in range(TURNS):
            for name, read in rows.items():
                began, used = time.perf_counter(), time.process_time()
                read()
                rates[name].append(SAMPLES / (time.perf_counter() - began))
                costs[name].append((time.process_time() - used) / SAMPLES * 1e6)
            for caches in (disk, fast):
                shutil.rmtree(f"{caches}/cache", ignore_errors=True)
        print("\n| from S3 | samples a second, best | all | the reader's CPU-µs a sample, median |")
        print("| --- | --- | --- | --- |")
        for name, values in rates.items():
            every = ", ".join(f"{value:,.0f}" for value in values)
            print(f"| {name} | {max(values):,.0f} | {every} | {median(costs[name]):.0f} |")
        bars = [
            Bar(f"S3, {what}", _ratio(rates[one], rates[other]), least, least=True)
            for what, one, other, least in (
                ("packed, of obstore alone", "packed", "obstore alone, packed ranges", 0.9),
                ("shards, of obstore alone", "shards", "obstore alone, shard ranges", 0.9),
                ("20 ms, of the rate without", "packed, through the proxy, 20 ms", "packed, through the proxy", 0.8),
                ("shards through an empty cache on disk, of packed", "shards, empty cache", "packed", 0.7),
                ("the same, the cache in memory", "shards, empty cache in memory", "packed", 0.7),
            )
            if one in rows and other in rows
        ]
        return bars + [bar for name in rows for bar in held(name, folder, url, disk)]


def reads(url: str, disk: str, fast: str) -> dict[str, Callable[[], object]]:
    """Every way to read the stage from a bucket once; those through a proxy open the bucket anew."""

    def through(latency: float, *, packed: bool) -> None:
        with behind(latency):
            streamed(url, packed=packed)

    return {
        "obstore alone, packed ranges": lambda: alone(url, packed=True),
        "packed": lambda: streamed(url),
        "obstore alone, shard ranges": lambda: alone(url, packed=False),
        "shards": lambda: streamed(url, packed=False),
        "shards, empty cache": lambda: cached(url, f"{disk}/cache"),
        "shards, full cache": lambda: cached(url, f"{disk}/cache"),
        "shards, empty cache in memory": lambda: cached(url, f"{fast}/cache"),
        "packed, through the proxy": lambda: through(0.0, packed=True),
        "packed, through the proxy, 20 ms": lambda: through(0.02, packed=True),
        "shards, through the proxy, 20 ms": lambda: through(0.02, packed=False),
    }


def held(name: str, folder: Path, url: str, disk: str) -> list[Bar]:
    """What reading in one of these ways holds in memory; of the packed tars, and of shards through an empty cache."""
    bars: list[Bar] = []
    for prefetch in (16, 64) if name in ("packed", "shards, empty cache") else ():
        cache = f"{disk}/memory-{prefetch}" if name != "packed" else ""
        os.environ |= {"BENCH_BUCKET": url, "BENCH_PREFETCH": str(prefetch * MIB), "BENCH_CACHE": cache}
        found = json.loads(run(_own(folder, "memory")))
        what = f"S3, {name}, prefetch {prefetch} MiB"
        print(f"\nmemory, {what}: " + ", ".join(f"{key} {found[key]:.4g}" for key in found))
        bars.append(Bar(f"{what}: MiB above it and two batches", found["above two batches"] - prefetch, 40))
        bars.append(Bar(f"{what}: growth from epoch 2 to 10, MiB", found["growth"], 16))
    return bars


def _ratio(rates: list[float], others: list[float]) -> float:
    """One rate of another, of the same turn: the median of all turns."""
    return median(rate / other for rate, other in zip(rates, others, strict=True))


def streamed(url: str, **options: object) -> int:
    from tarsia.manifests.stream import Stream

    stream = Stream(url, "bench/1", **options)  # type: ignore[arg-type]
    return sum(len(context.samples) for batch in stream for context in batch.contexts)


def cached(url: str, folder: str) -> int:
    from tarsia.manifests.stream import Cache

    return streamed(url, packed=False, cache=Cache(folder, 1 << 30))


def alone(url: str, *, packed: bool) -> int:
    """The hauls of a stream, read by obstore in as many threads; nothing is looked at."""
    from obstore import get_ranges

    from tarsia.manifests.ranges import PREFETCH, _hauls, threads_for
    from tarsia.manifests.stream import Stream

    stream = Stream(url, "bench/1", packed=packed)
    asked = map(stream._ask, range(stream.manifest.contexts))
    store = stream._ranges._store._store  # type: ignore[attr-defined]
    jobs = [one for haul in _hauls(((one, one.spans) for one in asked), stream._layout.haul) for one in haul.asked]

    def read(job: Any) -> None:
        stored, wanted = job
        starts, lengths = [one[0] for one in wanted], [one[1] for one in wanted]
        get_ranges(store, stored.path, starts=starts, lengths=lengths)

    with ThreadPoolExecutor(threads_for(PREFETCH)) as pool:
        list(pool.map(read, jobs))
    return SAMPLES


@contextmanager
def bucket(folder: Path) -> Iterator[str]:
    """The lake in a bucket of an S3 server, the one that the tests use."""
    sys.path.insert(0, str(ROOT / "tests"))
    from conftest import _free_ports, _serving

    from tarsia.builders.storage import open_store

    with tempfile.TemporaryDirectory() as place, _free_ports(4) as ports:
        (Path(place) / "data").mkdir()
        keys = {"accessKey": "tarsia", "secretKey": "inlay"}
        identity = {"name": "t", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List"]}
        (Path(place) / "s3.json").write_text(json.dumps({"identities": [identity]}))
        serving = _serving(Path(place), *ports)
        next(serving)
        try:
            here, there = open_store(str(folder / "lake")), open_store("s3://tarsia/bench/lake")
            for entry in here.list():
                if "million" not in entry.path:
                    there.replace(entry.path, here.read(entry.path))
            yield "s3://tarsia/bench/lake"
        finally:
            next(serving, None)


@contextmanager
def behind(latency: float) -> Iterator[None]:
    """Buckets opened now are reached through a proxy that adds latency to every request."""
    from proxy import Proxy

    from tarsia.builders import storage

    straight = os.environ["AWS_ENDPOINT_URL"]
    with Proxy(urlsplit(straight).port).running() as proxy:
        proxy.latency = latency
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{proxy.port}"
        storage._bucket.cache_clear()
        try:
            yield
        finally:
            os.environ["AWS_ENDPOINT_URL"] = straight
            storage._bucket.cache_clear()


# --- the lake -------------------------------------------------------------------------------------------------------


def fill(folder: Path) -> None:
    """A lake of one corpus, packed, and a stage of a million contexts; images have a header and noise for pixels."""
    from tarsia.builders.documents import read_catalog, read_recipe
    from tarsia.builders.lake import Lake
    from tarsia.pipelines.ingest import ingest
    from tarsia.pipelines.pack import pack
    from tarsia.pipelines.plan import make_plans
    from tarsia.pipelines.pool import open_pool

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
        pack(lake, ["bench/1"], pool, shard_bytes=64 << 20, quiet=True)
    multiply(lake.url)


def multiply(url: str) -> None:
    """A stage of a million contexts: those of the small one, again and again."""
    import pyarrow as pa

    from tarsia.builders.lake import Lake
    from tarsia.builders.tables import get_table, put_table
    from tarsia.manifests.stream import load_manifest
    from tarsia.schemas.identity import canonical

    store, manifest = Lake(url).store, load_manifest(url, "bench/1")
    times = -(-MILLION // manifest.contexts)
    contexts, samples = (get_table(store, manifest.tables[name]) for name in ("contexts", "samples"))
    many = pa.concat_tables([contexts] * times).slice(0, MILLION).combine_chunks()
    shift = np.arange(MILLION) // manifest.contexts * len(samples)
    first = pa.array(many["first"].to_numpy() + shift)
    many = many.set_column(many.column_names.index("first"), "first", first)
    tables = {
        "contexts": put_table(store, "stages/bench/million/contexts", many),
        "samples": put_table(store, "stages/bench/million/samples", pa.concat_tables([samples] * times)),
    }
    changes = {"name": "million", "contexts": MILLION, "tables": {**manifest.tables, **tables}}
    fields = manifest.model_copy(update=changes).model_dump(mode="json")
    store.replace("stages/bench/million/manifest.json", canonical(fields))


if __name__ == "__main__":
    main()

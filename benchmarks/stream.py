"""What reading costs the trainer, beside its peers in the same run: samples of a 50 KB image and half a KB of JSON.

    python benchmarks/stream.py                              # 5,000 samples in a temporary folder
    python benchmarks/stream.py --folder /tmp/bench          # kept: a second run finds it made
    python benchmarks/stream.py --peers /tmp/peers/bin/python   # with webdataset, litdata, megatron-energon there

Local figures are CPU time of one process on one core, the best of interleaved rounds, each in a process of its own.
From S3 (SeaweedFS on loopback) they are samples a second, the best of interleaved rounds, beside obstore reading the
same ranges without looking at them. Prints Markdown.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

ROOT = Path(__file__).parents[1]
SAMPLES, BYTES = 5_000, 50_000
MILLION = 1_000_000  # contexts of a stage
ROUNDS = 3
START = bytes.fromhex("ffd8ffc00011080280030003012200021101031101")  # the frame header of a JPEG of 640 x 768


def main() -> None:
    """Every figure, or one of them in a process of its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--peers", type=Path, help="a Python that has the peers")
    parser.add_argument("--only", help="one local figure, as JSON")
    given = parser.parse_args()
    if given.only:
        print(json.dumps(ONLY[given.only](str(given.folder / "lake"))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        if not (folder / "lake/stages/bench/million").exists():
            fill(folder)
        print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores\n")
        local(folder, given.peers)
        remote(folder)


# --- local ----------------------------------------------------------------------------------------------------------


def local(folder: Path, peers: Path | None) -> None:
    """CPU time a sample, start and resume."""
    own = [sys.executable, __file__, "--folder", str(folder), "--only"]
    rows = {name: [*own, name] for name in list(ONLY)[:6]}
    if peers:
        rows |= {
            name: [str(peers), str(ROOT / "benchmarks/peers/stream.py"), name, str(folder)]
            for name in ("litdata", "webdataset", "energon")
        }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in rows}
    for _ in range(ROUNDS):
        for name, command in rows.items():
            found[name].append(json.loads(run(command)))
    print("| local, warm | CPU-ms a sample | CPU-s to import and the first sample |\n| --- | --- | --- |")
    for name, results in found.items():
        costs = [one["cpu"] / one["samples"] * 1e3 for one in results]
        print(f"| {name} | {min(costs):.4f} | {min(one['start'] for one in results):.2f} |")
    for name in ("start", "account", "resume", "memory"):
        results = [json.loads(run([*own, name])) for _ in range(ROUNDS if name != "memory" else 1)]
        best = {key: min(one[key] for one in results) for key in results[0]}
        print(f"\n{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in best.items()))


def run(command: list[str]) -> str:
    """A process on one core; its last line."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, preexec_fn=lambda: os.sched_setaffinity(0, {0})
    )
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return done.stdout.splitlines()[-1]


def reading(lake: str, *, packed: bool, typed: bool = False) -> dict[str, float]:
    began = time.process_time()
    from tarsia.manifests.stream import Stream

    batches = iter(Stream(lake, "bench/1", packed=packed))
    next(batches)
    ready = time.process_time()
    count = 0
    for batch in batches:
        for context in batch.contexts:
            count += len(context.samples)
            if typed:
                assert all(one.sample.key for one in context.samples)
    return {"samples": count, "cpu": time.process_time() - ready, "start": ready - began}


def ranges(lake: str, *, check: bool) -> dict[str, float]:
    from tarsia.manifests.stream import Stream
    from tarsia.schemas.identity import checksum

    stream = Stream(lake, "bench/1", packed=False)
    spans = [span for number in range(stream.manifest.contexts) for span in stream._ask(number).spans]
    stream._ranges.read(spans[0])
    began = time.process_time()
    for span in spans:
        data = stream._ranges.read(span)
        if check:
            checksum(data)
    return {"samples": len(spans), "cpu": time.process_time() - began, "start": 0}


def start(lake: str) -> dict[str, float]:
    before = sum(os.times()[:2])
    from tarsia.manifests.stream import Stream

    imported, began = sum(os.times()[:2]), time.perf_counter()
    next(iter(Stream(lake, "bench/1")))
    return {"import CPU-s": imported - before, "first sample after it, ms": (time.perf_counter() - began) * 1e3}


def account(lake: str) -> dict[str, float]:
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


def resume(lake: str) -> dict[str, float]:
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


def memory(lake: str) -> dict[str, float]:
    from tarsia.manifests.stream import Stream

    sizes = []
    for batch in Stream(lake, "bench/1", epochs=10, batch=32):
        if batch.state["position"] == 0:
            sizes.append(resident())
    return {"MiB after epoch 1": sizes[0], "after 5": sizes[4], "after 10": sizes[-1], "peak": peak()}


ONLY: dict[str, Callable[[str], dict[str, float]]] = {
    "bare ranges": lambda lake: ranges(lake, check=False),
    "with checksums": lambda lake: ranges(lake, check=True),
    "tarsia, shards": lambda lake: reading(lake, packed=False),
    "tarsia, packed": lambda lake: reading(lake, packed=True),
    "tarsia, shards, records made": lambda lake: reading(lake, packed=False, typed=True),
    "tarsia, packed, records made": lambda lake: reading(lake, packed=True, typed=True),
    "start": start,
    "account": account,
    "resume": resume,
    "memory": memory,
    "bucket memory": lambda lake: bucket_memory(),
}


def resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def peak() -> float:
    """MiB at most; the kernel's other figure counts what the parent held before this process was another program."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


# --- from S3 --------------------------------------------------------------------------------------------------------


def remote(folder: Path) -> None:
    """Samples a second from a bucket."""
    with bucket(folder) as url, tempfile.TemporaryDirectory() as caches:
        rates: dict[str, list[float]] = {}

        def rate(name: str, read: Callable[[], int]) -> None:
            began = time.perf_counter()
            rates.setdefault(name, []).append(read() / (time.perf_counter() - began))

        for turn in range(ROUNDS):
            rate("obstore alone, packed ranges", lambda: alone(url, packed=True))
            rate("tarsia, packed", lambda: streamed(url))
            rate("obstore alone, shard ranges", lambda: alone(url, packed=False))
            rate("tarsia, shards", lambda: streamed(url, packed=False))
            rate("tarsia, shards through an empty cache", lambda folder=f"{caches}/{turn}": cached(url, folder))
            rate("tarsia, shards through a full cache", lambda folder=f"{caches}/{turn}": cached(url, folder))
            with behind(0.0):
                rate("tarsia, packed, through the proxy", lambda: streamed(url))
            with behind(0.02):
                rate("tarsia, packed, through the proxy with 20 ms", lambda: streamed(url))
                rate("tarsia, shards, through the proxy with 20 ms", lambda: streamed(url, packed=False))
        print("\n| from S3 | samples a second, best | all |\n| --- | --- | --- |")
        for name, values in rates.items():
            print(f"| {name} | {max(values):,.0f} | {', '.join(f'{value:,.0f}' for value in values)} |")
        os.environ["BENCH_BUCKET"] = url
        done = json.loads(run([sys.executable, __file__, "--folder", str(folder), "--only", "bucket memory"]))
        print("\nmemory, packed from S3, prefetch 16 MiB: " + ", ".join(f"{key} {done[key]:.4g}" for key in done))


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

    from tarsia.manifests.ranges import THREADS, _hauls
    from tarsia.manifests.stream import Stream

    stream = Stream(url, "bench/1", packed=packed)
    asked = map(stream._ask, range(stream.manifest.contexts))
    store = stream._ranges._store._store  # type: ignore[attr-defined]
    jobs = [one for haul in _hauls(((one, one.spans) for one in asked), stream._layout.haul) for one in haul.asked]
    with ThreadPoolExecutor(THREADS) as pool:
        list(
            pool.map(
                lambda job: len(
                    get_ranges(
                        store, job[0].path, starts=[one[0] for one in job[1]], lengths=[one[1] for one in job[1]]
                    )
                ),
                jobs,
            )
        )
    return SAMPLES


def bucket_memory() -> dict[str, float]:
    from tarsia.manifests.stream import Stream

    sizes = []
    for batch in Stream(os.environ["BENCH_BUCKET"], "bench/1", epochs=10, batch=32, prefetch=16 << 20):
        if batch.state["position"] == 0:
            sizes.append(resident())
    return {"MiB after epoch 1": sizes[0], "after 5": sizes[4], "after 10": sizes[-1], "peak": peak()}


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

"""What speaking costs, from `tarsia speak` down to its sidecars: servers, eSpeak, and runs that find everything done.

    python benchmarks/speak.py                             all parts, small
    python benchmarks/speak.py served --questions 100000   one part

    served   eight GPT-SoVITS-protocol servers that answer a fixed 2.5 s clip after 50 ms, beside bare loops that do
             nothing but ask (http.client, and httpx where it is installed); CPU of this process alone, the servers have
             one of their own. Ends with the bars: what was wanted, what was measured, whether it is met.
    espeak   the embedded engine on a list of short questions, one and two workers, sidecars compared
    book     reading the verdicts of a pool, fifty for each question, and looking all of them up
    parts    FLAC, the checks, normalisation, by themselves

Questions are ours: every pairing of the lists below, at most 100,000, of much the same length.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from itertools import product
from pathlib import Path
from typing import Any
from urllib.request import urlopen

sys.path.append(str(Path(__file__).parents[1] / "tests"))

import pyarrow as pa
from sovits_server import elsewhere, speech

from tarsia.builders.audio import encode_flac
from tarsia.builders.clips import SEGMENT, Book, names_of
from tarsia.builders.detectors import detector
from tarsia.builders.documents import read_catalog, read_recipe, read_voices
from tarsia.builders.evidence import Calibration, Range, judge, measure
from tarsia.builders.fleet import Fleet
from tarsia.builders.lake import Lake
from tarsia.builders.speech import spoken_form
from tarsia.builders.storage import open_store
from tarsia.builders.tables import to_parquet
from tarsia.builders.voices import Wave, gptsovits
from tarsia.pipelines.ingest import ingest
from tarsia.pipelines.pool import open_pool
from tarsia.pipelines.served import Converse
from tarsia.pipelines.speak import Speech, speak
from tarsia.schemas.identity import digest
from tarsia.schemas.voice import VERDICTS, Voice

try:
    import httpx
except ImportError:
    httpx = None

COLOURS = ["red", "green", "yellow", "purple", "silver", "brown", "orange", "black", "white", "golden"]
THINGS = ["bicycle", "teapot", "umbrella", "violin", "lantern", "suitcase", "curtain", "ladder", "basket", "pillow"]
PLACES = ("on the roof", "in the garden", "by the door", "under the table", "near the bridge",
          "at the station", "behind the house", "in the kitchen", "on the stairs", "beside the well")  # fmt: skip
OPENERS = ["What", "Why", "How", "Where", "When", "Whom", "Which", "Whose", "Whence", "Whither"]
DOINGS = ["doing", "hiding", "saying", "making", "buying", "seeing", "losing", "moving", "mending", "hanging"]
ENGLISH = [f"{o} is the {c} {t} {d} {p}?" for o, d, p, t, c in product(OPENERS, DOINGS, PLACES, THINGS, COLOURS)]
WHERE, OWN = ("屋顶上", "花园里", "门口", "桌子下", "桥边"), ("红色", "绿色", "黄色", "紫色", "银色")
OBJECTS = "自行车", "茶壶", "雨伞", "小提琴", "灯笼"
CHINESE = [f"{p}的{c}{t}是谁放的？" for c, t, p in product(OWN, OBJECTS, WHERE)]
OPTIONS = {"model": "v2", "ref_audio_path": "/r/a.wav", "prompt_lang": "en"}
VOICE = f"{{engine: gptsovits, language: en, options: {json.dumps(OPTIONS)}}}"


def fill(folder: Path, questions: int, *, chinese: bool = False) -> Lake:
    """A lake of so many questions, all of which are to be spoken."""
    texts = ENGLISH[:questions]
    entries = {"en": texts} | ({"zh": CHINESE} if chinese else {})
    for language, mine in entries.items():
        records = [{"id": str(n), "instruction": text, "output": "Nothing."} for n, text in enumerate(mine)]
        (folder / f"{language}.json").write_text(json.dumps(records))
    one = "  roofs-{0}: {{format: alpaca, kind: qa, language: {0}, licence: CC0, root: ., files: {0}.json}}\n"
    (folder / "catalog.yaml").write_text("corpora:\n" + "".join(one.format(language) for language in entries))
    (folder / "all.yaml").write_text(
        "model: all\nseed: 1\ncontext: {tokens: 600}\nstages:\n"
        "  all: {title: all, train: [llm], spoken: 100%, take: {qa: 100%}}\n"
    )
    lake = Lake(str(folder / "lake"))
    with open_pool(1) as pool:
        ingest(read_catalog(folder / "catalog.yaml"), lake, pool, quiet=True)
    return lake


def ask(folder: Path, lake: Lake, voices: str, workers: int) -> Speech:
    with open_pool(workers, patience=0.0) as pool:
        return speak(read_recipe(str(folder / "all.yaml")), lake, read_voices(voices), pool, quiet=True)


@contextmanager
def measured() -> Iterator[dict[str, float]]:
    """Wall and CPU seconds of a block in this process, and the memory that it held."""
    said: dict[str, float] = {}
    wall, cpu = time.perf_counter(), time.process_time()
    most, ended = [_resident()], threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            most.append(_resident())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield said
    finally:
        ended.set()
        thread.join()
        half = most[len(most) // 2 :]
        said |= {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        said |= {"MB before": most[0], "MB": max(most), "MB in the first half": max(most[: len(most) // 2] or half)}


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


def told(what: str, **figures: float | str) -> None:
    said = ", ".join(
        f"{name} {value if isinstance(value, str) else f'{value:,.2f}'}" for name, value in figures.items()
    )
    print(f"{what}: {said}", flush=True)


# --- parts of the benchmark -----------------------------------------------------------------------------------------


def served(questions: int, delay: float = 0.05, seconds: float = 2.5) -> None:
    """The rate of eight servers, the CPU of a clip, memory; then the run that finds everything done; then the bars."""
    with tempfile.TemporaryDirectory() as name, elsewhere(8, delay=delay, seconds=seconds, quick=True) as urls:
        folder, each = Path(name), max(20, min(questions, 2000) // 8)
        lake = fill(folder, questions)
        (folder / "anna.yaml").write_text(f"voices: {{anna: {VOICE}}}\nendpoints: {{gptsovits: {json.dumps(urls)}}}\n")
        ask_one(folder, urls)
        spans = watched()
        bare = {"http.client": loops(urls, each, by_http_client), "httpx": loops(urls, each, by_httpx)}
        driven, cheap = fleet(urls, 8 * each)
        with measured() as cost:
            report = ask(folder, lake, str(folder / "anna.yaml"), 1)
        spoken, asked = report.questions[0].spoken, requests(urls)
        assert spoken == questions, report
        clips, asking = spoken + 48, questions / sum(spans)
        told(
            "clips/s of bare loops",
            **{name: f"{rate:,.1f}" if rate else "not installed" for name, rate in bare.items()},
        )
        told("clips/s of a fleet that asks and checks", clips=driven, **{"CPU-ms a clip": cheap})
        told(
            f"clips/s of `speak`, {clips:,} clips with the calibration's",
            **{"while it asks": asking, "all steps": clips / cost["wall"], "CPU-ms a clip": cost["cpu"] / clips * 1e3},
            **{key: value for key, value in cost.items() if key.startswith("MB")},
        )
        rerun = again(folder, lake, str(folder / "anna.yaml"), questions)
        parts()
        can = 8 / delay if delay else max(filter(None, bare.values()))
        bar(f"requests/s of the {can:,.0f} that the servers can serve", asking / can, least=0.95)
        bar("CPU-ms a clip for transport, header and energy checks", cheap, most=3.0)
        bar(f"s for the second run over {questions:,} questions", rerun, most=10.0)
        bar("requests of the second run", requests(urls) - asked, most=0)


def bar(what: str, found: float, *, least: float | None = None, most: float | None = None) -> None:
    """One line: what is wanted, what was measured, whether that meets it."""
    met = found >= least if least is not None else found <= (most or 0)
    wanted = f"at least {least:g}" if least is not None else f"at most {most:g}"
    print(f"{'met    ' if met else 'NOT MET'}  {what}: {wanted}, measured {found:.3g}", flush=True)


def watched() -> list[float]:
    """Wall seconds of every task that asks servers for clips, as they end."""
    spans: list[float] = []
    whole = Converse.run

    def run(task: Converse) -> Any:
        began = time.perf_counter()
        try:
            return whole(task)
        finally:
            spans.append(time.perf_counter() - began)

    Converse.run = run  # type: ignore[method-assign]
    return spans


def fleet(urls: list[str], clips: int) -> tuple[float, float]:
    """Clips a second, and CPU-ms a clip, of a fleet that asks, judges and keeps nothing."""
    voice = Voice(name="w", engine="gptsovits", language="en", options=OPTIONS)
    orders = ((f"c{number}", gptsovits.request(voice, text)) for number, text in enumerate(ENGLISH[:clips]))
    calibration = Calibration(clips=48, rate=32_000, pace=Range(least=0.1, most=10.0), tail=0.3)
    with measured() as cost, Fleet(urls, gptsovits, lambda asked, wave: judge(wave, asked.text, calibration)) as many:
        accepted = sum(isinstance(outcome.speech, Wave) for outcome in many.speak(orders))
    assert accepted == clips
    return clips / cost["wall"], cost["cpu"] / clips * 1e3


def ask_one(folder: Path, urls: list[str]) -> None:
    """Imports, first connections and costs are not counted."""
    small = folder / "small"
    small.mkdir()
    lake = fill(small, 20)
    (small / "warm.yaml").write_text(f"voices: {{w: {VOICE}}}\nendpoints: {{gptsovits: {json.dumps(urls)}}}\n")
    ask(small, lake, str(small / "warm.yaml"), 1)


def again(folder: Path, lake: Lake, voices: str, questions: int) -> float:
    before = lake.snapshot()
    with measured() as cost:
        report = ask(folder, lake, voices, 1)
    assert sum(one.spoken for one in report.questions) == questions
    assert lake.snapshot() == before
    told(f"cached, {questions:,} questions", wall=cost["wall"], CPU=cost["cpu"], MB=cost["MB"])
    return cost["wall"]


BODY = {"text": ENGLISH[0], "text_lang": "en", "ref_audio_path": "/r/a.wav", "prompt_lang": "en"}


def by_http_client(url: str, times: int) -> None:
    with closing(HTTPConnection(url.removeprefix("http://"))) as connection:
        for _ in range(times):
            connection.request("POST", "/tts", json.dumps(BODY), {"content-type": "application/json"})
            assert len(connection.getresponse().read()) > 10_000


def by_httpx(url: str, times: int) -> None:
    with httpx.Client(timeout=60, trust_env=False) as client:
        for _ in range(times):
            assert len(client.post(f"{url}/tts", json=BODY).content) > 10_000


def loops(urls: list[str], each: int, loop: Callable[[str, int], None]) -> float:
    """Clips a second of loops that do nothing but ask; 0 where their library is not installed."""
    if loop is by_httpx and httpx is None:
        return 0.0
    threads = [threading.Thread(target=loop, args=(url, each)) for url in urls]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return each * len(urls) / (time.perf_counter() - began)


def requests(urls: list[str]) -> int:
    asked = 0
    for url in urls:
        with urlopen(f"{url}/counts") as answer:
            asked += json.load(answer)["asked"]
    return asked


def espeak(questions: int) -> None:
    """Clips a CPU-second of the embedded engine, and whether one and two workers make the same sidecars."""
    made = []
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            lake = fill(folder, questions, chinese=True)
            with measured() as cost:
                report = ask(folder, lake, "espeak", workers)
            spoken = sum(one.spoken for one in report.questions)
            seconds = sum(one.hours for one in report.voices) * 3600
            rate = {"clips a CPU-second": spoken / cost["cpu"]} if workers == 1 else {}  # children are not counted
            told(f"espeak, {workers} workers, {spoken:,} clips of {seconds / spoken:.2f} s", wall=cost["wall"], **rate)
            made.append([stored.digest for s in lake.snapshot().speech for x in s.shards for stored in x.objects])
            if workers == 2:
                again(folder, lake, "espeak", spoken)
    told("sidecars of one and two workers", equal=str(made[0] == made[1]))


def book(verdicts: int) -> None:
    """What it takes to read the verdicts of a pool and look all of them up."""
    with tempfile.TemporaryDirectory() as name:
        store = open_store(name)
        clips = [digest(str(number).encode())[:32] for number in range(verdicts)]
        for number, begin in enumerate(range(0, verdicts, SEGMENT), 1):
            mine = clips[begin : begin + SEGMENT]
            row = {"voice": "anna", "engine": "gptsovits", "language": "en", "seeds": 1, "samples": 80_000}
            row |= {"rate": 32_000, "samples16": 40_000, "tar": f"clips/p/{begin:016x}.tar", "size": 70_000}
            rows = [
                {
                    **row,
                    "clip": clip,
                    "spoken": ENGLISH[(begin + at) % 100_000],
                    "offset": at << 17,
                    "checksum": begin + at,
                }
                for at, clip in enumerate(mine)
            ]
            data = to_parquet(pa.Table.from_pylist(rows, VERDICTS))
            store.create(f"verdicts/p/{number:08d}.parquet", data)
        with measured() as reading:
            known = Book(store, "p")
            known.refresh()
        with measured() as finding:
            found = known.find(names_of(clips))
        assert (found == range(verdicts)).all()
        told(
            f"book, {verdicts:,} verdicts",
            **{"read, s": reading["wall"], "read, CPU s": reading["cpu"], "looked up, CPU s": finding["cpu"]},
            MB=finding["MB"] - reading["MB before"],
        )


def parts() -> None:
    """What is reported apart: CPU-ms of a clip of 2.5 s at 32 kHz, and of a question."""
    silero = detector("silero")
    wave = Wave(speech("What?", 2.2, 32_000), 32_000)
    jobs = {
        "FLAC": lambda: encode_flac(wave.samples, wave.rate),
        "checks (level, pauses, speech by energy)": lambda: measure(wave),
        "the same with Silero": lambda: measure(wave, silero),
        "normalisation": lambda: spoken_form(ENGLISH[0], "en"),
    }
    figures = {}
    for name, job in jobs.items():
        job()
        began = time.process_time()
        for _ in range(200):
            job()
        figures[name] = (time.process_time() - began) / 200 * 1e3
    told("CPU-ms of a clip", **figures)


def main() -> None:
    wanted = argparse.ArgumentParser()
    wanted.add_argument("part", nargs="?", choices=("served", "espeak", "book", "parts"))
    wanted.add_argument("--questions", type=int, default=2000)
    wanted.add_argument("--delay", type=float, default=0.05)
    wanted.add_argument("--seconds", type=float, default=2.5)
    given = wanted.parse_args()
    if given.part in (None, "parts"):
        parts()
    if given.part in (None, "book"):
        book(50 * given.questions)
    if given.part in (None, "espeak"):
        espeak(given.questions)
    if given.part in (None, "served"):
        served(given.questions, given.delay, given.seconds)


if __name__ == "__main__":
    main()

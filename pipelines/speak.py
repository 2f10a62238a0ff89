"""`tarsia speak`: voices ask about half of the questions that a recipe selects.

Per stage and corpus, the selected questions that can be spoken are walked in the order of their spoken draw until the
quota holds accepted clips. Each step of the walk asks only for what is still missing, so refusals are made up for and
nothing is spoken that no stage hears. What was decided goes into sidecar shards (`pipelines.sidecars`).

What no sidecar and no verdict knows (`pipelines.job`) goes into a table of orders, by voice and then in draw order, and
tasks speak ranges of it: embedded engines in all workers, servers as `pipelines.served` tells.

Where a server fails, its questions stay pending: they keep their place in the walk, and running the same command again
asks for them.
"""

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tarsia.builders.clips import SEGMENT, Book, Script, Sealer, ask, get_orders, get_pool, put_orders
from tarsia.builders.desk import Tally
from tarsia.builders.endpoints import Unwell
from tarsia.builders.fleet import STRIKES, standing_out
from tarsia.builders.fleet import pause as usual_pause
from tarsia.builders.hearing import settle
from tarsia.builders.lake import Lake
from tarsia.builders.storage import open_store
from tarsia.pipelines.job import Job, Overtaken
from tarsia.pipelines.overtake import is_overtaken, sweep
from tarsia.pipelines.pool import Pool as Workers
from tarsia.pipelines.progress import Progress
from tarsia.pipelines.served import Converse, calibration_tasks, check_references, fields, lanes, served
from tarsia.pipelines.tasks import Task
from tarsia.pipelines.told import Spoken
from tarsia.schemas.errors import BadVoices, Refused, TarsiaError
from tarsia.schemas.model import Model
from tarsia.schemas.recipe import Recipe
from tarsia.schemas.voice import Pool

WATCH = 5.0  # s between two looks at what was sealed


class Voiced(Model):
    """What one voice did in this run."""

    voice: str
    asked: int  # draws
    accepted: int  # clips
    refused: dict[str, int]  # draws, by reason
    unwell: dict[str, int]  # answers that decide nothing, by what its servers failed with
    hours: float  # of accepted speech
    working: float  # s of work for each second of speech, at one server or in one process
    usual: float | None = None  # where its refusals stand out: the share of a voice in the middle


class Speech(Model):
    """The report of one run."""

    questions: tuple[Spoken, ...] = ()
    voices: tuple[Voiced, ...] = ()


def speak(
    recipe: Recipe,
    lake: Lake,
    pool: Pool,
    workers: Workers,
    *,
    only: Sequence[str] = (),
    quiet: bool = False,
    wait: float = 0.0,
    pause: Callable[[int], float] = usual_pause,
) -> Speech:
    """Has the pool speak what the stages of the recipe ask for, and publishes the sidecars.

    When the servers give up, what was decided is published. If they have spoken in this run, they are asked again for
    `wait` seconds; then their error is raised. `pause` says how long a server is left alone after so many faults in a
    row.
    """
    unseen = check_references(pool)  # tells what is wrong with the pool before all work
    servers = served(pool)
    settle(lake.store, pool)
    if unseen and not quiet:
        print(f"the reference clips of {_some(unseen)} are not here and were not checked", file=sys.stderr)
    tallies: dict[str, Tally] = {}
    outage = _Outage(wait, pause, quiet=quiet)
    sweep(lake)  # after a job that was killed while a takedown went on
    while True:
        job = Job(recipe, lake, pool, workers, only=only, quiet=quiet)
        try:
            stopped = _decide(job, servers, tallies, pause)
        except Overtaken:
            continue
        if job.publish() and not outage.goes_on(stopped, sum(one.accepted for one in tallies.values())):
            break
    if stopped:
        raise stopped
    return Speech(questions=tuple(job.report()), voices=tuple(voiced(tallies)))


class _Outage:
    """Waits for servers that have spoken in this run and are all away, up to `most` seconds at a time."""

    def __init__(self, most: float, pause: Callable[[int], float], *, quiet: bool) -> None:
        self._most, self._pause, self._quiet = most, pause, quiet
        self._accepted, self._until = 0, 0.0

    def goes_on(self, stopped: TarsiaError | None, accepted: int) -> bool:
        """Whether to try again, after a pause; `accepted`: clips of the run so far."""
        if not isinstance(stopped, Unwell) or not accepted or not self._most:
            return False
        if accepted > self._accepted:
            self._accepted, self._until = accepted, time.monotonic() + self._most
            if not self._quiet:
                print(f"{stopped}\nwaiting for them for {self._most / 60:.0f} minutes", file=sys.stderr)
        if time.monotonic() > self._until:
            return False
        time.sleep(self._pause(STRIKES))
        return True


def _decide(
    job: Job, servers: dict[str, Any], tallies: dict[str, Tally], pause: Callable[[int], float]
) -> TarsiaError | None:
    """Has a job's questions decided, as far as that goes; what has stopped it, if anything did."""
    while True:
        orders = job.missing()
        if not len(orders):
            if job.settled():
                return None
            continue
        try:
            if not _speak(orders, job, servers, tallies, pause):
                return None
        except (Unwell, BadVoices) as error:
            job.book.refresh()
            job.missing()  # takes what was decided before that
            return error


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


# --- speaking -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Speak:
    """Has embedded voices speak the orders of a script from row `begin` up to row `end`."""

    lake: str
    script: Script
    begin: int
    end: int
    record: str = ""

    def run(self) -> Any:
        """What came of it."""
        store, tallies = open_store(self.lake), dict[str, Tally]()
        pool = get_pool(store, self.script)
        with Sealer(store, self.script.pool) as sealer:
            for order in get_orders(store, self.script, self.begin, self.end):
                began = time.monotonic()
                decided = ask(order, pool)
                tally = tallies.setdefault(order.voice.name, Tally())
                tally.asked += 1
                tally.waited += time.monotonic() - began
                if isinstance(speech := decided.speech, Refused):
                    tally.refused[speech.code] += 1
                else:
                    tally.accepted += 1
                    tally.audio += len(speech.samples) / speech.rate
                sealer.add(decided)
        return {"pending": {}, "fault": None, "voices": fields(tallies)}


def _speak(
    orders: pa.Table, job: Job, servers: dict[str, Any], tallies: dict[str, Tally], pause: Callable[[int], float]
) -> bool:
    """Has the orders spoken, or as many as their time allows; False when nobody could decide anything any more."""
    store, workers = job.lake.store, job.workers
    engines = np.array([voice.engine for voice in job.pool.voices])[orders["voice"].to_numpy()]
    wanted = [job.pool.voices[number].name for number in np.unique(orders["voice"].to_numpy()).tolist()]
    for measuring in calibration_tasks(store, job.lake.url, job.pool, wanted, workers, pause):
        for _, result in workers.map(measuring, at_once=True):
            if result["fault"]:
                raise Unwell(*result["fault"])
    script = put_orders(store, job.pool, orders)
    at_home: list[Speak] = []
    abroad: list[Converse] = []
    for engine in np.unique(engines).tolist():
        begin, end = (int(np.searchsorted(engines, engine, side)) for side in ("left", "right"))
        if engine not in servers:
            at_home += [
                Speak(job.lake.url, script, first, min(first + SEGMENT, end)) for first in range(begin, end, SEGMENT)
            ]
            continue
        share = lanes(job.pool.endpoints[engine], workers, end - begin)
        edges = np.linspace(begin, end, len(share) + 1).astype(int).tolist()
        abroad += [
            Converse(job.lake.url, script, engine, first, last, endpoints, job.book.newest, pause)
            for endpoints, first, last in zip(share, edges, edges[1:], strict=False)
        ]
    before, faults = job.book.written, []
    hands = sum(len(task.endpoints) for task in abroad) or workers.workers
    try:
        if is_overtaken(job.lake, job.snapshot, job.told):
            raise Overtaken
        with _Watch(job.book, len(orders), hands, quiet=job.quiet):
            kinds: tuple[tuple[Sequence[Task], bool], ...] = (at_home, False), (abroad, True)
            for tasks, at_once in kinds:
                for _, result in workers.map(tasks, at_once=at_once):
                    job.pending |= result["pending"]
                    faults += [result["fault"]] if result["fault"] else []
                    _add(tallies, result["voices"])
    finally:
        sweep(job.lake, script.path)
        store.delete(script.path)
    if faults and len(faults) == len(abroad):
        raise Unwell(*faults[-1])
    job.book.refresh()
    return job.book.written > before


def _add(tallies: dict[str, Tally], voices: dict[str, Any]) -> None:
    for name, counts in voices.items():
        tally = tallies.setdefault(name, Tally())
        for field in ("asked", "accepted", "audio", "waited"):
            setattr(tally, field, getattr(tally, field) + counts[field])
        tally.refused.update(counts["refused"])
        tally.unwell.update(counts["unwell"])


def voiced(tallies: dict[str, Tally]) -> Iterable[Voiced]:
    """What each voice did, by name; those that stand out are marked."""
    loud, usual = standing_out(tallies)
    for name, tally in sorted(tallies.items()):
        yield Voiced(
            voice=name,
            asked=tally.asked,
            accepted=tally.accepted,
            refused=dict(sorted(tally.refused.items())),
            unwell=dict(sorted(tally.unwell.items())),
            hours=round(tally.audio / 3600, 4),
            working=round(tally.waited / tally.audio, 4) if tally.audio else 0.0,
            usual=round(usual, 4) if name in loud else None,
        )


class _Watch:
    """Tells how far the voices are, by what is sealed: whoever does the work, and wherever."""

    def __init__(self, book: Book, total: int, hands: int, *, quiet: bool) -> None:
        self._book, self._hands, self._quiet = book, hands, quiet
        self._progress = Progress("speak", "clips", quiet=quiet)
        self._progress.start(total)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._began = time.monotonic()
        self._audio = 0.0  # s
        self._refused: Counter[str] = Counter()

    def __enter__(self) -> Self:
        if not self._quiet:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if not self._quiet:
            self._thread.join()
        self._progress.stop()

    def _work(self) -> None:
        while not self._ended.wait(WATCH):
            try:
                fresh = self._book.refresh()
            except TarsiaError:  # whoever needs it will say so
                continue
            self._audio += pc.sum(fresh["samples16"]).as_py() or 0
            self._refused.update(fresh["reason"].drop_null().to_pylist())
            if len(fresh):
                self._progress.step(len(fresh), self._note())

    def _note(self) -> str:
        seconds = self._audio / 16_000
        pace = (time.monotonic() - self._began) * self._hands / seconds if seconds else 0.0
        refused = ", ".join(f"{reason} {count:,}" for reason, count in self._refused.most_common(5))
        said = f"{seconds / 3600:.2f} h of speech, real-time factor {pace:.3f} on each of {self._hands}"
        return f"{said}, refused: {refused}" if refused else said

"""Orders for engines that are servers, spoken in tasks: a task has some endpoints for itself, for ten minutes at most.

Who holds an endpoint is a question of who runs a task, and the command that starts the tasks answers it: every
endpoint belongs to one task at a time, and is free again when that task has ended, or died. So no lease must be
renewed, no clock compared, and there is one request in flight on an endpoint, whatever happens to its worker.

A task asks through a fleet (`builders.fleet`), judges what comes, and seals it as it comes. Nothing is recorded but
verdicts: what a stopped task has sealed is known to the next, which asks for the rest. A voice is calibrated before it
speaks, on texts of our own; what it sounds like is published, once and for all, and every clip is judged by that.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from tarsia.builders.calibration import CALIBRATION
from tarsia.builders.clips import Book, Decided, Order, Script, Sealer, accept, get_orders, get_pool, names_of
from tarsia.builders.desk import Tally
from tarsia.builders.detectors import detector
from tarsia.builders.endpoints import Unwell
from tarsia.builders.evidence import Calibration, calibrate, judge, sound_of
from tarsia.builders.fleet import Fleet
from tarsia.builders.fleet import pause as usual_pause
from tarsia.builders.hearing import listener
from tarsia.builders.recognisers import Transcript
from tarsia.builders.storage import Store, open_store
from tarsia.builders.voices import Wave, find, is_served
from tarsia.pipelines.pool import Pool as Workers
from tarsia.schemas.errors import BadVoices, Exists, NotThere, Refused
from tarsia.schemas.identity import canonical
from tarsia.schemas.voice import Pool, Voice

LEASE = 600.0  # s for which a task holds its endpoints; then it takes no more orders
LANE = 4  # endpoints of a task, at least: where one fails an order, others are there to try it
LANE_ORDERS = 256  # orders of a task, at least: fewer are not worth a process
SWITCH = 0.0001  # s
_AHEAD = 4096  # orders that are compared with what was sealed meanwhile at one go
_SILENCE = Wave(np.zeros(0, np.int16), 16_000)


def served(pool: Pool) -> dict[str, Any]:
    """The engines of the pool that are servers. `BadVoices` if one cannot be asked as the pool says."""
    engines = {voice.engine: find(voice.engine, f"voice '{voice.name}'") for voice in pool.voices}
    servers = {name: engine for name, engine in engines.items() if is_served(engine)}
    for name in servers:
        if not pool.endpoints.get(name):
            raise BadVoices(
                f"pool '{pool.name}': engine '{name}' is a server, and the pool does not say where; "
                f"add, beside 'voices': endpoints: {{{name}: ['http://host:port']}}"
            )
    for voice in pool.voices:
        if voice.engine in servers:
            with suppress(Refused):
                servers[voice.engine].request(voice, "OK")  # a wrong option is told before all work
    return servers


def check_references(pool: Pool) -> list[str]:
    """Checks the reference clips that are readable here; the voices whose are not."""
    unseen = []
    for voice in pool.voices:
        check = getattr(find(voice.engine), "check", None)
        if check and not check(voice):
            unseen.append(voice.name)
    return unseen


def lanes(endpoints: Sequence[str], workers: Workers, orders: int) -> list[tuple[str, ...]]:
    """The endpoints of each task that is to run at the same time."""
    most = min(workers.workers, len(endpoints) // LANE, orders // LANE_ORDERS)
    return [tuple(endpoints[number :: max(1, most)]) for number in range(max(1, most))]


@dataclass(frozen=True)
class Converse:
    """Asks some endpoints for the orders of a script from row `begin` up to row `end`, as many as the time allows."""

    lake: str
    script: Script
    engine: str
    begin: int
    end: int
    endpoints: tuple[str, ...]
    after: int  # the newest segment of verdicts that the script knew
    pause: Callable[[int], float] = usual_pause
    seconds: float = LEASE
    record: str = ""

    def run(self) -> Any:
        """What came of it, and why it gave up if it did."""
        store = open_store(self.lake)
        pool, engine = get_pool(store, self.script), find(self.engine)
        measured, detect = calibrations(store, pool, self.engine), detector(pool.detector)
        languages = {voice.name: voice.language for voice in pool.voices}
        until = time.monotonic() + self.seconds
        asked: dict[str, Order] = {}
        pending: dict[str, str] = {}
        fault = None

        def judged(request: Any, wave: Wave) -> None:
            judge(wave, request.text, measured[request.voice], detect)
            accept(wave)

        def listened(request: Any, wave: Wave) -> Transcript | None:
            judged(request, wave)
            return listener(pool.check).listen(wave, request.text, languages[request.voice]) if pool.check else None

        def requests() -> Iterator[tuple[str, Any]]:
            for order in self._left(store):
                if time.monotonic() > until:
                    return
                try:
                    request = engine.request(order.voice, order.spoken)
                except Refused as refused:  # there is nothing to say
                    sealer.add(Decided(order, refused, 0))
                    continue
                asked[order.clip] = order
                yield order.clip, request

        rates = {name: one.rate for name, one in measured.items()}
        heed, listen = (_unheeded, listened) if pool.check or detect else (judged, None)
        fleet = Fleet(self.endpoints, engine, heed, listen=listen, rates=rates, pause=self.pause)
        with _lively(), Sealer(store, pool.name) as sealer, fleet:
            try:
                for clip, speech, seeds, transcript in fleet.speak(requests()):
                    order = asked.pop(clip)
                    if isinstance(speech, Unwell):
                        pending[clip] = speech.code
                    else:
                        sealer.add(Decided(order, speech, seeds, transcript))
            except Unwell as error:
                fault = error.code, error.message
            return {"pending": pending, "fault": fault, "voices": fields(fleet.statistics().voices)}

    def _left(self, store: Store) -> Iterator[Order]:
        """The orders that nobody has decided since the script was written: this task may be one that is run again."""
        known = Book(store, self.script.pool, after=self.after)
        known.refresh()
        orders = get_orders(store, self.script, self.begin, self.end)
        while ahead := list(islice(orders, _AHEAD)):
            found = known.find(names_of(order.clip for order in ahead))
            yield from (order for order, row in zip(ahead, found, strict=True) if row < 0)


def _unheeded(request: Any, wave: Wave) -> None:
    """Where judging takes its time, `listen` does all of it, in threads of its own."""


@contextmanager
def _lively() -> Iterator[None]:
    """Threads wait for each other no longer than a tenth of a millisecond: a server whose answer is not taken is idle.

    Eight servers of 50 ms gave 0.86 of what they can on a busy machine; with 0.5 ms 0.81, with the usual 5 ms 0.76.
    """
    usual = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


def fields(voices: dict[str, Tally]) -> dict[str, Any]:
    """Counts for a page of JSON."""
    return {
        name: {**vars(tally), "refused": dict(tally.refused), "unwell": dict(tally.unwell)}
        for name, tally in voices.items()
    }


# --- calibration ----------------------------------------------------------------------------------------------------


def calibrations(store: Store, pool: Pool, engine: str) -> dict[str, Calibration]:
    """What is known of the voices of an engine, by name."""
    known = {}
    for voice in pool.voices:
        if voice.engine == engine:
            with suppress(NotThere):
                known[voice.name] = Calibration.model_validate_json(store.read(_path(pool, voice)))
    return known


def _path(pool: Pool, voice: Voice) -> str:
    detected = "" if pool.detector == "energy" else f"-{pool.detector}"
    return f"voices/{pool.name}/{voice.identity(find(voice.engine).version())}{detected}.json"


@dataclass(frozen=True)
class Calibrate:
    """Measures voices of one engine and publishes what was found; the first that is written holds."""

    lake: str
    pool: Pool
    engine: str
    voices: tuple[str, ...]
    endpoints: tuple[str, ...]
    pause: Callable[[int], float] = usual_pause
    record: str = ""

    def run(self) -> Any:
        """Why it gave up, if it did."""
        store, engine = open_store(self.lake), find(self.engine)
        voices = {voice.name: voice for voice in self.pool.voices if voice.name in self.voices}
        texts = {
            f"{_path(self.pool, voice)} {number}": (voice, text)
            for voice in voices.values()
            for number, text in enumerate(_texts(voice))
        }
        heard: dict[str, list[tuple[str, Wave]]] = {name: [] for name in voices}
        unwell: dict[str, list[Unwell]] = {name: [] for name in voices}
        requests = ((name, engine.request(voice, text)) for name, (voice, text) in texts.items())
        detect = detector(self.pool.detector)

        def plausible(_: Any, wave: Wave) -> None:
            sound_of(wave, detect)
            accept(wave)

        with Fleet(self.endpoints, engine, plausible, pause=self.pause) as fleet:
            try:
                for name, speech, *_ in fleet.speak(requests):
                    voice, text = texts[name]
                    if isinstance(speech, Unwell):
                        unwell[voice.name].append(speech)
                    else:
                        heard[voice.name].append((text, speech if isinstance(speech, Wave) else _SILENCE))
            except Unwell as error:
                return {"fault": (error.code, error.message)}
        for name, voice in voices.items():
            try:
                found = calibrate(heard[name], detect)
            except BadVoices as error:
                if not unwell[name]:
                    raise BadVoices(f"voice '{name}': {error}") from error
                last, failed = unwell[name][-1], len(unwell[name])
                said = (
                    f"voice '{name}' could not be calibrated yet, run again to go on; {failed} of {len(_texts(voice))}"
                )
                return {"fault": (last.code, f"{said} clips failed: {last.message}")}
            with suppress(Exists):
                store.create(_path(self.pool, voice), canonical(found.model_dump(mode="json")))
        return {"fault": None}


def _texts(voice: Voice) -> tuple[str, ...]:
    if voice.language not in CALIBRATION:
        raise BadVoices(
            f"voice '{voice.name}': there are no texts to calibrate '{voice.language}' on, "
            f"only {', '.join(map(repr, CALIBRATION))}"
        )
    return CALIBRATION[voice.language]


def calibration_tasks(
    store: Store, lake: str, pool: Pool, names: Iterable[str], workers: Workers, pause: Callable[[int], float]
) -> Iterator[list[Calibrate]]:
    """For each engine, tasks that calibrate those of the named voices that never were."""
    wanted = set(names)
    for engine in served(pool):
        known = calibrations(store, pool, engine)
        new = [v.name for v in pool.voices if v.engine == engine and v.name in wanted and v.name not in known]
        if new:
            share = lanes(pool.endpoints[engine], workers, LANE_ORDERS * len(new))
            yield [
                Calibrate(lake, pool, engine, tuple(new[number :: len(share)]), endpoints, pause)
                for number, endpoints in enumerate(share)
            ]

"""Orders for engines that are servers: spoken from this process, by one fleet an engine, and sealed as they come.

One process drives a fleet, since two fleets on one endpoint would break the rule of one request in flight. Nothing is
recorded but verdicts: what a stopped run has sealed is known to the next, which asks for the rest.

A voice is calibrated on its own first orders, judged leniently; what it sounds like is then published, once and for
all, and every clip is judged by that, those of the calibration too.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Self

import numpy as np

from tarsia.builders.clips import SEGMENT, Order, accept, seal
from tarsia.builders.endpoints import Unwell
from tarsia.builders.evidence import CALIBRATION_LEAST, Calibration, calibrate, judge, sound_of
from tarsia.builders.fleet import Fleet
from tarsia.builders.fleet import pause as usual_pause
from tarsia.builders.hearing import listener
from tarsia.builders.storage import Store
from tarsia.builders.voices import Wave, find, is_served
from tarsia.pipelines.progress import Progress
from tarsia.schemas.errors import BadVoices, Exists, NotThere, Refused
from tarsia.schemas.identity import canonical
from tarsia.schemas.voice import Pool, Voice

SECONDS = 30.0  # s after which fewer are sealed: what a killed run can lose
CALIBRATION = 60  # orders that a voice is calibrated on; spreads of fewer are rough, more cost a busy server; ours
_SILENCE = Wave(np.zeros(0, np.int16), 16_000)


class Studio:
    """The servers of a pool at work for one lake. A context manager; its fleets are made when they are needed."""

    def __init__(
        self, store: Store, pool: Pool, *, pause: Callable[[int], float] = usual_pause, quiet: bool = False
    ) -> None:
        self._store = store
        self._pool = pool
        self._pause = pause
        self._quiet = quiet
        self._fleets: dict[str, Fleet[Any]] = {}
        self._calibrations: dict[str, Calibration] = {}  # by the voice's name
        engines = {voice.engine: find(voice.engine, f"voice '{voice.name}'") for voice in pool.voices}
        self._engines = {name: engine for name, engine in engines.items() if is_served(engine)}
        for name in self._engines:
            if not pool.endpoints.get(name):
                raise BadVoices(
                    f"pool '{pool.name}': engine '{name}' is a server, and the pool does not say where; "
                    f"add, beside 'voices': endpoints: {{{name}: ['http://host:port']}}"
                )
        for voice in pool.voices:
            if self.serves(voice):
                with suppress(Refused):
                    self._engines[voice.engine].request(voice, "OK")  # a wrong option is told before all work

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for fleet in self._fleets.values():
            fleet.close()

    def serves(self, voice: Voice) -> bool:
        """Whether a voice is one of a server."""
        return voice.engine in self._engines

    def speak(self, orders: Sequence[Order]) -> dict[str, Unwell]:
        """Has the orders spoken and seals what came of them; the clips that are still pending, and why."""
        pending: dict[str, Unwell] = {}
        progress = Progress("speak", "clips of servers", quiet=self._quiet)
        progress.start(len(orders))
        sealer = _Sealer(self._store, self._pool.name, progress)
        try:
            for name in self._engines:
                mine = [order for order in orders if order.voice.engine == name]
                if mine:
                    pending |= self._speak(name, mine, sealer)
        finally:
            progress.stop()
            sealer.seal()
        return pending

    def _speak(self, engine: str, orders: Sequence[Order], sealer: "_Sealer") -> dict[str, Unwell]:
        fleet = self._fleet(engine)
        voices = {order.voice.name: order.voice for order in orders}
        new = {name: [order for order in orders if order.voice.name == name] for name in voices}
        new = {name: mine[:CALIBRATION] for name, mine in new.items() if name not in self._calibrations}
        for name, mine in new.items():
            if len(mine) < CALIBRATION_LEAST:
                raise BadVoices(
                    f"voice '{name}' cannot be calibrated: {len(mine)} questions are for it, at least "
                    f"{CALIBRATION_LEAST} are needed; speak more stages at once, or have fewer voices in the pool"
                )
        pending: dict[str, Unwell] = {}
        for name, mine in new.items():
            pending |= self._calibrate(voices[name], mine, fleet, sealer)
        left = {order.clip: order for order in orders if order.clip not in sealer.decided | pending.keys()}
        for clip, speech, seeds in fleet.speak(self._requests(list(left.values()), sealer)):
            if isinstance(speech, Unwell):
                pending[clip] = speech
            else:
                sealer.add(left[clip], speech, seeds)
        return pending

    def _requests(self, orders: Iterable[Order], sealer: "_Sealer") -> Iterator[tuple[str, Any]]:
        """What to ask for; a text in which there is nothing to say is refused without asking."""
        for order in orders:
            try:
                request = self._engines[order.voice.engine].request(order.voice, order.spoken)
            except Refused as refused:
                sealer.add(order, refused, 0)
                continue
            yield order.clip, request

    # --- calibration

    def _fleet(self, engine: str) -> Fleet[Any]:
        if engine not in self._fleets:
            for voice in self._pool.voices:
                if voice.engine == engine:
                    with suppress(NotThere):
                        self._read(voice)
            rates = {name: calibration.rate for name, calibration in self._calibrations.items()}
            urls, module = self._pool.endpoints[engine], self._engines[engine]
            listen = self._listen if self._pool.check else None
            self._fleets[engine] = Fleet(urls, module, self._judge, listen=listen, rates=rates, pause=self._pause)
        return self._fleets[engine]

    def _judge(self, request: Any, wave: Wave) -> None:
        """By the voice's calibration; leniently while it has none."""
        calibration = self._calibrations.get(request.voice)
        if calibration:
            judge(wave, request.text, calibration)
        else:
            sound_of(wave)
        accept(wave)

    def _listen(self, request: Any, wave: Wave) -> None:
        assert self._pool.check
        language = next(voice.language for voice in self._pool.voices if voice.name == request.voice)
        listener(self._pool.check).listen(wave, request.text, language)

    def _path(self, voice: Voice) -> str:
        identity = voice.identity(self._engines[voice.engine].version())
        return f"voices/{self._pool.name}/{identity}.json"

    def _read(self, voice: Voice) -> None:
        self._calibrations[voice.name] = Calibration.model_validate_json(self._store.read(self._path(voice)))

    def _calibrate(
        self, voice: Voice, orders: Sequence[Order], fleet: Fleet[Any], sealer: "_Sealer"
    ) -> dict[str, Unwell]:
        """Measures a voice on its orders and publishes what was found; the first that is written holds.

        What is good of the orders is kept, and what the servers failed with is returned.
        """
        asked = {order.clip: order for order in orders}
        outcomes = list(fleet.speak(self._requests(orders, sealer)))
        unwell = {outcome.name: outcome.speech for outcome in outcomes if isinstance(outcome.speech, Unwell)}
        heard = []
        for clip, speech, _ in outcomes:
            if isinstance(speech, Wave):
                heard.append((asked[clip].spoken, speech))
            elif isinstance(speech, Refused) and speech.code != "no-words":
                heard.append((asked[clip].spoken, _SILENCE))
        try:
            calibration = calibrate(heard)
        except BadVoices as error:
            if unwell:
                last = list(unwell.values())[-1]
                said = f"voice '{voice.name}' could not be calibrated yet, run again to go on; {len(unwell)} of "
                raise Unwell(last.code, f"{said}{len(asked)} clips failed: {last.message}") from error
            raise BadVoices(f"voice '{voice.name}': {error}") from error
        with suppress(Exists):
            self._store.create(self._path(voice), canonical(calibration.model_dump(mode="json")))
        self._read(voice)
        for clip, speech, seeds in outcomes:
            order = asked[clip]
            if isinstance(speech, Refused):
                sealer.add(order, speech, seeds)
            elif isinstance(speech, Wave):
                with suppress(Refused):  # then it is asked for again
                    judge(speech, order.spoken, self._calibrations[voice.name])
                    sealer.add(order, speech, seeds)
        return unwell


class _Sealer:
    """Gathers decisions and seals them, a segment at a time."""

    def __init__(self, store: Store, pool: str, progress: Progress) -> None:
        self.decided: set[str] = set()
        self._store = store
        self._pool = pool
        self._progress = progress
        self._waiting: list[tuple[Order, Wave | Refused, int]] = []
        self._began = 0.0

    def add(self, order: Order, speech: Wave | Refused, seeds: int) -> None:
        """One decision, unless it was made before."""
        if order.clip in self.decided:
            return
        self.decided.add(order.clip)
        if not self._waiting:
            self._began = time.monotonic()
        self._waiting.append((order, speech, seeds))
        self._progress.step()
        if len(self._waiting) >= SEGMENT or time.monotonic() - self._began > SECONDS:
            self.seal()

    def seal(self) -> None:
        """Publishes what is waiting."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            seal(self._store, self._pool, waiting)

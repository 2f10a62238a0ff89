"""Many speech servers as one: exactly one request in flight on each, and none of their faults becomes a verdict.

A thread per endpoint takes an order from the desk, waits for its answer and takes the next. The caller's thread hands
out orders, judges what came and redraws what was refused, while the servers are at work on the next.

- *Refused* speech is asked for again with another seed, of another server if one is well; after `SEEDS` draws the text
  is refused. Seeds are hashes of the clip's name and the number of the draw.
- An *unwell* endpoint is set aside for a pause that doubles, probed, and used again. Its order goes to the others;
  after `FAULTS` faults the order is given back as it came, pending.
- A voice that was never heard on an endpoint, and cannot be (a missing reference, bad weights), is barred there.
- When nobody is left for some order, the fleet stops and tells what each endpoint last said. Run again to go on.

Memory is bounded: at most `WINDOW` orders and two finished clips an endpoint are held.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from statistics import median
from threading import Thread
from typing import Generic, NamedTuple, Protocol, Self, TypeVar

from tarsia.builders.desk import Desk, Done, Order, Post, R, Request, Tally
from tarsia.builders.endpoints import Link, Unwell
from tarsia.builders.evidence import Heard
from tarsia.builders.recognisers import Transcript
from tarsia.builders.voices import Wave
from tarsia.schemas.errors import BadVoices, Refused
from tarsia.schemas.identity import checksum

SEEDS = 3  # draws before a text is refused; 2 to 4 redraws are common practice
FAULTS = 3  # of servers, on three occasions, before an order is given back
STRIKES = 7  # faults in a row, and about a minute of pauses, before an endpoint counts as dead
PAUSE_MOST = 60.0  # s
PROBE = 30.0  # s: a busy server answers no other route until it is done
WINDOW = 32  # orders an endpoint
LISTENERS = 2  # clips an endpoint that are listened to at the same time: no more are finished and wait to be judged
_GRACE = 1.0  # s that threads get to end


_R_contra = TypeVar("_R_contra", bound=Request, contravariant=True)


class Served(Protocol[_R_contra]):
    """An engine that is a server: what its module offers."""

    def say(self, link: Link, request: _R_contra, seconds: float) -> Wave:
        """The speech; else `Refused` (the text) or `Unwell` (the server)."""

    def patience(self, request: _R_contra) -> float:
        """How long to wait for it, in seconds."""

    def probe(self, link: Link, seconds: float) -> None:
        """Nothing if the server is there; else `Unwell`."""


class Outcome(NamedTuple):
    """What came of one order. `Unwell` means pending: it may be asked again."""

    name: str
    speech: Wave | Refused | Unwell
    seeds: int  # draws that it took
    transcript: Transcript | None = None  # of accepted speech that was listened to


def seed_of(name: str, draw: int) -> int:
    """The seed of a clip's n-th draw, 0 to 2**32 - 1."""
    return checksum(f"tarsia\0seed\0{name}\0{draw}".encode()) >> 32


def pause(strikes: int) -> float:
    """How long an endpoint is left alone after so many faults in a row: 1, 2, 4 … seconds, at most a minute."""
    return min(PAUSE_MOST, 2.0 ** (strikes - 1))


class Statistics(NamedTuple):
    """What a fleet has done so far."""

    endpoints: dict[str, Tally]
    voices: dict[str, Tally]


def standing_out(voices: Mapping[str, Tally], *, times: float = 3.0, least: int = 50) -> tuple[dict[str, float], float]:
    """The voices that are refused more than `times` as often as their median, and how often; and that median.

    Usually their references are bad. Voices with fewer than `least` answers are not judged.
    """
    shares = {name: one.refused.total() / one.judged for name, one in voices.items() if one.judged >= least}
    usual = median(shares.values()) if shares else 0.0
    return {name: share for name, share in shares.items() if share > times * max(usual, 1 / least)}, usual


class Fleet(Generic[R]):
    """Endpoints of one engine. `judge` raises `Refused` for speech that is not the text. Use as a context manager.

    `listen` does so too, and may take its time: it is called in threads of its own, while the endpoints go on. Where it
    raises `Unwell`, whoever listens is not there: the run ends, and what it had not yielded is pending.
    `rates` are the sample rates of voices that are known, in Hz, as from their calibrations.
    """

    def __init__(
        self,
        urls: Sequence[str],
        engine: Served[R],
        judge: Callable[[R, Wave], None],
        *,
        listen: Callable[[R, Wave], Transcript | None] | None = None,
        rates: Mapping[str, int] | None = None,
        pause: Callable[[int], float] = pause,
        strikes: int = STRIKES,
        window: int = WINDOW,
    ) -> None:
        names = [url.rstrip("/") for url in urls]
        if not names or len(set(names)) < len(names):
            twice = sorted(name for name, count in Counter(names).items() if count > 1)
            raise BadVoices(f"endpoint '{twice[0]}' is given twice" if twice else "no endpoint is given")
        self._posts = [Post(name) for name in names]
        self._engine = engine
        self._judge = judge
        self._listen = listen
        self._listeners = ThreadPoolExecutor(LISTENERS * len(names)) if listen else None
        self._pause = pause
        self._strikes = strikes
        self._window = window * len(names)
        self._voices: dict[str, Tally] = {}
        self._rates = dict(rates or {})  # Hz, of each voice; if not given, that of its first accepted clip
        self._heard = Heard()
        self._speaking = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connections, also those that still wait for an answer."""
        if self._listeners:
            self._listeners.shutdown(wait=False, cancel_futures=True)
        for post in self._posts:
            post.link.abort()
            with post.lock:
                post.link.close()

    def statistics(self) -> Statistics:
        """Counts so far, as they are now."""
        posts = {post.link.url: _copied(post.tally) for post in self._posts}
        return Statistics(posts, {name: _copied(tally) for name, tally in self._voices.items()})

    def speak(self, orders: Iterable[tuple[str, R]]) -> Iterator[Outcome]:
        """What came of each order, in any order. `orders` is read in the caller's thread, no faster than needed.

        One run at a time. A run that is left early abandons what is in flight; the next one waits for it.
        """
        assert not self._speaking, "this fleet is speaking already"
        self._speaking = True
        for post in self._posts:
            post.strikes = min(post.strikes, 1)
            post.barred.clear()
        desk: Desk[R] = Desk(self._posts, self._strikes)
        threads = [Thread(target=self._man, args=(desk, post), daemon=True) for post in self._posts]
        for thread in threads:
            thread.start()
        source = iter(orders)
        held, more = 0, True
        try:
            while True:
                while more and held < self._window:
                    if (order := next(source, None)) is None:
                        more = False
                    else:
                        held += 1
                        desk.put(Order(*order))
                if not held:
                    return
                done = desk.next()
                if (outcome := self._weigh(desk, done)) is not None:
                    held -= 1
                    yield outcome
        finally:
            self._speaking = False
            desk.close()
            until = time.monotonic() + _GRACE
            for thread in threads:
                thread.join(max(0.0, until - time.monotonic()))

    def _man(self, desk: Desk[R], post: Post) -> None:
        """One endpoint's thread."""
        try:
            while desk.open():
                if post.tired:
                    self._rest(desk, post)
                    continue
                if (order := desk.take(post)) is None:
                    continue
                with post.lock:
                    if not desk.open():
                        return
                    began = time.monotonic()
                    speech = self._say(post, order)
                    waited = time.monotonic() - began
                hearing = None
                if self._listeners and self._listen and isinstance(speech, Wave):
                    hearing = self._listeners.submit(self._listen, order.request, speech)
                desk.hand_in(post, order, speech, waited, hearing)
        except BaseException as error:
            desk.fail(error)

    def _say(self, post: Post, order: Order[R]) -> Wave | Refused | Unwell:
        request = order.request.seeded(seed_of(order.name, order.draw))
        try:
            return self._engine.say(post.link, request, self._engine.patience(request))
        except (Refused, Unwell) as answer:
            answer.__cause__ = answer.__context__ = None  # which hold on to the answer's bytes
            return answer.with_traceback(None)

    def _rest(self, desk: Desk[R], post: Post) -> None:
        """Leaves an endpoint alone until it answers again."""
        while desk.wait(self._pause(post.strikes)):
            try:
                with post.lock:
                    self._engine.probe(post.link, PROBE)
            except Unwell as error:
                desk.strike(post, error)
                continue
            post.tired = False
            return

    def _weigh(self, desk: Desk[R], done: Done[R]) -> Outcome | None:
        """The outcome of an answer, or None if the order is under way again."""
        order, post = done.order, done.post
        voice = self._voices.setdefault(order.request.voice, Tally())
        speech, transcript = self._judged(order.request, done.speech, done.hearing)
        for tally in (post.tally, voice):
            tally.asked += 1
            tally.waited += done.waited
            tally.longest = max(tally.longest, done.waited)
            if isinstance(speech, Refused):
                tally.refused[speech.code] += 1
            elif isinstance(speech, Unwell):
                tally.unwell[speech.code] += 1
            else:
                tally.accepted += 1
                tally.audio += len(speech.samples) / speech.rate
        if isinstance(speech, Unwell):
            if done.speech is not speech:
                desk.strike(post, speech)
            return self._pending(desk, done, speech)
        outcome = Outcome(order.name, speech, order.draw + 1, transcript)
        if isinstance(speech, Refused) and done.speech is not speech:
            order.refusals += 1
            if order.refusals < SEEDS:
                order.draw += 1
                desk.put_back(order, post)
                return None
        else:
            desk.well(done)
        return outcome

    def _judged(
        self, request: R, speech: Wave | Refused | Unwell, hearing: Future[Transcript | None] | None
    ) -> tuple[Wave | Refused | Unwell, Transcript | None]:
        if not isinstance(speech, Wave):
            return speech, None
        rate = self._rates.get(request.voice, speech.rate)
        if speech.rate != rate:
            return Unwell("rate", f"{speech.rate} Hz, where voice '{request.voice}' speaks at {rate} Hz"), None
        try:
            self._judge(request, speech)
            transcript = hearing.result() if hearing else None
        except Refused as refused:
            return refused.with_traceback(None), None
        if self._heard.other(speech, request.text):
            return Unwell("same-bytes", "the very samples of another text"), None
        self._rates[request.voice] = rate
        return speech, transcript

    def _pending(self, desk: Desk[R], done: Done[R], error: Unwell) -> Outcome | None:
        """Sends an order that met a fault on its way again; after `FAULTS` of them it is the outcome."""
        order = done.order
        order.faults += not done.barred and error.code != "unreachable"
        if order.faults >= FAULTS:
            return Outcome(order.name, error, order.draw + 1)
        order.draw += error.code in Unwell.OF_DRAW
        desk.put_back(order, done.post)
        return None


def _copied(tally: Tally) -> Tally:
    return replace(tally, refused=tally.refused.copy(), unwell=tally.unwell.copy())

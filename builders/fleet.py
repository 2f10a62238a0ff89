"""Many speech servers as one: exactly one request in flight on each, and none of their faults becomes a verdict.

A thread per endpoint takes an order, waits for its answer and takes the next; it prefers orders for the voice that its
server has just spoken with, since changing the reference costs a pass and changing weights costs seconds. The caller's
thread hands out orders, judges what came and redraws what was refused, while the servers are at work on the next.

- *Refused* speech is asked for again with another seed, of another server if one is well; after `SEEDS` draws the text
  is refused. Seeds are hashes of the clip's name and the number of the draw.
- An *unwell* endpoint is set aside for a pause that doubles, probed, and used again. Its order goes to the others;
  after `FAULTS` faults the order is given back as it came, pending.
- A voice that was never heard on an endpoint, and cannot be (a missing reference, bad weights), is barred there.
- When nobody is left for some order, the fleet stops and tells what each endpoint last said. Run again to go on.

Memory is bounded: at most `WINDOW` orders and two finished clips an endpoint are held.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from statistics import median
from threading import Condition, Lock, Thread
from typing import Generic, NamedTuple, Protocol, Self, TypeVar

from tarsia.builders.endpoints import Link, Unwell
from tarsia.builders.evidence import Heard
from tarsia.builders.voices import Wave
from tarsia.schemas.errors import BadVoices, Refused
from tarsia.schemas.identity import checksum

SEEDS = 3  # draws before a text is refused; 2 to 4 redraws are common practice
FAULTS = 3  # of servers, on three occasions, before an order is given back
STRIKES = 7  # faults in a row, and about a minute of pauses, before an endpoint counts as dead
PAUSE_MOST = 60.0  # s
PROBE = 30.0  # s: a busy server answers no other route until it is done
WINDOW = 32  # orders an endpoint
_GROUPS = 64  # oldest groups that an endpoint chooses from
_GRACE = 1.0  # s that threads get to end


class Request(Protocol):
    """What an engine's requests have in common."""

    @property
    def voice(self) -> str:
        """The name of the voice, for the statistics."""

    @property
    def text(self) -> str:
        """What is to be said."""

    @property
    def setting(self) -> tuple[str, ...]:
        """What a server must be set to, the costliest part first."""

    def seeded(self, seed: int) -> Self:
        """The same with another seed."""


R = TypeVar("R", bound=Request)


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


def seed_of(name: str, draw: int) -> int:
    """The seed of a clip's n-th draw, 0 to 2**32 - 1."""
    return checksum(f"tarsia\0seed\0{name}\0{draw}".encode()) >> 32


def pause(strikes: int) -> float:
    """How long an endpoint is left alone after so many faults in a row: 1, 2, 4 … seconds, at most a minute."""
    return min(PAUSE_MOST, 2.0 ** (strikes - 1))


@dataclass
class Tally:
    """Counts of one endpoint or voice."""

    asked: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    unwell: Counter[str] = field(default_factory=Counter)
    audio: float = 0.0  # s, accepted
    waited: float = 0.0  # s, all answers together
    longest: float = 0.0  # s

    @property
    def judged(self) -> int:
        """Answers that were speech or should have been."""
        return self.accepted + self.refused.total()


class Statistics(NamedTuple):
    """What a fleet has done so far."""

    endpoints: dict[str, Tally]
    voices: dict[str, Tally]


def standing_out(voices: Mapping[str, Tally], *, times: float = 3.0, least: int = 50) -> dict[str, float]:
    """The voices that are refused more than `times` as often as their median, and how often; usually bad references."""
    shares = {name: one.refused.total() / one.judged for name, one in voices.items() if one.judged >= least}
    usual = median(shares.values()) if shares else 0.0
    return {name: share for name, share in shares.items() if share > times * max(usual, 1 / least)}


class _Order(Generic[R]):
    def __init__(self, name: str, request: R) -> None:
        self.name = name
        self.request = request
        self.draw = 0
        self.refusals = 0
        self.faults = 0
        self.shunned: _Post | None = None  # whoever failed it last


class _Post:
    """An endpoint and its health."""

    def __init__(self, url: str) -> None:
        self.link = Link(url)
        self.lock = Lock()  # held while a request is in flight, also by a thread that its run has abandoned
        self.tally = Tally()
        self.strikes = 0
        self.busy = False
        self.number = 0  # of the answers given
        self.struck = 0  # the number of the last fault
        self.tired = False  # needs a pause
        self.last = "was not asked"
        self.setting: tuple[str, ...] = ()
        self.barred: dict[tuple[str, ...], Unwell] = {}
        self.spoken: set[tuple[str, ...]] = set()

    def strike(self, error: Unwell) -> None:
        self.strikes += 1
        self.struck = self.number
        self.tired = True
        self.last = str(error)


class _Done(NamedTuple, Generic[R]):
    post: _Post
    number: int
    order: _Order[R]
    speech: Wave | Refused | Unwell
    waited: float
    barred: bool = False


class Fleet(Generic[R]):
    """Endpoints of one engine. `judge` raises `Refused` for speech that is not the text. Use as a context manager.

    `rates` are the sample rates of voices that are known, in Hz, as from their calibrations.
    """

    def __init__(
        self,
        urls: Sequence[str],
        engine: Served[R],
        judge: Callable[[R, Wave], None],
        *,
        rates: Mapping[str, int] | None = None,
        pause: Callable[[int], float] = pause,
        strikes: int = STRIKES,
        window: int = WINDOW,
    ) -> None:
        names = [url.rstrip("/") for url in urls]
        if not names or len(set(names)) < len(names):
            twice = sorted(name for name, count in Counter(names).items() if count > 1)
            raise BadVoices(f"endpoint '{twice[0]}' is given twice" if twice else "no endpoint is given")
        self._posts = [_Post(name) for name in names]
        self._engine = engine
        self._judge = judge
        self._pause = pause
        self._strikes = strikes
        self._window = window * len(names)
        self._voices: dict[str, Tally] = {}
        self._rates = dict(rates or {})  # Hz, of each voice; if not given, that of its first accepted clip
        self._heard = Heard()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connections, also those that still wait for an answer."""
        for post in self._posts:
            post.link.abort()
            with post.lock:
                post.link.close()

    def statistics(self) -> Statistics:
        """Counts so far, as they are now."""
        posts = {post.link.url: _copied(post.tally) for post in self._posts}
        return Statistics(posts, {name: _copied(tally) for name, tally in self._voices.items()})

    def speak(self, orders: Iterable[tuple[str, R]]) -> Iterator[Outcome]:
        """What came of each order, in any order. `orders` is read in the caller's thread, no faster than needed."""
        for post in self._posts:
            post.strikes = min(post.strikes, 1)
            post.barred.clear()
        desk: _Desk[R] = _Desk(self._posts, self._strikes)
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
                        desk.put(_Order(*order))
                if not held:
                    return
                done = desk.next()
                if (speech := self._weigh(desk, done)) is not None:
                    held -= 1
                    yield Outcome(done.order.name, speech, done.order.draw + 1)
        finally:
            desk.close()
            until = time.monotonic() + _GRACE
            for thread in threads:
                thread.join(max(0.0, until - time.monotonic()))

    def _man(self, desk: "_Desk[R]", post: _Post) -> None:
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
                desk.hand_in(post, order, speech, waited)
        except BaseException as error:
            desk.fail(error)

    def _say(self, post: _Post, order: _Order[R]) -> Wave | Refused | Unwell:
        request = order.request.seeded(seed_of(order.name, order.draw))
        try:
            return self._engine.say(post.link, request, self._engine.patience(request))
        except (Refused, Unwell) as answer:
            answer.__cause__ = answer.__context__ = None  # which hold on to the answer's bytes
            return answer.with_traceback(None)

    def _rest(self, desk: "_Desk[R]", post: _Post) -> None:
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

    def _weigh(self, desk: "_Desk[R]", done: _Done[R]) -> Wave | Refused | Unwell | None:
        """The outcome of an answer, or None if the order is under way again."""
        order, post = done.order, done.post
        voice = self._voices.setdefault(order.request.voice, Tally())
        speech = self._judged(order.request, done.speech)
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
        if isinstance(speech, Refused) and done.speech is not speech:
            order.refusals += 1
            if order.refusals < SEEDS:
                order.draw += 1
                desk.put_back(order, post)
                return None
        else:
            desk.well(done)
        return speech

    def _judged(self, request: R, speech: Wave | Refused | Unwell) -> Wave | Refused | Unwell:
        if not isinstance(speech, Wave):
            return speech
        rate = self._rates.get(request.voice, speech.rate)
        if speech.rate != rate:
            return Unwell("rate", f"{speech.rate} Hz, where voice '{request.voice}' speaks at {rate} Hz")
        try:
            self._judge(request, speech)
        except Refused as refused:
            return refused.with_traceback(None)
        if self._heard.other(speech, request.text):
            return Unwell("same-bytes", "the very samples of another text")
        self._rates[request.voice] = rate
        return speech

    def _pending(self, desk: "_Desk[R]", done: _Done[R], error: Unwell) -> Unwell | None:
        """Sends an order that met a fault on its way again; after `FAULTS` of them it is the outcome."""
        order = done.order
        order.faults += not done.barred and error.code != "unreachable"
        if order.faults >= FAULTS:
            return error
        order.draw += error.code in Unwell.OF_DRAW
        desk.put_back(order, done.post)
        return None


def _copied(tally: Tally) -> Tally:
    return replace(tally, refused=tally.refused.copy(), unwell=tally.unwell.copy())


class _Desk(Generic[R]):
    """Where one run's orders wait, by setting, and where its answers are handed in."""

    def __init__(self, posts: Sequence[_Post], strikes: int) -> None:
        lock = Lock()
        self._work = Condition(lock)  # for the posts
        self._news = Condition(lock)  # for the caller
        self._posts = posts
        self._strikes = strikes
        self._waiting: dict[tuple[str, ...], deque[_Order[R]]] = {}
        self._done: deque[_Done[R]] = deque()
        self._failure: BaseException | None = None
        self._closed = False

    # --- the caller's side

    def put(self, order: _Order[R]) -> None:
        """An order for whoever is free."""
        with self._work:
            self._waiting.setdefault(order.request.setting, deque()).append(order)
            self._wake()

    def put_back(self, order: _Order[R], post: _Post) -> None:
        """An order that `post` has failed: the next one, and better for another."""
        with self._work:
            order.shunned = post
            self._waiting.setdefault(order.request.setting, deque()).appendleft(order)
            self._work.notify_all()
            self._look()

    def next(self) -> _Done[R]:
        """The oldest answer; waits for it. Raises what has ended the run."""
        with self._news:
            while not self._done:
                if self._failure:
                    raise self._failure
                self._news.wait()
            done = self._done.popleft()
            self._wake()
            return done

    def strike(self, post: _Post, error: Unwell) -> None:
        """One more fault of an endpoint."""
        with self._work:
            post.strike(error)
            self._work.notify_all()
            self._look()

    def well(self, done: _Done[R]) -> None:
        """An endpoint has done its work; its faults are forgotten unless one came after that."""
        with self._work:
            done.post.spoken.add(done.order.request.setting)
            if done.number > done.post.struck:
                done.post.strikes = 0

    def close(self) -> None:
        """Ends the run: threads go home once their answer has come."""
        with self._work:
            self._closed = True
            self._work.notify_all()

    # --- the endpoints' side

    def open(self) -> bool:
        """Whether the run goes on."""
        return not self._closed

    def take(self, post: _Post) -> _Order[R] | None:
        """The next order for an endpoint; waits for it. None when the run has ended or the endpoint needs a pause."""
        with self._work:
            while not (self._closed or post.tired):
                room = len(self._done) < 2 * len(self._posts)
                if room and (order := self._pick(post)) is not None:
                    post.busy = True
                    post.setting = order.request.setting
                    return order
                self._work.wait()
            return None

    def hand_in(self, post: _Post, order: _Order[R], speech: Wave | Refused | Unwell, waited: float) -> None:
        """An answer, whatever it is."""
        with self._work:
            post.busy = False
            post.number += 1
            barred = False
            if isinstance(speech, Unwell):
                if barred := speech.code in Unwell.OF_VOICE and order.request.setting not in post.spoken:
                    post.barred[order.request.setting] = speech
                else:
                    post.strike(speech)
                self._work.notify_all()
            self._done.append(_Done(post, post.number, order, speech, waited, barred))
            self._news.notify()

    def wait(self, seconds: float) -> bool:
        """Whether the run still goes on after a pause."""
        until = time.monotonic() + seconds
        with self._work:
            while not self._closed and (left := until - time.monotonic()) > 0:
                self._work.wait(left)
            return not self._closed

    def fail(self, error: BaseException) -> None:
        """Ends the run with an error for the caller."""
        with self._work:
            self._failure = self._failure or error
            self._news.notify()

    # --- with the lock held

    def _wake(self) -> None:
        picky = any(post.barred or post.strikes for post in self._posts)
        self._work.notify(len(self._posts) if picky else 1)

    def _pick(self, post: _Post) -> _Order[R] | None:
        here = self._waiting.get(post.setting)
        if here and (order := self._first(post, post.setting, here)) is not None:
            return order
        best: tuple[float, float] | None = None
        for setting, orders in islice(self._waiting.items(), _GROUPS):
            if setting in post.barred or self._index(post, setting, orders) is None:
                continue
            others = sum(one.setting == setting and one.busy for one in self._posts)
            score = (float(_common(setting, post.setting)), len(orders) / (1 + others))
            if best is None or score > best:
                best, chosen = score, setting
        return None if best is None else self._first(post, chosen, self._waiting[chosen])

    def _first(self, post: _Post, setting: tuple[str, ...], orders: deque[_Order[R]]) -> _Order[R] | None:
        index = None if setting in post.barred else self._index(post, setting, orders)
        if index is None:
            return None
        order = orders[index]
        del orders[index]
        if not orders:
            del self._waiting[setting]
        return order

    def _index(self, post: _Post, setting: tuple[str, ...], orders: deque[_Order[R]]) -> int | None:
        """Where the first order stands that this endpoint should take."""
        for index, order in enumerate(orders):
            if order.shunned is not post or not any(
                one is not post and not one.strikes and setting not in one.barred for one in self._posts
            ):
                return index
        return None

    def _look(self) -> None:
        """Ends the run if some order has nobody left."""
        fit = [post for post in self._posts if post.busy or post.strikes < self._strikes]
        if any(not post.barred for post in fit):
            return
        for setting, orders in self._waiting.items():
            if all(setting in post.barred for post in fit):
                said = "\n".join(f"  {post.link.url}: {post.barred.get(setting, post.last)}" for post in self._posts)
                if all(setting in post.barred for post in self._posts):
                    self._failure = BadVoices(f"no endpoint can speak as '{orders[0].request.voice}':\n{said}")
                else:
                    kept = "what was made is kept, run again to go on"
                    self._failure = Unwell("fleet", f"no endpoint speaks any more; {kept}:\n{said}")
                self._news.notify()
                return


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    return next((index for index, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), len(one))

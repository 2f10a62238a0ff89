"""Where the orders of a fleet wait, and what its endpoints are fit for: who does what next.

An endpoint prefers orders for the voice that its server has just spoken with, since changing the reference costs a pass
and changing weights costs seconds; else it takes the voice that shares most with it, and of those the one with the
most orders for the fewest endpoints. What it has failed it leaves to others while there are others.
"""

import time
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice
from threading import Condition, Lock
from typing import Generic, NamedTuple, Protocol, Self, TypeVar

from tarsia.builders.endpoints import Link, Unwell
from tarsia.builders.recognisers import Transcript
from tarsia.builders.voices import Wave
from tarsia.schemas.errors import BadVoices, Refused

_GROUPS = 64  # oldest groups that an endpoint chooses from


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


class Order(Generic[R]):
    """A clip to be made, and what has become of it so far."""

    def __init__(self, name: str, request: R) -> None:
        self.name = name
        self.request = request
        self.draw = 0
        self.refusals = 0
        self.faults = 0
        self.shunned: Post | None = None  # whoever failed it last


class Post:
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
        """One more fault."""
        self.strikes += 1
        self.struck = self.number
        self.tired = True
        self.last = str(error)


class Done(NamedTuple, Generic[R]):
    """An answer."""

    post: Post
    number: int
    order: Order[R]
    speech: Wave | Refused | Unwell
    waited: float
    barred: bool = False
    hearing: Future[Transcript | None] | None = None  # while the speech is being recognised; raises what came of it


class Desk(Generic[R]):
    """Where one run's orders wait, by setting, and where its answers are handed in."""

    def __init__(self, posts: Sequence[Post], strikes: int) -> None:
        lock = Lock()
        self._work = Condition(lock)  # for the posts
        self._news = Condition(lock)  # for the caller
        self._posts = posts
        self._strikes = strikes
        self._waiting: dict[tuple[str, ...], deque[Order[R]]] = {}
        self._done: deque[Done[R]] = deque()
        self._failure: BaseException | None = None
        self._closed = False

    # --- the caller's side

    def put(self, order: Order[R]) -> None:
        """An order for whoever is free."""
        with self._work:
            self._waiting.setdefault(order.request.setting, deque()).append(order)
            self._wake()

    def put_back(self, order: Order[R], post: Post) -> None:
        """An order that `post` has failed: the next one, and better for another."""
        with self._work:
            order.shunned = post
            self._waiting.setdefault(order.request.setting, deque()).appendleft(order)
            self._work.notify_all()
            self._look()

    def next(self) -> Done[R]:
        """The oldest answer; waits for it. Raises what has ended the run."""
        with self._news:
            while not self._done:
                if self._failure:
                    raise self._failure
                self._news.wait()
            done = self._done.popleft()
            self._wake()
            return done

    def strike(self, post: Post, error: Unwell) -> None:
        """One more fault of an endpoint."""
        with self._work:
            post.strike(error)
            self._work.notify_all()
            self._look()

    def well(self, done: Done[R]) -> None:
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

    def take(self, post: Post) -> Order[R] | None:
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

    def hand_in(
        self,
        post: Post,
        order: Order[R],
        speech: Wave | Refused | Unwell,
        waited: float,
        hearing: Future[Transcript | None] | None = None,
    ) -> None:
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
            self._done.append(Done(post, post.number, order, speech, waited, barred, hearing))
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

    def _pick(self, post: Post) -> Order[R] | None:
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

    def _first(self, post: Post, setting: tuple[str, ...], orders: deque[Order[R]]) -> Order[R] | None:
        index = None if setting in post.barred else self._index(post, setting, orders)
        if index is None:
            return None
        order = orders[index]
        del orders[index]
        if not orders:
            del self._waiting[setting]
        return order

    def _index(self, post: Post, setting: tuple[str, ...], orders: deque[Order[R]]) -> int | None:
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
                    self._failure = self._failure or BadVoices(
                        f"no endpoint can speak as '{orders[0].request.voice}':\n{said}"
                    )
                else:
                    kept = "what was made is kept, run again to go on"
                    self._failure = self._failure or Unwell("fleet", f"no endpoint speaks any more; {kept}:\n{said}")
                self._news.notify()
                return


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    return next((index for index, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), len(one))

"""Ranges: bytes of stored objects for one who knows what will be wanted next.

On a local folder a range is one `pread` of a file that stays open, and the system is told what comes next, so that it
reads ahead into its own memory. From a bucket, threads read ahead within `prefetch` bytes: what is wanted next is
gathered into **hauls** of several MiB, and near ranges of a haul become one request; through a cache, its blocks come
beside each other. Ranges arrive in the order they were wanted, whatever the order of the answers. Retries, with
backoff, are the store's.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import BinaryIO, Generic, NamedTuple, TypeVar

from tarsia.builders.storage import Store
from tarsia.manifests.cache import Cache, assembled
from tarsia.schemas.errors import StorageFault
from tarsia.schemas.shard import Stored

T = TypeVar("T")
Data = bytes | memoryview
Answer = Callable[[], list[Data]]

PREFETCH = 64 << 20  # bytes: 20 ms of latency at 3 GB/s
HAUL = 4 << 20  # bytes: one request's worth, where what is wanted next lies next
FIRST = 256 << 10  # bytes of the first haul; each is twice the one before, until they are as large as is best
SCATTERED = 8 << 20  # bytes: a haul of what lies about, so that some of it turns out to be neighbours
GAP = 128 << 10  # bytes: rather read than a request of its own
ADVISED = 8 << 20  # bytes of a folder that the system is told of ahead
LARGEST = 8 << 20  # bytes of one request that joins several ranges
THREADS = 16
TWICE = 2  # how often an answer is in memory while it comes: in pieces, and as the whole that they become
_ADVISE = getattr(os, "POSIX_FADV_WILLNEED", 0)  # not on every system
OPEN = 128  # files of a folder: a window of a stage spans a shard or two of every corpus


class Span(NamedTuple):
    """A range of an object."""

    stored: Stored
    offset: int
    length: int


class Ranges:
    """Reads spans of the objects of a store, through a cache where there is one."""

    def __init__(self, store: Store, cache: Cache | None = None) -> None:
        self._store, self._cache = store, cache
        self._files: dict[str, BinaryIO] | None = {} if "://" not in store.url and not cache else None

    def read(self, span: Span) -> Data:
        """One span, now; what the object does not hold is missing at its end."""
        if self._files is not None:
            return self._pread(span)
        return self._read(span.stored, [(span.offset, span.length)])[0]

    def again(self, span: Span) -> Data:
        """A span that was not what it should be, once more from where it is stored."""
        if self._cache:
            self._cache.forget(*span)
        return self._store.read_ranges(span.stored.path, [(span.offset, span.length)])[0]

    def ahead(
        self, wanted: Iterable[tuple[T, Sequence[Span]]], prefetch: int, haul: int = HAUL
    ) -> Iterator[tuple[T, list[Data]]]:
        """What is wanted, each with its spans read; at most `prefetch` bytes are held before they are asked for.

        `haul`: bytes that are gathered before they are asked for together, at most a quarter of `prefetch`.
        """
        if self._files is not None:
            return self._ahead_here(wanted, min(prefetch, ADVISED))
        return self._ahead_there(wanted, prefetch, max(1, min(haul, prefetch // 4)))

    # --- from a folder ----------------------------------------------------------------------------------------------

    def _ahead_here(self, wanted: Iterable[tuple[T, Sequence[Span]]], ahead: int) -> Iterator[tuple[T, list[Data]]]:
        coming: deque[tuple[T, Sequence[Span], int]] = deque()
        told, pread = 0, self._pread
        for item, spans in wanted:
            size = 0
            for stored, offset, length in spans:
                if _ADVISE:
                    os.posix_fadvise(self._file(stored.path), offset, length, _ADVISE)
                size += length
            coming.append((item, spans, size))
            told += size
            while told > ahead:
                due, parts, size = coming.popleft()
                told -= size
                yield due, [pread(part) for part in parts]
        for due, parts, _ in coming:
            yield due, [pread(part) for part in parts]

    def _pread(self, span: Span) -> bytes:
        stored, offset, length = span
        try:
            return os.pread(self._file(stored.path), length, offset)
        except OSError as error:
            raise StorageFault(f"cannot read '{stored.path}' in {self._store.url}: {error.strerror}") from error

    def _file(self, path: str) -> int:
        """The descriptor of an object's file; of those that are open the one opened first is closed for another."""
        files = self._files
        assert files is not None
        file = files.get(path)
        if file is None:
            if len(files) >= OPEN:
                files.pop(next(iter(files))).close()
            file = files[path] = self._store.open(path)
        return file.fileno()

    def __del__(self) -> None:
        for file in (self._files or {}).values():
            file.close()

    # --- from a bucket, or through a cache --------------------------------------------------------------------------

    def _ahead_there(
        self, wanted: Iterable[tuple[T, Sequence[Span]]], prefetch: int, haul_bytes: int
    ) -> Iterator[tuple[T, list[Data]]]:
        hauls = _hauls(wanted, haul_bytes)
        coming: deque[tuple[_Haul[T], list[Answer]]] = deque()
        held, more = 0, next(hauls, None)
        pool = ThreadPoolExecutor(threads_for(prefetch), "tarsia-read")
        try:
            while more or coming:
                while more and (not coming or TWICE * (held + more.bytes) <= prefetch):
                    coming.append((more, [self._submitted(pool, *asked) for asked in more.asked]))
                    held += more.bytes
                    more = next(hauls, None)
                haul, answers = coming.popleft()
                yield from haul.given([answer() for answer in answers])
                held -= haul.bytes
        finally:
            pool.shutdown(cancel_futures=True)

    def _submitted(self, pool: ThreadPoolExecutor, stored: Stored, ranges: Sequence[tuple[int, int]]) -> Answer:
        """Ranges of an object on their way; through a cache its blocks come beside each other."""
        cache = self._cache
        if not cache:
            return pool.submit(self._read, stored, ranges).result
        asked = cache.blocks(ranges)
        jobs = [pool.submit(cache.pieces, stored, one, partial(self._fetch, stored)) for one in asked]
        return lambda: list(assembled(len(ranges), asked, [job.result() for job in jobs]))

    def _fetch(self, stored: Stored, offset: int, length: int) -> memoryview:
        return self._store.read_ranges(stored.path, [(offset, length)])[0]

    def _read(self, stored: Stored, ranges: Sequence[tuple[int, int]]) -> list[Data]:
        if self._cache:
            return list(self._cache.read(stored, ranges, partial(self._fetch, stored)))
        found: list[Data] = [b""] * len(ranges)
        joined = join(ranges)
        answers = self._store.read_ranges(stored.path, [(one.begin, one.end - one.begin) for one in joined])
        for one, data in zip(joined, answers, strict=True):
            for which in one.members:
                begin = ranges[which][0] - one.begin
                found[which] = data[begin : begin + ranges[which][1]]
        return found


def threads_for(prefetch: int) -> int:
    """How many threads read ahead: as many as have an answer coming within so many bytes."""
    return max(2, min(THREADS, prefetch // TWICE // HAUL))


class Joined(NamedTuple):
    """One request for several ranges: the bytes from `begin` to `end` - 1."""

    begin: int
    end: int
    members: list[int]  # which of the ranges


def join(ranges: Sequence[tuple[int, int]]) -> list[Joined]:
    """Requests for ranges of one object: near ones together, at most as many bytes too many as are wanted."""
    joined: list[Joined] = []
    spare = 0
    for which in sorted(range(len(ranges)), key=lambda which: ranges[which]):
        begin, length = ranges[which]
        spare += length
        if joined:
            last = joined[-1]
            gap, end = max(0, begin - last.end), max(last.end, begin + length)
            if gap <= min(GAP, spare) and end - last.begin <= LARGEST:
                spare -= gap
                last.members.append(which)
                joined[-1] = last._replace(end=end)
                continue
        joined.append(Joined(begin, begin + length, [which]))
    return joined


class _Haul(Generic[T]):
    """Several wanted things that are read together."""

    def __init__(self, wanted: Sequence[tuple[T, Sequence[Span]]]) -> None:
        self._wanted = wanted
        objects: dict[str, tuple[Stored, list[tuple[int, int]]]] = {}
        for _, spans in wanted:
            for stored, offset, length in spans:
                objects.setdefault(stored.path, (stored, []))[1].append((offset, length))
        self.asked = list(objects.values())
        self.bytes = sum(one.end - one.begin for _, ranges in self.asked for one in join(ranges))

    def given(self, answers: Sequence[list[Data]]) -> Iterator[tuple[T, list[Data]]]:
        """What was wanted with what was read, of each object in the order of `asked`."""
        turn = {stored.path: iter(answer) for (stored, _), answer in zip(self.asked, answers, strict=True)}
        for item, spans in self._wanted:
            yield item, [next(turn[span.stored.path]) for span in spans]


def _hauls(wanted: Iterable[tuple[T, Sequence[Span]]], size: int) -> "Iterator[_Haul[T]]":
    """What is wanted, gathered; the first hauls are small, so that the first thing wanted does not wait for many."""
    gathered: list[tuple[T, Sequence[Span]]] = []
    waiting, enough = 0, min(FIRST, size)
    for item, spans in wanted:
        gathered.append((item, spans))
        waiting += sum(span.length for span in spans)
        if waiting >= enough:
            yield _Haul(gathered)
            gathered, waiting, enough = [], 0, min(2 * enough, size)
    if gathered:
        yield _Haul(gathered)

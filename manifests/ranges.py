"""Ranges: bytes of stored objects for one who knows what will be wanted next.

On a local folder a range is one `pread` of a file that stays open, and the system is told what comes next, so that it
reads ahead into its own memory. From a bucket, threads read ahead within `prefetch` bytes: what is wanted next is
gathered into **hauls** of a few MiB, and near ranges of a haul become one request. Ranges arrive in the order they were
wanted, whatever the order of the answers. Retries, with backoff, are the store's.
"""

import os
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, Generic, NamedTuple, TypeVar

from tarsia.builders.storage import Store
from tarsia.manifests.cache import BLOCK, Cache
from tarsia.schemas.errors import StorageFault
from tarsia.schemas.shard import Stored

T = TypeVar("T")
Data = bytes | memoryview

PREFETCH = 64 << 20  # bytes: 20 ms of latency at 3 GB/s
HAUL = 4 << 20  # bytes: one request's worth, where neighbours are wanted
GAP = 128 << 10  # bytes: rather read than a request of its own
ADVISED = 8 << 20  # bytes of a folder that the system is told of ahead
LARGEST = 8 << 20  # bytes of one request that joins several ranges
THREADS = 16
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
        self._files: OrderedDict[str, BinaryIO] | None = OrderedDict() if "://" not in store.url and not cache else None

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

    def ahead(self, wanted: Iterable[tuple[T, Sequence[Span]]], prefetch: int) -> Iterator[tuple[T, list[Data]]]:
        """What is wanted, each with its spans read; at most `prefetch` bytes are held before they are asked for."""
        if self._files is not None:
            return self._ahead_here(wanted, min(prefetch, ADVISED))
        return self._ahead_there(wanted, prefetch)

    # --- from a folder ----------------------------------------------------------------------------------------------

    def _ahead_here(self, wanted: Iterable[tuple[T, Sequence[Span]]], ahead: int) -> Iterator[tuple[T, list[Data]]]:
        coming: deque[tuple[T, Sequence[Span], int]] = deque()
        told = 0
        for item, spans in wanted:
            size = sum(span.length for span in spans)
            while coming and told + size > ahead:
                told -= coming[0][2]
                yield self._here(*coming.popleft())
            for span in spans:
                _advise(self._file(span.stored.path), span)
            coming.append((item, spans, size))
            told += size
        while coming:
            yield self._here(*coming.popleft())

    def _here(self, item: T, spans: Sequence[Span], _: int) -> tuple[T, list[Data]]:
        return item, [self._pread(span) for span in spans]

    def _pread(self, span: Span) -> bytes:
        try:
            return os.pread(self._file(span.stored.path).fileno(), span.length, span.offset)
        except OSError as error:
            raise StorageFault(f"cannot read '{span.stored.path}' in {self._store.url}: {error.strerror}") from error

    def _file(self, path: str) -> BinaryIO:
        files = self._files
        assert files is not None
        if path in files:
            files.move_to_end(path)
        else:
            files[path] = self._store.open(path)
            if len(files) > OPEN:
                files.popitem(last=False)[1].close()
        return files[path]

    def __del__(self) -> None:
        for file in (self._files or {}).values():
            file.close()

    # --- from a bucket, or through a cache --------------------------------------------------------------------------

    def _ahead_there(self, wanted: Iterable[tuple[T, Sequence[Span]]], prefetch: int) -> Iterator[tuple[T, list[Data]]]:
        hauls = _hauls(wanted, max(1, min(HAUL, prefetch // 8)))
        coming: deque[tuple[_Haul[T], list[Future[list[Data]]]]] = deque()
        held, more = 0, next(hauls, None)
        threads = max(2, min(THREADS, prefetch // BLOCK)) if self._cache else THREADS
        pool = ThreadPoolExecutor(threads, "tarsia-read")
        try:
            while more or coming:
                while more and (not coming or held + more.bytes <= prefetch):
                    coming.append((more, [pool.submit(self._read, *asked) for asked in more.asked]))
                    held += more.bytes
                    more = next(hauls, None)
                haul, answers = coming.popleft()
                yield from haul.given([answer.result() for answer in answers])
                held -= haul.bytes
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, stored: Stored, ranges: Sequence[tuple[int, int]]) -> list[Data]:
        if self._cache:
            return list(self._cache.read(stored, ranges, lambda *one: self._store.read_ranges(stored.path, [one])[0]))
        found: list[Data] = [b""] * len(ranges)
        joined = join(ranges)
        answers = self._store.read_ranges(stored.path, [(one.begin, one.end - one.begin) for one in joined])
        for one, data in zip(joined, answers, strict=True):
            for which in one.members:
                begin = ranges[which][0] - one.begin
                found[which] = data[begin : begin + ranges[which][1]]
        return found


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
    gathered: list[tuple[T, Sequence[Span]]] = []
    waiting = 0
    for item, spans in wanted:
        gathered.append((item, spans))
        waiting += sum(span.length for span in spans)
        if waiting >= size:
            yield _Haul(gathered)
            gathered, waiting = [], 0
    if gathered:
        yield _Haul(gathered)


def _advise(file: BinaryIO, span: Span) -> None:
    """Tells the system that a range will be wanted, where it listens."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), span.offset, span.length, os.POSIX_FADV_WILLNEED)

"""Clips: what voices have said, kept for ever under the name of what it must sound like.

A segment is a tar of FLAC files and a Parquet of verdicts, published in that order under the next free number. Where
two jobs decided the same clip, the lower number holds: the first verdict written wins. A clip that repeats the very
bytes of an earlier one under another text is a server that had nothing new to say: its verdict is void, as if it had
never been written. Both rules look only at what was written before, so no verdict that holds ever ceases to.

    verdicts/<pool>/00000001.parquet     clips/<pool>/<digest>.tar

A job's orders are a table too, under `work/`, so that a task is told where to read and not what.
"""

import io
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, Full, Queue
from threading import Thread
from typing import Any, NamedTuple, Self, cast
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tarsia.builders.audio import encode_flac, resampled_length
from tarsia.builders.detectors import detector
from tarsia.builders.evidence import enough, letters
from tarsia.builders.hearing import Misheard, listener
from tarsia.builders.recognisers import Transcript
from tarsia.builders.shards import TarWriter
from tarsia.builders.storage import Store
from tarsia.builders.tables import opened, read_parquet, to_parquet
from tarsia.builders.voices import Engine, Wave, find, is_served
from tarsia.schemas.errors import Corrupt, Exists, NotThere, Refused
from tarsia.schemas.identity import checksum
from tarsia.schemas.voice import VERDICTS, Pool, Voice

SEGMENT = 512  # clips of one segment, and of one task of an embedded voice
SECONDS = 30.0  # s after which fewer are sealed: what a killed worker can lose
SECONDS_LEAST, SECONDS_MOST = 0.4, 30.0  # VITA's tools drop speech beyond 30 s; under 0.4 s nothing was said
READERS = 16  # segments that are read at the same time
_GAP = 4096  # bytes between two clips that are read at one go: headers and padding lie there anyway
_RUN = 8 << 20  # bytes of one read
_SHELF = 256  # clips that are fetched together

Names = npt.NDArray[np.uint64]  # of clips, (n, 2): the 32 hex digits as two numbers
Rows = npt.NDArray[np.int64]


class Order(NamedTuple):
    """A clip to be made: a voice, a language, a text, and the name that follows from them."""

    clip: str
    voice: Voice
    spoken: str


def names_of(clips: Iterable[str]) -> Names:
    """Names of clips as numbers, which sort as the names do."""
    return np.frombuffer(bytes.fromhex("".join(clips)), ">u8").astype(np.uint64).reshape(-1, 2)


def names_in(clips: pa.ChunkedArray | pa.Array) -> Names:
    """The same of a column of names without nulls, which are never made strings."""
    chunks = clips.chunks if isinstance(clips, pa.ChunkedArray) else [clips]
    parts = [np.empty((0, 2), np.uint64)]
    for chunk in chunks:
        if len(chunk):
            digits = memoryview(chunk.buffers()[2])[32 * chunk.offset : 32 * (chunk.offset + len(chunk))]
            parts.append(names_of([bytes(digits).decode()]))
    return np.concatenate(parts)


def clips_of(names: Names) -> pa.Array:
    """Names as they are written: 32 hex digits each."""
    digits = names.astype(">u8").tobytes().hex().encode()
    offsets = 32 * np.arange(len(names) + 1, dtype=np.int32)
    return pa.Array.from_buffers(pa.string(), len(names), [None, pa.py_buffer(offsets), pa.py_buffer(digits)])


# --- verdicts -------------------------------------------------------------------------------------------------------


class Book:
    """The verdicts of a pool that hold, in memory: columns, and an index of sorted names.

    300,000 of them take 117 MB. `after`: only segments with a higher number.
    """

    def __init__(self, store: Store, pool: str, *, after: int = 0) -> None:
        self._store = store
        self._pool = pool
        self._parts: list[pa.Table] = []
        self._index: tuple[Names, Rows, int] | None = None
        self.newest = after  # the number of the last segment read
        self.written = 0  # verdicts, those that do not hold included

    def refresh(self) -> pa.Table:
        """Reads what was written since; the new rows."""
        entries = [entry for entry in self._store.list(f"verdicts/{self._pool}") if _number(entry.path) > self.newest]
        with ThreadPoolExecutor(READERS) as readers:
            fresh = list(readers.map(lambda entry: read_verdicts(self._store, entry.path), entries))
        table = pa.concat_tables([VERDICTS.empty_table(), *fresh])
        if fresh:
            self.newest, self._index = _number(entries[-1].path), None
            self._parts.append(table)
            self.written += len(table)
        return table

    @property
    def table(self) -> pa.Table:
        """All that was written, of the schema VERDICTS; `find` says which rows hold."""
        if len(self._parts) != 1:
            self._parts = [pa.concat_tables([VERDICTS.empty_table(), *self._parts]).unify_dictionaries()]
        return self._parts[0]

    def find(self, names: Names) -> Rows:
        """The row of each clip's verdict in `table`, -1 where there is none."""
        if self._index is None:
            self._index = _index(self.table)
        known, rows, run = self._index
        found = np.full(len(names), -1, np.int64)
        if not len(known):
            return found
        first = np.searchsorted(known[:, 0], names[:, 0])
        for step in range(run):
            here = np.minimum(first + step, len(known) - 1)
            same = (known[here] == names).all(axis=1)
            found[same] = rows[here[same]]
        return found


def _number(path: str) -> int:
    return int(path[-16:-8])


def read_verdicts(store: Store, path: str) -> pa.Table:
    """One segment's verdicts; `Corrupt` where another version of Tarsia wrote them."""
    table = read_parquet(io.BytesIO(store.read(path)), f"{store.url}/{path}")
    if table.column_names != VERDICTS.names:
        raise Corrupt(f"{store.url}/{path}: not the columns of a verdict; another version wrote this lake")
    return table.cast(VERDICTS)


def _index(table: pa.Table) -> tuple[Names, Rows, int]:
    """Names in order with the rows that hold, and how many names at most share their first half."""
    names, rows = names_in(table["clip"]), np.flatnonzero(~_void(table))
    names = names[rows]
    order = np.lexsort((names[:, 1], names[:, 0]))  # stable: of equal names the first written comes first
    names, rows = names[order], rows[order]
    first = np.concatenate([[True], (names[1:] != names[:-1]).any(axis=1)])[: len(names)]
    names, rows = names[first], rows[first]
    starts = np.flatnonzero(np.concatenate([[True], names[1:, 0] != names[:-1, 0], [True]]))
    return names, rows, int(np.diff(starts).max(initial=1)) if len(names) else 1


def _void(table: pa.Table) -> npt.NDArray[np.bool_]:
    """Which clips of servers repeat the bytes of an earlier one, though the text is another.

    Not so embedded voices: to them "their" and "there" are the same.
    """
    void = np.zeros(len(table), np.bool_)
    served = [name for name in pc.unique(table["engine"]).to_pylist() if is_served(find(name))]
    asked = pc.and_(pc.is_in(table["engine"].cast(pa.string()), pa.array(served, pa.string())), table["tar"].is_valid())
    rows = np.flatnonzero(asked.to_numpy())
    sums = table["checksum"].fill_null(0).to_numpy()[rows]
    order = np.argsort(sums, kind="stable")
    rows, sums = rows[order], sums[order]
    again = np.flatnonzero(sums[1:] == sums[:-1])
    texts = table["spoken"]
    for place in again + 1:
        first = rows[np.searchsorted(sums, sums[place])]
        void[rows[place]] = letters(texts[int(first)].as_py()) != letters(texts[int(rows[place])].as_py())
    return void


# --- making them ----------------------------------------------------------------------------------------------------


class Decided(NamedTuple):
    """What came of an order, how many draws it took, and what was heard of accepted speech if anyone listened."""

    order: Order
    speech: Wave | Refused
    seeds: int
    transcript: Transcript | None = None


def ask(order: Order, pool: Pool) -> Decided:
    """What an embedded voice says. `Unwell` if nobody listens who should check it."""
    voice, transcript = order.voice, None
    engine = cast(Engine, find(voice.engine, f"voice '{voice.name}'"))
    try:
        wave = accept(engine.speak(order.spoken, language=voice.language, options=voice.options))
        if detect := detector(pool.detector):
            enough(detect(wave), len(wave.samples) / wave.rate)
        if pool.check:
            transcript = listener(pool.check).listen(wave, order.spoken, voice.language)
    except Refused as error:
        return Decided(order, error, 1)
    return Decided(order, wave, 1, transcript)


def accept(wave: Wave) -> Wave:
    """The wave if it is speech of a length that can be used; else `Refused` with the reason."""
    seconds = len(wave.samples) / wave.rate
    if not len(wave.samples) or not wave.samples.any():
        raise Refused("silent", "no sound at all")
    if seconds < SECONDS_LEAST:
        raise Refused("short", f"{seconds:.2f} s")
    if seconds > SECONDS_MOST:
        raise Refused("long", f"{seconds:.1f} s")
    return wave


class Sealer:
    """Seals what came of orders, a segment at a time, in a thread of its own. Use as a context manager.

    A segment is sealed when it is full, when it is `seconds` old (also while nothing comes), and at the end.
    """

    def __init__(self, store: Store, pool: str, *, seconds: float = SECONDS) -> None:
        self._store = store
        self._pool = pool
        self._seconds = seconds
        self._queue: Queue[Decided | None] = Queue(16)
        self._thread = Thread(target=self._work, daemon=True)
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._put(None)
        self._thread.join()
        if self._failure:
            raise self._failure

    def add(self, decided: Decided) -> None:
        """One decision; waits while the sealer is behind."""
        self._put(decided)
        if self._failure:
            raise self._failure

    def _put(self, decided: Decided | None) -> None:
        while not self._failure:
            try:
                self._queue.put(decided, timeout=1.0)
            except Full:
                continue
            return

    def _work(self) -> None:
        try:
            while (first := self._queue.get()) is not None:
                seal(self._store, self._pool, self._segment(first))
        except BaseException as error:
            self._failure = error

    def _segment(self, first: Decided) -> Iterator[Decided]:
        until = time.monotonic() + self._seconds
        yield first
        for _ in range(SEGMENT - 1):
            try:
                decided = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except Empty:
                return
            if decided is None:
                self._queue.put(None)
                return
            yield decided


def seal(store: Store, pool: str, decided: Iterable[Decided]) -> None:
    """Publishes one segment: what came of each order."""
    rows: list[dict[str, Any]] = []
    with store.spool() as file:
        tar = TarWriter(file)
        for order, speech, seeds, transcript in decided:
            heard = speech.transcript if isinstance(speech, Misheard) else transcript
            row = {
                "clip": order.clip,
                "voice": order.voice.name,
                "engine": order.voice.engine,
                "language": order.voice.language,
                "spoken": order.spoken,
                "seeds": seeds,
                **(heard._asdict() if heard else {}),
            }
            if isinstance(speech, Refused):
                rows.append({**row, "reason": speech.code})
                continue
            member = tar.add(order.clip, [("flac", encode_flac(speech.samples, speech.rate))]).members[0]
            rows.append(
                {
                    **row,
                    "samples": len(speech.samples),
                    "rate": speech.rate,
                    "samples16": resampled_length(len(speech.samples), speech.rate, 16_000),
                    "offset": member.offset,
                    "size": member.size,
                    "checksum": member.checksum,
                }
            )
        accepted = any("rate" in row for row in rows)
        path = f"clips/{pool}/{tar.close()[:16]}.tar"
        if accepted:
            store.publish(file, path)
    table = pa.Table.from_pylist([{**row, "tar": path if "rate" in row else None} for row in rows], VERDICTS)
    _publish(store, pool, to_parquet(table))


def _publish(store: Store, pool: str, data: bytes) -> None:
    folder = f"verdicts/{pool}"
    number = max((_number(entry.path) for entry in store.list(folder)), default=0)
    while True:
        number += 1
        try:
            store.create(f"{folder}/{number:08d}.parquet", data)
        except Exists:
            continue
        return


# --- reading them ---------------------------------------------------------------------------------------------------


def read_clips(store: Store, verdicts: pa.Table) -> Iterator[bytes]:
    """The FLAC of accepted verdicts, in their order, neighbours fetched together; `Corrupt` if bytes have changed."""
    for begin in range(0, len(verdicts), _SHELF):
        shelf = verdicts.slice(begin, _SHELF).select(["clip", "tar", "offset", "size", "checksum"]).to_pylist()
        found: dict[int, bytes] = {}
        for run in _runs(shelf):
            first, last = shelf[run[0]], shelf[run[-1]]
            data = store.read_range(first["tar"], first["offset"], last["offset"] + last["size"] - first["offset"])
            for number in run:
                one = shelf[number]
                place = one["offset"] - first["offset"]
                found[number] = data[place : place + one["size"]]
                if checksum(found[number]) != one["checksum"]:
                    raise Corrupt(f"{store.url}/{one['tar']}: clip {one['clip']} is not the bytes that were sealed")
        yield from (found[number] for number in range(len(shelf)))


def _runs(shelf: list[Mapping[str, Any]]) -> Iterator[list[int]]:
    """Numbers of clips that lie near each other in one tar."""
    run: list[int] = []
    for number in sorted(range(len(shelf)), key=lambda number: (shelf[number]["tar"], shelf[number]["offset"])):
        one, first, last = shelf[number], shelf[run[0]] if run else None, shelf[run[-1]] if run else None
        if first and last and (
            one["tar"] != first["tar"]
            or one["offset"] - last["offset"] - last["size"] > _GAP
            or one["offset"] + one["size"] - first["offset"] > _RUN
        ):  # fmt: skip
            yield run
            run = []
        run.append(number)
    if run:
        yield run


# --- orders ---------------------------------------------------------------------------------------------------------

ORDERS = pa.schema([("clip", pa.string()), ("voice", pa.int32()), ("spoken", pa.string())])  # voice: which of the pool
_ROWS = 1024  # of a row group: what is read to begin anywhere


class Script(NamedTuple):
    """Where a job's orders lie, and for which pool."""

    path: str
    pool: str


def put_orders(store: Store, pool: Pool, orders: pa.Table) -> Script:
    """Stores the orders of a job, of the schema ORDERS, with the pool that they are for."""
    data = _orders(orders.replace_schema_metadata({"pool": pool.model_dump_json()}))
    path = f"work/speak/{pool.name}/{uuid4().hex}.parquet"  # of this job alone, which removes it
    store.replace(path, data)
    return Script(path, pool.name)


def _orders(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=_ROWS)
    return sink.getvalue()


def get_pool(store: Store, script: Script) -> Pool:
    """The pool that the orders are for."""
    with store.open(script.path) as file, opened(file) as parquet:
        return Pool.model_validate_json(parquet.schema_arrow.metadata[b"pool"])


def get_orders(store: Store, script: Script, begin: int, end: int) -> Iterator[Order]:
    """The orders from row `begin` up to row `end`, read as they are wanted, but for those that were hushed."""
    with store.open(script.path) as file, opened(file) as parquet:
        voices = Pool.model_validate_json(parquet.schema_arrow.metadata[b"pool"]).voices
        for group in range(begin // _ROWS, -(-end // _ROWS)):
            rows = parquet.read_row_group(group, use_threads=False).slice(max(0, begin - group * _ROWS))
            here = rows.slice(0, end - max(begin, group * _ROWS))
            for clip, voice, spoken in zip(*(here[name].to_pylist() for name in ORDERS.names), strict=True):
                if spoken is not None:
                    yield Order(clip, voices[voice], spoken)


def hush(store: Store, said: Iterable[str]) -> None:
    """Takes texts out of all orders of jobs under way. Rows stay where they are, and the names of their clips."""
    texts = pa.array(sorted(said), pa.string())
    for entry in list(store.list("work/speak")):
        with suppress(NotThere):  # of a job that has just ended
            orders = read_parquet(io.BytesIO(store.read(entry.path)), entry.path)
            goes = pc.is_in(orders["spoken"], value_set=texts)
            if pc.any(goes).as_py():
                spoken = pc.if_else(goes, pa.scalar(None, pa.string()), orders["spoken"])
                store.replace(entry.path, _orders(orders.set_column(2, "spoken", spoken)))


def hushed(store: Store, paths: Iterable[str]) -> set[str]:
    """The names of the clips whose texts were taken out of orders: a task may have read them before."""
    clips: set[str] = set()
    for path in paths:
        with suppress(NotThere):
            orders = read_parquet(io.BytesIO(store.read(path)), path, ["clip", "spoken"])
            clips |= set(orders["clip"].filter(orders["spoken"].is_null()).to_pylist())
    return clips

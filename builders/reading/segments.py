"""Speech cut from long recordings: each is opened once, decoded once and never held.

Broadcasts, films and calls are kept whole, with a table of who says what from when to when. Ten hours are 2 GB of
samples, so a window moves over them: it begins where the segment at hand begins and ends with the block decoded last,
which makes 30 s and a block, because longer segments are refused unheard. Segments come out as mono FLAC at the
recording's own rate, by begin.

Tables are not always sorted by recording. `gathered` notes where each line stands and in which recording (28 bytes a
segment), and reads the lines of one recording together when its turn comes.

What cannot be heard is said in the record, under `amiss`, since a record whose audio is lost stays the record it was.
"""

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

from tarsia.builders.audio import LONGEST, encode_flac
from tarsia.builders.corpora import Fault, Raw
from tarsia.builders.reading.encoding import encoding_of
from tarsia.builders.reading.jsonfile import Record
from tarsia.builders.reading.textfile import Line
from tarsia.builders.storage import Store
from tarsia.schemas.errors import NotThere, Outside, Refused, TarsiaError
from tarsia.schemas.identity import checksum

CUT = "@audio"  # what a draft calls the sound of a segment

_BLOCK = 4  # seconds decoded at a time
_SLACK = 0.1  # seconds that a table may promise too much
_SEALED = {"protocol_whitelist": "none"}  # what calls itself a playlist must not open other files

Wave = NDArray[np.float32]  # samples x channels


class Place(NamedTuple):
    """Where a segment lies: a recording, seconds from its start, a channel."""

    path: str
    begin: float
    end: float
    channel: int = 0


Piece = tuple[Raw, Place | None]  # a record, and what must be cut for it


def place(path: str, begin: Any, end: Any, channel: Any = 0) -> Place:
    """The place that a table names; `Refused` if no segment of a usable length can lie there."""
    times = (begin, end)
    if not all(isinstance(time, int | float) and not isinstance(time, bool) for time in times):
        raise Refused("record-shape", "begin and end of the segment: seconds were due")
    if not all(math.isfinite(time) for time in times) or not 0 <= begin < end:
        raise Refused("segment-times", f"no segment lies between {begin} s and {end} s")
    if round(end - begin, 3) > LONGEST:
        raise Refused("audio-long", f"{end - begin:.2f} s, longer than {LONGEST:g} s")
    if not isinstance(channel, int) or channel < 0:
        raise Refused("record-shape", "channel of the segment: a number was due")
    return Place(path, float(begin), float(end), int(channel))


def check_heard(record: Mapping[str, Any]) -> None:
    """Refuses a record whose sound could not be cut, with the reason that was found then."""
    amiss = record.get("amiss")
    if isinstance(amiss, dict):
        raise Refused(str(amiss.get("code")), str(amiss.get("message")))


def gathered(
    source: Store,
    table: tuple[Store, str],
    lines: Iterable[Line | Fault],
    parts: Callable[[Line], Sequence[Piece]],
) -> Iterator[Raw | Fault]:
    """The records of a table's lines, those of one recording together and with their sound.

    `parts` says what records a line holds; it is asked again when the line is read again from `table`. Records that
    need no cutting come first, in the order of the lines.
    """
    recordings, begins, ends, numbers = array("Q"), array("q"), array("q"), array("i")
    for line in lines:
        if isinstance(line, Fault):
            yield line
            continue
        for number, (raw, where) in enumerate(parts(line)):
            if where is None:
                yield raw
            else:
                recordings.append(checksum(where.path.encode(errors="replace")))
                begins.append(line.begin)
                ends.append(line.end)
                numbers.append(number)
    if not recordings:
        return
    store, file = table
    encoding = encoding_of(store, file)
    with store.open(file) as stream:
        for group in _groups(np.array(recordings, dtype=np.uint64)):
            pieces: dict[str, list[Piece]] = {}
            for row in group:
                stream.seek(begins[row])
                text = stream.read(ends[row] - begins[row]).decode(encoding)
                raw, where = parts(Line(text, begins[row], ends[row]))[numbers[row]]
                pieces.setdefault(where.path if where else "", []).append((raw, where))
            for path, mine in pieces.items():
                yield from heard(source, path, mine)


def as_line(found: Record | Fault) -> Line | Fault:
    """A record of JSON Lines (or an array) as the line it stands in."""
    return found if isinstance(found, Fault) else Line(found.raw.decode(), found.begin, found.end)


def _groups(names: NDArray[np.uint64]) -> Iterator[NDArray[np.int64]]:
    """The rows of each name, names in the order in which they first appear."""
    _, first, inverse = np.unique(names, return_index=True, return_inverse=True)
    order = np.argsort(first[inverse], kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(first[inverse][order])) + 1)


def heard(source: Store, path: str, pieces: Iterable[Piece]) -> Iterator[Raw]:
    """The records of one recording with their sound, by begin; where there is none, with the reason in them."""
    waiting = sorted(((raw, where) for raw, where in pieces if where), key=lambda piece: piece[1].begin)
    done = 0
    try:
        with _opened(source, path) as recording:
            for raw, where in waiting:
                flac = recording.cut(where)
                done += 1
                yield _amiss(raw, flac) if isinstance(flac, Refused) else raw._replace(media={CUT[1:]: flac})
    except NotThere:
        refused = Refused("media-missing", f"no '{path}'")
    except Outside as error:
        refused = Refused("media-outside", str(error))
    except Refused as error:
        refused = error
    for raw, _ in waiting[done:]:
        yield _amiss(raw, refused)


def _amiss(raw: Raw, refused: Refused) -> Raw:
    return raw._replace(record={**raw.record, "amiss": {"code": refused.code, "message": refused.message}})


class _Recording:
    """A recording that is being decoded, and the window on it."""

    def __init__(self, path: str, rate: int, blocks: Iterator[Wave]) -> None:
        self._path = path
        self._rate = rate
        self._blocks = blocks
        self._begin = 0  # of the window, in samples
        self._window: Wave = np.zeros((0, 1), np.float32)

    def cut(self, where: Place) -> bytes | Refused:
        """One segment as FLAC. Segments must be asked for by begin; what lies before is forgotten."""
        begin, end = round(where.begin * self._rate), round(where.end * self._rate)
        while self._begin + len(self._window) < end:
            block = next(self._blocks, None)
            passed = min(max(0, begin - self._begin), len(self._window))
            self._begin += passed
            if block is None:
                self._window = self._window[passed:]
                break
            self._window = np.concatenate([self._window[passed:], block]) if passed < len(self._window) else block
        wave = self._window[begin - self._begin : end - self._begin]
        if len(wave) < end - begin - _SLACK * self._rate or not len(wave):
            stop = (self._begin + len(self._window)) / self._rate
            return Refused("audio-cut", f"{self._path}: ends at {stop:.2f} s, inside or before the segment")
        if where.channel >= wave.shape[1]:
            return Refused("audio-channel", f"{self._path}: has {wave.shape[1]} channels, none is {where.channel}")
        mono = wave[:, where.channel]
        if not np.isfinite(mono).all():
            return Refused("audio-unreadable", f"{self._path}: holds samples that are not numbers")
        return encode_flac(np.rint(mono * np.float32(32768)).clip(-32768, 32767).astype(np.int16), self._rate)


@contextmanager
def _opened(source: Store, path: str) -> Iterator[_Recording]:
    """Decoding by libsndfile where it can (it gives Opus at the rate that it was made from), else PyAV."""
    with source.open(path) as stream:
        watched = _Watched(stream)
        try:
            file = soundfile.SoundFile(watched)
        except soundfile.LibsndfileError:
            watched.check()
            stream.seek(0)
            yield from _with_av(stream, path)
        else:
            with file:
                yield _Recording(path, file.samplerate, _blocks(file, watched, path))


def _blocks(file: soundfile.SoundFile, watched: "_Watched", path: str) -> Iterator[Wave]:
    while True:
        try:
            block = file.read(_BLOCK * file.samplerate, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            watched.check()
            raise Refused("audio-unreadable", f"{path}: {error}") from None
        watched.check()
        if not len(block):
            return
        yield block


class _Watched:
    """A file for libsndfile, which would take a store that fails for the end of the recording."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._error: Exception | None = None
        self.seek = self._tried(stream.seek)
        self.tell = self._tried(stream.tell)

    def check(self) -> None:
        """Raises what went wrong on the way."""
        if self._error:
            raise self._error

    def read(self, size: int) -> bytes:
        """Some bytes; none when the store fails."""
        try:
            return self._stream.read(size)
        except (TarsiaError, OSError) as error:
            self._error = error
            return b""

    def _tried(self, act: Callable[..., int]) -> Callable[..., int]:
        def tried(*where: int) -> int:
            try:
                return act(*where)
            except (TarsiaError, OSError) as error:
                self._error = error
                return 0

        return tried


def _with_av(stream: BinaryIO, path: str) -> Iterator[_Recording]:
    try:
        with av.open(stream, "r", options=_SEALED, metadata_errors="ignore") as container:
            streams = container.streams.audio
            if not streams or not streams[0].codec_context:
                raise Refused("audio-unreadable", f"{path}: there is no sound in it")
            yield _Recording(path, streams[0].rate, _frames(container, path))
    except av.FFmpegError as error:
        raise Refused("audio-unreadable", f"{path}: {error.strerror}") from None


def _frames(container: Any, path: str) -> Iterator[Wave]:
    floats = av.AudioResampler(format="flt")  # interleaved, because PyAV crashes on more than eight planes
    parts: list[Wave] = []
    start, samples = None, 0
    try:
        for frame in container.decode(container.streams.audio[0]):
            if frame.time is not None:
                start = frame.time if start is None else start
                if abs(frame.time - start - samples / frame.sample_rate) > _SLACK:
                    raise Refused("audio-unreadable", f"{path}: breaks off at {samples / frame.sample_rate:.2f} s")
            samples += frame.samples
            for part in floats.resample(frame):
                parts.append(part.to_ndarray().astype(np.float32).reshape(-1, part.layout.nb_channels))
            if sum(map(len, parts)) >= _BLOCK * frame.sample_rate:
                yield np.concatenate(parts)
                parts = []
    except ValueError as error:
        raise Refused("audio-unreadable", f"{path}: rate or channels change on the way: {error}") from None
    if parts:
        yield np.concatenate(parts)

"""Recordings of any length, decoded once from begin to end, through a window.

Ten hours are 2 GB of samples, so a window moves over them: it begins where the segment that is asked for begins and
ends with the block decoded last. Segments come out as mono FLAC at the recording's own rate: 16-bit samples are kept as
they are.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

from tarsia.builders.audio import encode_flac
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Refused, TarsiaError

_BLOCK = 4  # seconds decoded at a time
_SLACK = 0.1  # seconds that a table may promise too much, or that time stamps may be off
_SEALED = {"protocol_whitelist": "none"}  # what calls itself a playlist must not open other files

Wave = NDArray[np.float32]  # samples x channels


class Recording:
    """A recording that is being decoded, and the window on it."""

    def __init__(self, path: str, rate: int, blocks: Iterator[Wave]) -> None:
        self._path = path
        self._rate = rate
        self._blocks = blocks
        self._begin = 0  # of the window, in samples
        self._window: Wave = np.zeros((0, 1), np.float32)

    def cut(self, begin: float, end: float, channel: int) -> bytes | Refused:
        """The segment between two times as FLAC, or what is wrong with it.

        Segments must be asked for by begin: what lies before the last one is forgotten.
        """
        first, behind = round(begin * self._rate), round(end * self._rate)
        while self._begin + len(self._window) < behind:
            block = next(self._blocks, None)
            passed = min(max(0, first - self._begin), len(self._window))
            self._begin += passed
            if block is None:
                self._window = self._window[passed:]
                break
            self._window = np.concatenate([self._window[passed:], block]) if passed < len(self._window) else block
        wave = self._window[first - self._begin : behind - self._begin]
        if len(wave) < behind - first - _SLACK * self._rate or not len(wave):
            stop = (self._begin + len(self._window)) / self._rate
            return Refused("audio-cut", f"{self._path}: ends at {stop:.2f} s, inside or before the segment")
        if channel >= wave.shape[1]:
            return Refused("audio-channel", f"{self._path}: has {wave.shape[1]} channels, none is {channel}")
        mono = wave[:, channel]
        if not np.isfinite(mono).all():
            return Refused("audio-unreadable", f"{self._path}: holds samples that are not numbers")
        return encode_flac(np.rint(mono * np.float32(32768)).clip(-32768, 32767).astype(np.int16), self._rate)


@contextmanager
def opened(source: Store, path: str) -> Iterator[Recording]:
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
                yield Recording(path, file.samplerate, _blocks(file, watched, path))


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


def _with_av(stream: BinaryIO, path: str) -> Iterator[Recording]:
    try:
        with av.open(stream, "r", options=_SEALED, metadata_errors="ignore") as container:
            streams = container.streams.audio
            if not streams or not streams[0].codec_context:
                raise Refused("audio-unreadable", f"{path}: there is no sound in it")
            yield Recording(path, streams[0].rate, _frames(container, path))
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

"""Speech as it is stored: the first channel, at one rate, 16-bit, mono FLAC of the same bytes every time.

libsndfile reads WAV, FLAC, MP3, Ogg and their kin; PyAV reads the rest (m4a, webm, amr …) and the sound of videos. The
first channel is what VITA's loaders take. Speech shorter than 0.5 s or longer than 30 s is refused, by the gate of
VITA's own tools, and so is what breaks off before its announced end. At its own rate, 16-bit speech stays bit-exact.
"""

import io
from typing import NamedTuple

import av
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from tarsia.schemas.errors import Refused

SHORTEST, LONGEST = 0.5, 30.0  # seconds, both allowed
SLOWEST, FASTEST = 4_000, 384_000  # Hz; below there is no speech to understand, beyond no such recorder
_SLACK, _SLACK_AV = 0.1, 0.5  # seconds that a header may promise too much: encoders pad
_SEALED = {"protocol_whitelist": "none"}  # what calls itself a playlist must not open other files

Pcm = NDArray[np.int16]
Wave = NDArray[np.float32]  # full scale is 1


class AudioClip(NamedTuple):
    """Stored speech: `samples` at `rate` Hz, from a source of `source_rate` Hz."""

    samples: int
    rate: int
    source_rate: int


def read_audio(data: bytes, *, rate: int, where: str) -> tuple[bytes, AudioClip]:
    """The FLAC to store, and its facts; `Refused` if this is not usable speech."""
    if not data:
        raise Refused("audio-empty", f"{where}: no bytes")
    wave, source_rate = _decode(data, where)
    if not SLOWEST <= source_rate <= FASTEST:
        raise Refused("audio-rate", f"{where}: {source_rate} Hz")
    seconds = len(wave) / source_rate
    if not len(wave):
        raise Refused("audio-empty", f"{where}: no samples")
    if seconds < SHORTEST:
        raise Refused("audio-short", f"{where}: {seconds:.2f} s, shorter than {SHORTEST} s")
    if seconds > LONGEST:
        raise Refused("audio-long", f"{where}: longer than {LONGEST:g} s")
    if not np.isfinite(wave).all():
        raise Refused("audio-unreadable", f"{where}: holds samples that are not numbers")
    samples = _pcm(_resampled(wave, source_rate, rate))
    if not samples.any():
        raise Refused("audio-silent", f"{where}: all samples of the first channel are zero")
    return encode_flac(samples, rate), AudioClip(len(samples), rate, source_rate)


def _decode(data: bytes, where: str) -> tuple[Wave, int]:
    """The first channel and its rate. Reading stops one sample after the longest that is allowed."""
    try:
        file = soundfile.SoundFile(io.BytesIO(data))
    except soundfile.LibsndfileError:
        return _decode_av(data, where)
    with file:
        most = int(LONGEST * file.samplerate) + 1
        try:
            wave = file.read(most, dtype="float32", always_2d=True)[:, 0]
        except soundfile.LibsndfileError as error:
            raise Refused("audio-unreadable", f"{where}: {error}") from None
        promised = min(file.frames, most)
        if len(wave) < promised - _SLACK * file.samplerate or _is_cut(data):
            raise Refused("audio-unreadable", f"{where}: breaks off after {len(wave) / file.samplerate:.2f} s")
        return wave, file.samplerate


def _is_cut(data: bytes) -> bool:
    """Whether a WAV is shorter than its header says, which libsndfile forgives. (Streams say 0 or about 2 or 4 GB.)"""
    return data.startswith(b"RIFF") and len(data) + 1 < int.from_bytes(data[4:8], "little") + 8 < 0x7FFF0000


def _decode_av(data: bytes, where: str) -> tuple[Wave, int]:
    try:
        with av.open(io.BytesIO(data), "r", options=_SEALED, metadata_errors="ignore") as container:
            streams = container.streams.audio
            if not streams or not streams[0].codec_context:
                raise Refused("audio-unreadable", f"{where}: there is no sound in it")
            rate, parts, total = streams[0].rate, [np.zeros(0, np.float32)], 0
            promised = _promised(container)
            floats = av.AudioResampler(format="flt")  # interleaved, because PyAV crashes on more than eight planes
            for frame in container.decode(streams[0]):
                for part in floats.resample(frame):
                    parts.append(part.to_ndarray().astype(np.float32).reshape(-1, part.layout.nb_channels)[:, 0])
                rate, total = frame.sample_rate, total + frame.samples
                if total > LONGEST * rate:
                    break
            else:
                if rate and total / rate < promised - _SLACK_AV:
                    raise Refused("audio-unreadable", f"{where}: breaks off after {total / rate:.2f} s")
    except av.FFmpegError as error:
        raise Refused("audio-unreadable", f"{where}: {error.strerror}") from None
    except ValueError as error:  # rate or channels change on the way
        raise Refused("audio-unreadable", f"{where}: {error}") from None
    return np.concatenate(parts), rate


def _promised(container: av.container.InputContainer) -> float:
    """The seconds of sound that a container announces; 0 where it does not."""
    stream = container.streams.audio[0]
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / av.time_base if len(container.streams) == 1 else 0.0


def resampled_length(samples: int, source_rate: int, rate: int) -> int:
    """How many samples speech has at another rate: rounded up, as torchaudio does, with which VITA resamples."""
    return -(-samples * rate // source_rate)


def resample(samples: Pcm, source_rate: int, rate: int) -> Pcm:
    """16-bit speech at another rate, `resampled_length` long."""
    wave = samples.astype(np.float32) / np.float32(32768)  # exactly: _pcm gives the same samples back
    return _pcm(_resampled(wave, source_rate, rate))


def _resampled(wave: Wave, source_rate: int, rate: int) -> Wave:
    if source_rate == rate:
        return wave
    silence = np.zeros(
        source_rate // rate + 2, np.float32
    )  # so that soxr, which rounds down, gives the last sample too
    length = resampled_length(len(wave), source_rate, rate)
    whole: Wave = soxr.resample(np.concatenate([wave, silence]), source_rate, rate, quality="HQ")
    assert len(whole) >= length, (len(wave), source_rate, rate)
    return whole[:length]


def _pcm(wave: Wave) -> Pcm:
    samples: Pcm = np.rint(wave * np.float32(32768)).clip(-32768, 32767).astype(np.int16)
    return samples


def encode_flac(samples: Pcm, rate: int) -> bytes:
    """Mono FLAC; the same bytes for the same samples under the same libsndfile."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def encode_wav(samples: Pcm, rate: int) -> bytes:
    """Mono WAV of 16 bits, the plainest there is."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def decode_flac(data: bytes) -> Pcm:
    """The samples of a stored FLAC."""
    samples: Pcm = soundfile.read(io.BytesIO(data), dtype="int16")[0]
    return samples


def decode_at(data: bytes, rate: int) -> Pcm:
    """The samples of a stored FLAC at another rate, `resampled_length` long; `Refused` if it cannot be decoded."""
    try:
        samples, own = soundfile.read(io.BytesIO(data), dtype="int16")
    except soundfile.LibsndfileError as error:
        raise Refused("audio-unreadable", str(error)) from None
    return samples if own == rate else resample(samples, own, rate)


def flac_length(data: bytes) -> tuple[int, int]:
    """The samples of a stored FLAC and its rate, from its header; `Refused` without one."""
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            return file.frames, file.samplerate
    except soundfile.LibsndfileError as error:
        raise Refused("audio-unreadable", str(error)) from None

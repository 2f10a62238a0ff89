"""Which part of a sound is speech: told by its levels, or by a network that knows speech from noise.

    energy   the levels of frames (`builders/evidence.py`), 0.1 CPU-ms a clip of 2.5 s: tells speech from silence
    silero   Silero VAD, 2.4 CPU-ms a second of sound: a hiss that comes and goes, or music, is no speech either

Silero's network comes inside faster-whisper (`tarsia[recognise]`); nothing is downloaded. It runs on one thread, so
that equal samples give equal seconds on one kind of processor.
"""

from collections.abc import Callable
from importlib.metadata import version as installed

import numpy as np

from tarsia.builders.audio import resample
from tarsia.builders.evidence import BRIDGE
from tarsia.builders.voices import Wave
from tarsia.schemas.errors import MissingExtra

RATE = 16_000  # Hz
Detector = Callable[[Wave], float]


def detector(name: str) -> Detector | None:
    """Seconds of speech in a wave as `silero` finds them; None for `energy`, which every measure begins with."""
    if name == "energy":
        return None
    _here()
    return _silero


def version(name: str) -> str:
    """What a verdict depends on besides this file: nothing for `energy`."""
    if name == "energy":
        return ""
    _here()
    return ", ".join(f"{one} {installed(one)}" for one in ("faster-whisper", "onnxruntime"))


def _silero(wave: Wave) -> float:
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    sound = resample(wave.samples, wave.rate, RATE).astype(np.float32) / 32768
    options = VadOptions(min_silence_duration_ms=round(BRIDGE * 1000), speech_pad_ms=0)
    found = get_speech_timestamps(sound, options, sampling_rate=RATE)
    return float(sum(part["end"] - part["start"] for part in found)) / RATE


def _here() -> None:
    try:
        import faster_whisper.vad  # noqa: F401
    except ImportError as absent:
        raise MissingExtra("faster-whisper", "recognise") from absent

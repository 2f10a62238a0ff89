"""Hibari inside the process: English, a small neural voice on one CPU thread, far more natural than eSpeak's.

Model, lexicon and letter-to-sound rules are inside the wheel (`tarsia[hibari]`, 14 MB, Apache-2.0; the voice is
distilled from Kokoro-82M's af_heart, Apache-2.0 too), so nothing is downloaded. Options of a voice:

    voice    heart (American, female). The package knows others and would download them; here their files have to be
             where it looks for them
    speed    0.5 to 2, 1 if absent

The breath in the sound is noise; its seed is always the same, and onnxruntime gets one thread, so that equal text gives
equal bytes on one kind of processor (another kind may round otherwise). Text has to be in words already.
"""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import version as installed
from typing import Any

import numpy as np

from tarsia.builders.voices import Wave
from tarsia.schemas.errors import BadVoices, MissingExtra, UnknownName

RATE = 24_000  # Hz
SPEEDS = 0.5, 2.0
_LOUDEST = 32_767


def speak(spoken: str, *, language: str, options: Mapping[str, str]) -> Wave:
    """The text in `options["voice"]`; a text without words gives no samples."""
    if language != "en":
        raise UnknownName("language of Hibari", language, ["en"])
    if strange := options.keys() - {"voice", "speed"}:
        raise UnknownName("option of a Hibari voice", min(strange), ["speed", "voice"])
    sound = _voice(options.get("voice", "heart"))(spoken, speed=_speed(options), seed=0)
    return Wave(np.rint(np.clip(sound, -1, 1) * _LOUDEST).astype(np.int16), RATE)


def version() -> str:
    """The versions of the package, whose model speaks, and of what computes it: scipy too where that is installed."""
    _package()
    from hibari.dsp import FFT_BACKEND

    names = ["hibari-tts", "onnxruntime", *(["scipy"] if FFT_BACKEND == "scipy" else [])]
    return ", ".join(f"{name} {installed(name)}" for name in names)


def _speed(options: Mapping[str, str]) -> float:
    said = options.get("speed", "1")
    try:
        speed = float(said)
    except ValueError:
        speed = 0.0
    if not SPEEDS[0] <= speed <= SPEEDS[1]:
        raise BadVoices(f"Hibari: speed '{said}' is not between {SPEEDS[0]:g} and {SPEEDS[1]:g}")
    return speed


@cache
def _voice(name: str) -> Any:
    package = _package()
    from hibari.voices import VOICES, voice_path

    if name not in VOICES:
        raise UnknownName("Hibari voice", name, VOICES)
    try:
        model = voice_path(name, download_missing=False)
    except FileNotFoundError as absent:
        raise BadVoices(
            f"Hibari voice '{name}' is not inside the package, and there is no {absent}: put it there"
        ) from absent
    return package.Hibari(voice=name, model=model, threads=1)


@cache
def _package() -> Any:
    try:
        import hibari
    except ImportError as absent:
        raise MissingExtra("hibari-tts", "hibari") from absent
    return hibari

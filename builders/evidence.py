"""Is this sound that speech? Pure checks on 16-bit samples: cheap, each with a reason code and the value it measured.

An engine that answers has not yet spoken: GPT-SoVITS sends a silent second for an error, stops early, says things
twice, or talks on for a minute. What every voice must keep to stands here as constants; what one voice must keep to
(its pace, and the silence that its engine leaves at the end) is measured once, on a calibration set, and frozen, so
that a verdict does not depend on when it was given.

Sources of the constants: ranges measured on Kokoro, hibari and eSpeak and on read speech (LibriSpeech, LJ Speech);
"ours" where nothing was measured. Levels are in dB under full scale, times in seconds.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tarsia.builders.voices import Wave
from tarsia.schemas.errors import BadVoices, Refused
from tarsia.schemas.identity import checksum
from tarsia.schemas.model import Model

SHORTEST = 0.4  # s: GPT-SoVITS makes no segment shorter
RUNAWAY = 60.0  # s: 1500 tokens of GPT-SoVITS; a segment that never ends is exactly that long
LEAD_MOST = 1.0  # s of silence before the first word
TAIL_MOST = 1.2  # s after the last; GPT-SoVITS adds 0.3
GAP_MOST = 1.5  # s between words
SPEECH_LEAST = 0.4  # of the clip is speech; 0.53 to 0.95 is normal, 0.49 the least of 71 recordings of people
QUIET = -45.0  # dBFS, root mean square of the whole clip
CLIPPED_MOST = 0.001  # of the samples at full scale
OFFSET_MOST = 0.01  # of full scale, the mean of all samples; ours
STEADY = 2.0  # dB: a hum or a hiss; levels of speech vary by 4.2 to 10.4 (71 recordings, 1,466 eSpeak clips); ours
PACE_LEAST, PACE_MOST = 0.5, 2.0  # of the voice's median: no voice's range is ever wider
PACE_MARGIN = 1.25  # no voice's range is narrower: least = median / this, most = median x this; ours
PACE_SPREADS = 4.0  # standard deviations of the log pace, from the median deviation; ours
CALIBRATION_LEAST = 20  # clips; fewer say nothing of a spread; ours
CALIBRATION_GOOD = 0.8  # of the calibration set must be speech at all; ours

# Of the detector: frames louder than both lines are speech, and so are breaks shorter than BRIDGE.
FRAME = 0.02  # s
FLOOR, DEPTH = -55.0, 30.0  # dBFS; dB under the clip's loud frames (its 95th percentile)
BRIDGE = 0.2  # s

# What a text takes a brisk speaker; only its proportions matter, since every voice is measured by it.
_SECONDS = (
    (re.compile(r"[㐀-鿿豈-﫿]"), 1 / 5),  # 5.0 to 6.1 hanzi a second (Kokoro)
    (re.compile(r"[^\W\d_㐀-鿿豈-﫿]"), 1 / 15),  # 13 to 22 letters a second
    (re.compile(r"\d"), 1 / 4),
    (re.compile(r"[=+%/×÷<>&@#*$€£￥°]"), 2 / 5),  # each is a word
)


def seconds_of(text: str) -> float:
    """About how long a brisk speaker takes for a text in Chinese, English or both."""
    return sum(len(pattern.findall(text)) * seconds for pattern, seconds in _SECONDS)


class Sound(NamedTuple):
    """What can be measured without knowing the text. Times in seconds."""

    seconds: float
    level: float  # dBFS
    offset: float  # -1 to 1
    clipped: float  # share of the samples
    lead: float
    tail: float
    gap: float  # the longest
    speech: float
    variation: float  # dB: standard deviation of the levels of the frames that are speech


def measure(wave: Wave, detector: Callable[[Wave], float] | None = None) -> Sound:
    """The measures of a clip that is not empty; a detector (`builders/detectors.py`) says how much of it is speech."""
    samples = np.asarray(wave.samples, dtype=np.float32)
    frame = round(wave.rate * FRAME)
    count = max(1, len(samples) // frame)
    frames = samples[: count * frame].reshape(count, -1)
    powers = np.einsum("ij,ij->i", frames, frames) / np.float32(frames.shape[1])
    levels = _decibels(powers)
    heard = np.flatnonzero(levels > max(FLOOR, float(np.sort(levels)[int(0.95 * (count - 1))]) - DEPTH))
    seconds = len(samples) / wave.rate
    facts = {
        "seconds": seconds,
        "level": float(_decibels(powers.mean())),
        "offset": float(samples.mean()) / 32768,
        "clipped": np.count_nonzero(np.abs(samples) >= 32767) / len(samples),
    }
    if not len(heard):
        return Sound(**facts, lead=seconds, tail=seconds, gap=0.0, speech=0.0, variation=0.0)
    gaps = (np.diff(heard) - 1) * FRAME
    return Sound(
        **facts,
        lead=int(heard[0]) * FRAME,
        tail=seconds - (int(heard[-1]) + 1) * FRAME,
        gap=float(gaps.max(initial=0.0)),
        speech=detector(wave) if detector else len(heard) * FRAME + float(gaps[gaps <= BRIDGE].sum()),
        variation=float(levels[heard].std()),
    )


def _decibels(power: Any) -> npt.NDArray[np.float32]:
    decibels: npt.NDArray[np.float32] = 10 * np.log10(np.maximum(power, 1e-2)) - np.float32(90.31)  # 32768 squared
    return decibels


class Range(Model):
    """What is accepted, both ends included."""

    least: float
    most: float


class Calibration(Model):
    """What one voice sounds like when it is well; made once and kept, so that verdicts can be repeated."""

    clips: int
    rate: int  # Hz
    pace: Range  # seconds of speech for each second that `seconds_of` expects
    tail: float  # s: the least silence that it left at the end


def calibrate(spoken: Sequence[tuple[str, Wave]], detector: Callable[[Wave], float] | None = None) -> Calibration:
    """The frozen ranges of a voice, from texts as it will be given and what it made of them.

    Medians throughout, so that the few bad clips of a set do no harm; clips that are no speech at all are left out.
    """
    sounds = []
    for text, wave in spoken:
        try:
            sounds.append((seconds_of(text), sound_of(wave, detector), wave.rate))
        except Refused:
            continue
    if len(sounds) < max(CALIBRATION_LEAST, CALIBRATION_GOOD * len(spoken)):
        raise BadVoices(
            f"this voice cannot be calibrated: {len(sounds)} of {len(spoken)} clips are speech; "
            f"at least {CALIBRATION_LEAST} and {CALIBRATION_GOOD:.0%} are needed"
        )
    rates = {rate for *_, rate in sounds}
    if len(rates) > 1:
        raise BadVoices(f"this voice cannot be calibrated: its clips have several rates: {sorted(rates)}")
    paces = np.log([sound.speech / expected for expected, sound, _ in sounds if expected])
    middle = float(np.median(paces))
    spread = PACE_SPREADS * 1.4826 * float(np.median(np.abs(paces - middle)))
    spread = max(spread, float(np.log(PACE_MARGIN)))
    least, most = max(-spread, np.log(PACE_LEAST)), min(spread, np.log(PACE_MOST))
    return Calibration(
        clips=len(sounds),
        rate=rates.pop(),
        pace=Range(least=round(float(np.exp(middle + least)), 4), most=round(float(np.exp(middle + most)), 4)),
        tail=round(float(np.quantile([sound.tail for _, sound, _ in sounds], 0.02)), 3),
    )


def sound_of(wave: Wave, detector: Callable[[Wave], float] | None = None) -> Sound:
    """The measures of a clip that may be speech; `Refused` with code and value if it cannot be."""
    if not len(wave.samples) or not np.any(wave.samples):
        raise Refused("silent", f"{len(wave.samples)} samples, all of them zero")
    sound = measure(wave, detector)
    for code, wrong, said in (
        ("short", sound.seconds < SHORTEST, f"{sound.seconds:.2f} s, less than {SHORTEST} s"),
        ("runaway", sound.seconds >= RUNAWAY, f"{sound.seconds:.1f} s; engines stop at {RUNAWAY:.0f} s"),
        ("clipped", sound.clipped > CLIPPED_MOST, f"{sound.clipped:.2%} of the samples at full scale"),
        ("offset", abs(sound.offset) > OFFSET_MOST, f"the mean is {sound.offset:+.3f} of full scale"),
        ("quiet", sound.level < QUIET, f"{sound.level:.1f} dBFS, under {QUIET:.0f}"),
        ("steady", sound.variation < STEADY, f"levels vary by {sound.variation:.1f} dB: a hum or a hiss"),
        ("lead", sound.lead > LEAD_MOST, f"{sound.lead:.2f} s of silence before the first word"),
        ("tail", sound.tail > TAIL_MOST, f"{sound.tail:.2f} s of silence after the last word"),
        ("gap", sound.gap > GAP_MOST, f"{sound.gap:.2f} s of silence inside"),
    ):
        if wrong:
            raise Refused(code, said)
    enough(sound.speech, sound.seconds)
    return sound


def enough(speech: float, seconds: float) -> None:
    """Nothing if enough of a clip is speech; else `Refused`."""
    if speech < SPEECH_LEAST * seconds:
        raise Refused("little-speech", f"{speech:.2f} s of speech in {seconds:.2f} s")


def judge(wave: Wave, text: str, calibration: Calibration, detector: Callable[[Wave], float] | None = None) -> None:
    """Nothing if this may be that text in that voice; else `Refused` with the reason and the numbers."""
    sound = sound_of(wave, detector)
    expected, pace = seconds_of(text), calibration.pace
    if sound.speech < pace.least * expected:
        raise Refused("hasty", _paced(sound, expected, pace))
    if sound.speech > pace.most * expected:
        raise Refused("drawn-out", _paced(sound, expected, pace))
    if sound.tail < calibration.tail - FRAME and sound.tail < calibration.tail / 2:
        said = f"{sound.tail:.2f} s of silence at the end, where the voice leaves {calibration.tail} s"
        raise Refused("broken-off", said)


def _paced(sound: Sound, expected: float, pace: Range) -> str:
    return (
        f"{sound.speech:.2f} s of speech for a text of about {expected:.2f} s, "
        f"where the voice takes {pace.least * expected:.2f} to {pace.most * expected:.2f} s"
    )


def letters(text: str) -> str:
    """What of a text can be heard: "Why?" and "why" may well sound the same."""
    return "".join(filter(str.isalnum, text)).casefold()


class Heard:
    """Remembers the last clips: the same bytes for another text are an engine that repeats itself."""

    def __init__(self, most: int = 16_384) -> None:
        self._texts: OrderedDict[int, int] = OrderedDict()
        self._most = most  # clips: about 4 MB

    def other(self, wave: Wave, text: str) -> bool:
        """Whether these very samples were heard before, as another text."""
        sound, said = checksum(wave.samples.tobytes()), checksum(letters(text).encode())
        known = self._texts.setdefault(sound, said)
        if len(self._texts) > self._most:
            self._texts.popitem(last=False)
        return known != said

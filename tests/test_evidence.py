"""Evidence: what is not that speech is refused, each with its own reason and the number that gave it away."""

import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sovits_server import speech

from tarsia.builders.evidence import Heard, Range, calibrate, judge, measure, seconds_of, sound_of
from tarsia.builders.voices import Wave
from tarsia.schemas.errors import BadVoices, Refused

RATE = 32_000
TEXT = "What is the man in the red shirt holding?"
TEXTS = [
    f"What {colour} thing {verb} there {when}?"
    for colour in ("red", "yellow", "turquoise", "black and white")
    for verb in ("is", "was lying", "might have been")
    for when in ("", "now", "on the table", "yesterday evening")
]
EXAMPLES = Path(__file__).parents[1] / "examples" / "corpora"


def spoken(text=TEXT, seconds=2.2):
    return speech(text, seconds, RATE)


def wave(*parts):
    """A clip from arrays and, as numbers, seconds of silence."""
    whole = [part if isinstance(part, np.ndarray) else np.zeros(int(part * RATE)) for part in parts]
    return Wave(np.concatenate(whole).astype(np.int16), RATE)


@pytest.fixture(scope="module")
def voice():
    return calibrate([(text, Wave(speech(text, 1.1 * seconds_of(text), RATE), RATE)) for text in TEXTS])


GOOD = spoken()
WORDS = GOOD[: int(2.2 * RATE)]
HUM = 5000 * np.sin(np.arange(2 * RATE) * 0.02)
HISS = np.random.default_rng(1).normal(0, 3000, 2 * RATE)


@pytest.mark.parametrize(
    ("heard", "code", "said"),
    [
        (wave(2.0), "silent", "64000 samples, all of them zero"),
        (wave(0), "silent", "0 samples, all of them zero"),
        (wave(GOOD[: int(0.39 * RATE)]), "short", "0.39 s, less than 0.4 s"),
        (wave(np.resize(WORDS, 60 * RATE)), "runaway", "60.0 s; engines stop at 60 s"),
        (wave(np.clip(12.0 * GOOD, -32768, 32767)), "clipped", " of the samples at full scale"),
        (wave(GOOD + 1000.0), "offset", "the mean is +0.03"),
        (wave(GOOD - 1000.0), "offset", "the mean is -0.03"),
        (wave(GOOD / 60), "quiet", "dBFS, under -45"),
        (wave(HUM), "steady", "levels vary by 0.1 dB: a hum or a hiss"),
        (wave(HISS), "steady", "levels vary by 0."),
        (wave(1.1, GOOD), "lead", "1.12 s of silence before the first word"),
        (wave(GOOD, 1.0), "tail", "1.3"),
        (wave(WORDS[: RATE], 1.6, WORDS[RATE :], 0.3), "gap", "1.6"),
        (wave(0.9, WORDS[: RATE // 2], 0.8), "little-speech", " s of speech in 2.20 s"),
        (wave(WORDS[: RATE], 0.3), "hasty", " s of speech for a text of about 2.13 s, where the voice takes "),
        (wave(WORDS, 0.2, WORDS, 0.3), "drawn-out", " s of speech for a text of about 2.13 s, where the voice takes "),
        (wave(WORDS[: int(2.1 * RATE)]), "broken-off", "0.00 s of silence at the end, where the voice leaves 0.287 s"),
    ],
)  # fmt: skip
def test_what_is_not_that_speech_is_refused_by_its_reason_and_number(heard, code, said, voice):
    with pytest.raises(Refused) as refused:
        judge(heard, TEXT, voice)
    assert refused.value.code == code
    assert said in refused.value.message


def test_good_speech_passes_and_tells_what_it_is(voice):
    assert judge(wave(GOOD), TEXT, voice) is None
    sound = measure(wave(0.5, GOOD))
    assert sound.seconds == 3.0
    assert sound.clipped == 0
    assert abs(sound.offset) < 0.001
    assert sound.lead == pytest.approx(0.52, abs=0.03)
    assert sound.tail == pytest.approx(0.30, abs=0.03)
    assert sound.gap <= 0.2  # between syllables
    assert sound.speech == pytest.approx(2.18, abs=0.04)
    assert -25 < sound.level < -15


def test_recordings_of_people_pass():
    files = (
        sorted(EXAMPLES.glob("**/*.wav")) + sorted(EXAMPLES.glob("**/*.flac")) + sorted(EXAMPLES.glob("**/hsk/*.mp3"))
    )
    assert len(files) == 71
    for file in files:
        sound_of(Wave(*soundfile.read(file, dtype="int16")))


def test_a_calibration_freezes_the_middle_of_a_voice(voice):
    assert (voice.clips, voice.rate) == (48, 32_000)
    assert voice.pace == Range(least=0.8748, most=1.3668)  # 1.09 x, 1.25 either way
    assert voice.tail == 0.287


def test_bad_clips_in_the_calibration_set_do_not_widen_it(voice):
    clips = [(text, Wave(speech(text, 1.1 * seconds_of(text), RATE), RATE)) for text in TEXTS]
    clips[:4] = [(text, wave(2.0)) for text, _ in clips[:4]]
    clips[4:8] = [(text, wave(one.samples, one.samples)) for text, one in clips[4:8]]
    pace = calibrate(clips).pace
    assert pace.least == pytest.approx(voice.pace.least, rel=0.02)
    assert pace.most == pytest.approx(voice.pace.most, rel=0.02)


def test_no_range_is_wider_than_half_to_twice_the_median():
    rng = np.random.default_rng(2)
    clips = [(text, Wave(speech(text, seconds_of(text) * rng.uniform(0.4, 3), RATE), RATE)) for text in TEXTS]
    pace = calibrate(clips).pace
    assert pace.most / pace.least == pytest.approx(4, rel=0.01)


def test_too_few_or_too_bad_clips_are_no_calibration():
    good = [(TEXT, wave(GOOD))]
    with pytest.raises(BadVoices, match="19 of 19 clips are speech; at least 20 and 80% are needed"):
        calibrate(good * 19)
    with pytest.raises(BadVoices, match="60 of 80 clips are speech"):
        calibrate(good * 60 + [(TEXT, wave(2.0))] * 20)
    with pytest.raises(BadVoices, match=r"its clips have several rates: \[24000, 32000\]"):
        calibrate(good * 30 + [(TEXT, Wave(GOOD, 24_000))])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("图中的人在做什么？", 1.6),
        ("Who?", 0.2),
        ("2019年", 1.2),
        ("请打开 iPhone 的相册。", 1.6),
        ("3 + 4", 0.9),
        ("?!", 0),
    ],
)
def test_a_text_is_measured_by_its_hanzi_letters_digits_and_signs(text, seconds):
    assert seconds_of(text) == pytest.approx(seconds)


def test_the_same_bytes_are_noticed_for_another_text_only():
    heard = Heard(most=2)
    assert not heard.other(wave(GOOD), "Why not?")
    assert not heard.other(wave(GOOD), "why not")
    assert heard.other(wave(GOOD), "Because.")
    assert not heard.other(wave(WORDS), "Because.")
    assert not heard.other(wave(HUM), "A hum.")
    assert not heard.other(wave(GOOD), "Forgotten by now.")


def test_espeak_is_told_from_halves_and_doubles_of_itself():
    pytest.importorskip("espeakng_loader", reason="eSpeak comes with the extra 'speech'")
    from tarsia.builders.voices.espeak import speak

    clips = [(text, speak(text, language="en", options={})) for text in TEXTS]
    voice = calibrate(clips)
    refused = {"right": 0, "half": 0, "twice": 0}
    for text, one in clips:
        halves = {"right": one.samples, "half": one.samples[: len(one.samples) // 2], "twice": np.tile(one.samples, 2)}
        for name, samples in halves.items():
            try:
                judge(Wave(samples, one.rate), text, voice)
            except Refused:
                refused[name] += 1
    assert refused == {"right": 0, "half": 48, "twice": 48}


def test_judging_a_clip_costs_little(voice, capsys):
    clip = wave(GOOD)
    began = time.process_time()
    for _ in range(200):
        judge(clip, TEXT, voice)
    cost = (time.process_time() - began) / 200 * 1000
    with capsys.disabled():
        print(f"\n  judging a clip of 2.5 s at 32 kHz: {cost:.2f} CPU-ms")
    assert cost < 10

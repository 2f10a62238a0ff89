"""What of a sound is speech: silence is none to anyone, noise that comes and goes is none to Silero alone."""

import json

import numpy as np
import pytest
from sovits_server import Play, Server

pytest.importorskip("faster_whisper", reason="pip install 'tarsia[recognise]'")
pytest.importorskip("espeakng_loader", reason="pip install 'tarsia[speech]'")

from lakes import verdicts

from tarsia.builders.calibration import CALIBRATION
from tarsia.builders.detectors import detector, version
from tarsia.builders.documents import read_catalog, read_recipe, read_voices
from tarsia.builders.evidence import SPEECH_LEAST, measure, sound_of
from tarsia.builders.lake import Lake
from tarsia.builders.voices import Wave, espeak
from tarsia.pipelines.ingest import ingest
from tarsia.pipelines.pool import open_pool
from tarsia.pipelines.speak import speak
from tarsia.schemas.errors import BadVoices, Refused

SILERO = detector("silero")
RATE = 24_000
NOISE = np.random.default_rng(7).normal(0, 3000, 2 * RATE)
GUSTS = Wave((NOISE * np.sin(np.arange(2 * RATE) / RATE * 8 * np.pi) ** 2).astype(np.int16), RATE)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_speech_of_espeak_is_speech_to_both(language):
    for text in CALIBRATION[language][:12]:
        wave = espeak.speak(text, language=language, options={})
        seconds = len(wave.samples) / wave.rate
        for detect in (None, SILERO):
            assert 0.6 * seconds < sound_of(wave, detect).speech < seconds + 0.01, text


def test_silence_is_speech_to_nobody():
    assert SILERO(Wave(np.zeros(RATE, np.int16), RATE)) == 0.0
    faint = Wave((NOISE / 3000).astype(np.int16), RATE)
    assert (measure(faint).speech, measure(faint, SILERO).speech) == (0.0, 0.0)


def test_noise_that_comes_and_goes_is_speech_by_its_level_alone():
    assert sound_of(GUSTS).speech > SPEECH_LEAST * 2
    with pytest.raises(Refused, match="little-speech: "):
        sound_of(GUSTS, SILERO)


def test_speech_between_pauses_is_told_from_them():
    words = espeak.speak("How many birds are sitting on the wire?", language="en", options={})
    pause = np.zeros(2 * words.rate, np.int16)
    both = Wave(np.concatenate([pause, words.samples, pause]), words.rate)
    assert abs(SILERO(both) - len(words.samples) / words.rate) < 0.4


def test_equal_samples_give_equal_seconds():
    wave = espeak.speak("Who is standing behind the counter?", language="en", options={})
    assert len({SILERO(wave) for _ in range(5)}) == 1


# --- in a lake ------------------------------------------------------------------------------------------------------

OPTIONS = "{model: v2, ref_audio_path: /r/anna.wav, prompt_text: Good morning., prompt_lang: en}"
SERVED = f"{{engine: gptsovits, language: en, options: {OPTIONS}}}"


@pytest.fixture
def town(tmp_path):
    """Twelve questions, all to be heard."""
    things = ("bicycle", "teapot", "umbrella", "violin", "lantern", "suitcase")
    texts = [f"What is the {thing} doing {place}?" for thing in things for place in ("on the roof", "in the hall")]
    records = [{"id": str(n), "instruction": text, "output": "Nothing."} for n, text in enumerate(texts)]
    (tmp_path / "roofs.json").write_text(json.dumps(records))
    (tmp_path / "catalog.yaml").write_text(
        "corpora:\n  roofs: {format: alpaca, kind: qa, language: en, licence: CC0, root: ., files: '*.json'}\n"
    )
    (tmp_path / "all.yaml").write_text(
        "model: all\nseed: 3\ncontext: {tokens: 600}\nstages:\n"
        "  all: {title: all, train: [llm], spoken: 100%, take: {qa: 100%}}\n"
    )
    lake = Lake(str(tmp_path / "lake"))
    with open_pool(1) as pool:
        ingest(read_catalog(tmp_path / "catalog.yaml"), lake, pool, quiet=True)
    return tmp_path, lake


def say(town, page, name="anna"):
    folder, lake = town
    (folder / f"{name}.yaml").write_text(page)
    with open_pool(1) as workers:
        recipe, voices = read_recipe(str(folder / "all.yaml")), read_voices(str(folder / f"{name}.yaml"))
        return speak(recipe, lake, voices, workers, quiet=True, pause=lambda _: 0.01).questions[0]


def test_a_pool_keeps_to_its_detector(town):
    lake = town[1]
    page = "voices: {anna: {engine: espeak, language: en}}\n"
    report = say(town, f"{page}detector: silero\n")
    assert (report.spoken, report.refused) == (12, {})
    settled = json.loads(lake.store.read("voices/anna/check.json"))
    assert settled == {"detector": f"silero of {version('silero')}"}
    with pytest.raises(BadVoices, match="or give the pool another name"):
        say(town, page)
    assert say(town, page, "other").spoken == 12
    with pytest.raises(BadVoices, match=r"voices.yaml: detector: .*'energy' or 'silero'"):
        say(town, f"{page}detector: webrtc\n", "voices")


def test_what_a_server_rustles_is_refused_by_silero_and_accepted_by_its_level(town):
    lake = town[1]

    def rule(body, _number):
        return Play("rustle" if "violin" in body["text"] else "speech")

    with Server(rule) as server:
        page = f"voices: {{anna: {SERVED}}}\nendpoints: {{gptsovits: [{server.url}]}}\n"
        assert (say(town, page).spoken, say(town, f"{page}detector: silero\n", "keen").refused) == (
            12, {"little-speech": 2},
        )  # fmt: skip
    refused = [row["spoken"] for row in verdicts(lake, "keen").values() if row["reason"]]
    assert len(refused) == 2
    assert all("violin" in text for text in refused)
    measured = {entry.path.rpartition("/")[2] for entry in lake.store.list("voices/keen")}
    assert len(measured) == 2  # with its check.json
    assert any(name.endswith("-silero.json") for name in measured)

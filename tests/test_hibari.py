"""The Hibari engine: equal text, equal bytes; wrong settings are told."""

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("hibari", reason="hibari-tts is not installed: pip install 'tarsia[hibari]'")

from tarsia.builders.clips import accept
from tarsia.builders.documents import read_voices
from tarsia.builders.voices import hibari
from tarsia.schemas.errors import BadVoices, UnknownName

TEXTS = ["What is in the picture?", "How many people are standing near the red car?", "Who won in nineteen oh five?"]


def said(text, **options):
    return hibari.speak(text, language="en", options=options)


def test_it_speaks_at_24_khz_for_about_as_long_as_a_person_would():
    for text in TEXTS:
        wave = accept(said(text))
        letters = sum(map(str.isalpha, text))
        assert wave.rate == 24_000
        assert 8 < letters / (len(wave.samples) / wave.rate) < 25
        assert 3000 < np.abs(wave.samples.astype(int)).max() <= 32_767


def test_equal_text_gives_equal_bytes_in_every_order_thread_and_process():
    here = [hashlib.md5(said(text).samples.tobytes()).hexdigest() for text in TEXTS]
    with ThreadPoolExecutor(3) as threads:
        again = list(threads.map(said, TEXTS[::-1]))[::-1]
    assert [hashlib.md5(wave.samples.tobytes()).hexdigest() for wave in again] == here
    code = (
        "import hashlib, sys\nfrom tarsia.builders.voices import hibari\n"
        "for text in sys.argv[1:]:\n"
        "    wave = hibari.speak(text, language='en', options={})\n"
        "    print(hashlib.md5(wave.samples.tobytes()).hexdigest())\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *TEXTS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == here


def test_a_faster_voice_is_shorter():
    assert len(said(TEXTS[0], speed="1.5").samples) < 0.8 * len(said(TEXTS[0]).samples)


def test_what_it_cannot_do_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("HIBARI_HOME", str(tmp_path))
    for options, message in (
        ({"voice": "hart"}, "no Hibari voice 'hart'; did you mean 'heart'"),
        ({"voice": "emma"}, "is not inside the package"),
        ({"speed": "3"}, "speed '3' is not between 0.5 and 2"),
        ({"speed": "fast"}, "speed 'fast' is not"),
        ({"pitch": "1"}, "no option of a Hibari voice 'pitch'"),
    ):
        with pytest.raises((BadVoices, UnknownName), match=message):
            said(TEXTS[0], **options)
    with pytest.raises(UnknownName, match="no language of Hibari 'zh'"):
        hibari.speak("你好", language="zh", options={})


def test_the_pool_that_comes_with_it():
    (voice,) = read_voices("hibari").voices
    assert (voice.engine, voice.language, voice.options) == ("hibari", "en", {"voice": "heart"})
    assert "hibari-tts 0." in hibari.version()


def test_without_the_package_the_extra_is_named():
    code = (
        "import sys; sys.modules['hibari'] = None\n"
        "from tarsia.builders.voices import hibari\nfrom tarsia.schemas.errors import MissingExtra\n"
        "try:\n    hibari.version()\nexcept MissingExtra as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "this needs the package 'hibari-tts': pip install 'tarsia[hibari]'"

import json
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import numpy as np
import pytest

from tarsia.builders.voices.espeak import speak, version
from tarsia.schemas.errors import UnknownName

pytest.importorskip("espeakng_loader", reason="eSpeak comes with the extra 'speech'")

LINES = [
    ("What is the man in the red shirt holding?", "en", "en-us"),
    ("How many bicycles are there?", "en", "en-us+f3"),  # breath and echo
    ("How many bicycles are there?", "en", "en-gb+croak"),  # strong flutter
    ("Where was this taken?", "en", "en-us+whisper"),  # noise alone
    ("Where was this taken?", "en", "en-us+klatt4"),  # eSpeak's other synthesiser
    ("图中的人在做什么？", "zh", "cmn"),
    ("桌子上有几个苹果？", "zh", "cmn+f1"),
    ("请打开 iPhone 的相册。", "zh", "cmn+m1"),
]
IN_A_FRESH_PROCESS = """
import json, sys
from hashlib import sha256
from tarsia.builders.voices.espeak import speak
for spoken, language, voice in json.load(sys.stdin):
    print(sha256(speak(spoken, language=language, options={"voice": voice}).samples.tobytes()).hexdigest())
"""


def heard(line):
    spoken, language, voice = line
    return sha256(speak(spoken, language=language, options={"voice": voice}).samples.tobytes()).hexdigest()


def samples(spoken, language, voice):
    return speak(spoken, language=language, options={"voice": voice}).samples


def test_equal_words_give_equal_bytes_whatever_was_spoken_before():
    order = LINES * 12
    random.Random(1).shuffle(order)
    assert len({(line, heard(line)) for line in order}) == 8


def test_two_fresh_processes_speak_as_this_one_does():
    for lines in (LINES, LINES[::-1]):
        python = [sys.executable, "-c", IN_A_FRESH_PROCESS]
        spoken = subprocess.run(python, input=json.dumps(lines), text=True, capture_output=True, check=True)
        assert spoken.stdout.split() == [heard(line) for line in lines]


def test_threads_speak_side_by_side_without_hearing_each_other():
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(heard, LINES * 6)) == [heard(line) for line in LINES] * 6


@pytest.mark.parametrize(
    ("spoken", "language", "least", "most"),
    [
        ("What is the man in the red shirt holding?", "en", 1.6, 2.6),
        ("图中的人在做什么？", "zh", 1.4, 2.4),
        ("2019年的最大值是多少？", "zh", 2.4, 4.0),
        ("请打开 iPhone 的相册。", "zh", 1.7, 2.8),
    ],
)
def test_questions_last_as_long_as_a_person_would_take(spoken, language, least, most):
    wave = speak(spoken, language=language, options={})
    assert wave.rate == 22050
    assert wave.samples.dtype == np.int16
    assert least < len(wave.samples) / wave.rate < most
    assert np.sqrt(np.mean(np.square(wave.samples.astype(float)))) > 1000


def test_words_in_the_other_script_get_the_other_voice_in_the_same_variant():
    whole = samples("2019年 iPhone 15 的相册", "zh", "cmn+f1")
    parts = [("2019年 ", "cmn+f1"), ("iPhone 15 ", "en-us+f1"), ("的相册", "cmn+f1")]
    assert np.array_equal(whole, np.concatenate([samples(part, "zh", voice) for part, voice in parts]))
    assert np.array_equal(whole, samples("2019年 iPhone 15 的相册", "en", "en-us+f1"))


def test_a_text_without_letters_is_read_in_its_language():
    assert np.array_equal(samples("3+4", "zh", "cmn"), samples("3+4", "zh", "en-us"))
    assert not np.array_equal(samples("3+4", "zh", "cmn"), samples("3+4", "en", "en-us"))


def test_no_voice_named_is_the_first_of_the_language():
    assert np.array_equal(speak("Who?", language="en", options={}).samples, samples("Who?", "en", "en-us"))
    assert np.array_equal(speak("谁？", language="zh", options={}).samples, samples("谁？", "zh", "cmn"))


def test_nothing_to_say_is_an_empty_wave():
    wave = speak("", language="en", options={})
    assert (len(wave.samples), wave.samples.dtype, wave.rate) == (0, np.int16, 22050)


def test_a_question_mark_alone_is_silence():
    assert not speak("?", language="en", options={}).samples.any()


@pytest.mark.parametrize(
    ("options", "language", "message"),
    [
        ({"voice": "en-uk"}, "en", "no eSpeak voice 'en-uk'; did you mean 'en-us'? Known: cmn, en-029, en-gb,"),
        ({"voice": "en-us+f33"}, "en", "no variant of an eSpeak voice 'f33'; did you mean 'f3'?"),
        ({"voice": "en-us+klatt6"}, "en", "no variant of an eSpeak voice 'klatt6'"),  # its noise is C's rand()
        ({"speed": "3"}, "en", "no option of an eSpeak voice 'speed'. Known: voice"),
        ({}, "fr", "no language of eSpeak 'fr'. Known: en, zh"),
    ],
)
def test_unknown_voices_are_named_with_the_known_ones(options, language, message):
    with pytest.raises(UnknownName) as error:
        speak("Who?", language=language, options=options)
    assert str(error.value).startswith(message)


def test_the_version_names_the_engine_and_the_package_of_its_voices():
    assert version().startswith("espeak-ng 1.")
    assert ", espeakng-loader " in version()


def test_without_the_package_the_extra_is_named():
    without = "import sys; sys.modules['espeakng_loader'] = None; "
    python = [sys.executable, "-c", without + "from tarsia.builders.voices import espeak; espeak.version()"]
    failed = subprocess.run(python, text=True, capture_output=True, check=False)
    assert "MissingExtra: this needs the package 'espeakng-loader': pip install 'tarsia[speech]'" in failed.stderr

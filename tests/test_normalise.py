"""Words for what is written: a table of cases checked by eye, and what holds for every text."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("wetext", reason="wetext is not installed: pip install 'tarsia[speech]'")

from tarsia.builders.english import cardinal, ordinal, year
from tarsia.builders.mandarin import numeral
from tarsia.builders.normalise import normalise
from tarsia.builders.speech import SPOKEN_RULES, spoken_form, unspeakable
from tarsia.builders.spelling import simplified

TABLE = Path(__file__).with_name("normalise.tsv")
CASES = [tuple(line.split("\t")) for line in TABLE.read_text(encoding="utf-8").splitlines()]

PIECES = {
    "en": ["How many", "the cat", "is", "$", "%", "-", " - ", "3", "1990", "1,200", "2.5", "/", ":", "km", "May", "pm",
           "'s", "No.", "GPT-4", "+", "=", "x", "st", "°C", "?", ".", ",", "...", "(", ")", "\"", "’", "&", "½", "①",
           "Dr.", "IV", "~", "#", "v2.0", "@", "—", "\n", "é", "10:30", "007", "５", "^2", "😀"],
    "zh": ["多少", "第", "年", "月", "元", "￥", "$", "%", "-", "3", "1990", "2.5", "/", "：", ":", "km", "个", "点",
           "半", "GPT-4", "+", "=", "x", "℃", "？", "。", "，", "……", "（", "）", "“", "”", "&", "½", "①", "No.",
           "~", "v2.0", "《", "》", "—", "\n", "10:30", "007", "５", "^2", "A", "iPhone 12", "2", "1,200", "～"],
}  # fmt: skip


def test_the_table_has_enough_of_both_languages():
    languages = [case[0] for case in CASES]
    assert languages.count("en") >= 120
    assert languages.count("zh") >= 120


@pytest.mark.parametrize(("language", "written", "said"), CASES)
def test_what_is_written_is_said_so(language, written, said):
    assert normalise(written, language) == said


@st.composite
def texts(draw, language):
    pieces = draw(st.lists(st.sampled_from(PIECES[language]) | st.text(max_size=3), max_size=8))
    return draw(st.sampled_from(["", " "])).join(pieces)


@pytest.mark.parametrize("language", ["en", "zh"])
@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_what_is_said_has_no_digits_and_is_said_the_same_again(language, data):
    said = normalise(data.draw(texts(language)), language)
    assert not re.search(r"\d", said)
    assert "\n" not in said
    assert normalise(said, language) == said


@pytest.mark.parametrize("language", ["en", "zh"])
@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_whatever_can_be_spoken_has_a_spoken_form(language, data):
    text = data.draw(texts(language))
    if unspeakable(text, language) is None:
        assert re.search(r"[^\W\d_]", spoken_form(text, language))


def test_every_process_and_thread_says_the_same():
    here = [normalise(written, language) for language, written, _ in CASES]
    code = (
        "import sys\nfrom tarsia.builders.normalise import normalise\n"
        "cases = [line.rstrip('\\n').split('\\t') for line in open(sys.argv[1], encoding='utf-8')]\n"
        "sys.stdout.buffer.write('\\n'.join(normalise(case[1], case[0]) for case in reversed(cases)).encode())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code, TABLE], capture_output=True, check=True, env=environment)
    assert done.stdout.decode().split("\n")[::-1] == here
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda case: normalise(case[1], case[0]), CASES * 4)) == here * 4


def test_the_rules_have_a_name_that_tells_the_version_of_wetext():
    assert re.fullmatch(r"[\w.-]+", SPOKEN_RULES)
    assert "wetext-0." in SPOKEN_RULES


def test_without_wetext_nothing_is_guessed():
    code = (
        "import sys; sys.modules['wetext'] = None\n"
        "from tarsia.builders.speech import spoken_form, unspeakable\n"
        "from tarsia.schemas.errors import MissingExtra\n"
        "print(unspeakable('Who are you?', 'en'))\n"
        "try:\n    spoken_form('Who are you?', 'en')\n"
        "except MissingExtra as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["None", "this needs the package 'wetext': pip install 'tarsia[speech]'"]


def test_numbers_in_words():
    assert [cardinal(n) for n in (0, 21, 100, 1_000_001)] == ["zero", "twenty one", "one hundred", "one million one"]
    assert [ordinal(n) for n in (1, 12, 20, 103)] == ["first", "twelfth", "twentieth", "one hundred third"]
    assert [year(n) for n in (1066, 1900, 1905, 2000, 2009, 2024)] == [
        "one thousand sixty six", "nineteen hundred", "nineteen oh five", "two thousand", "two thousand nine",
        "twenty twenty four",
    ]  # fmt: skip
    assert [numeral(n) for n in (10, 105, 1_010, 20_300, 100_000_001)] == [
        "十", "一百零五", "一千零一十", "二万零三百", "一亿零一",
    ]  # fmt: skip


def test_traditional_characters_are_made_simple():
    assert simplified("這個問題很簡單") == "这个问题很简单"

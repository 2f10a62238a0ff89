"""What holds for every reader, whatever it is given: a draft or a refusal, and never anything else."""

import json
from contextlib import suppress

import pytest
import test_readers
import test_readers_containers
import test_readers_more
import test_readers_speech
from hypothesis import given, settings
from hypothesis import strategies as st
from test_readers import JSON, changed, draft, drafted_or_refused

from tarsia.builders.corpora import find, formats
from tarsia.builders.samples import check_turns
from tarsia.schemas.errors import Refused

KINDS = ["caption", "qa", "asr", "tts", "noise"]
#: A sound record of every format, and the kind it is of.
SOUND = [
    *(("qa", *item) for item in test_readers.SOUND.items()),
    *(("qa", *item) for item in test_readers_more.SOUND.items()),
    *(("caption", *item) for item in test_readers_containers.SOUND.items()),
    *(("asr", *item) for item in test_readers_speech.SOUND.items()),
    ("tts", "sentences", {"text": "The sea was calm at noon,"}),
    ("noise", "answers", {"answers": ["The sea was calm at noon. It rained later."]}),
]
every_sound_record = pytest.mark.parametrize(("kind", "format_", "record"), SOUND, ids=lambda value: str(value)[:12])


def test_every_format_is_put_to_the_test():
    assert {format_ for _, format_, _ in SOUND} == set(formats())


@pytest.mark.parametrize("format_", formats())
def test_a_reader_says_what_a_record_is(format_):
    reader = find(format_)
    assert reader.RECORD
    assert all("*" in pattern for pattern in reader.FILES)


@every_sound_record
def test_the_records_that_are_mutated_below_are_sound(kind, format_, record):
    check_turns(draft(format_, record, kind=kind))


@pytest.mark.parametrize("format_", formats())
@settings(max_examples=100)
@given(record=JSON)
def test_any_json_is_drafted_or_refused(format_, record):
    drafted_or_refused(format_, record)


@every_sound_record
@settings(max_examples=200)
@given(data=st.data())
def test_any_change_to_a_sound_record_is_drafted_or_refused(kind, format_, record, data):
    record = json.loads(json.dumps(record))
    for _ in range(data.draw(st.integers(1, 3))):
        record = changed(record, data)
    drafted_or_refused(format_, record)
    with suppress(Refused):
        draft(format_, record, kind=data.draw(st.sampled_from(KINDS)), language="zh+en", media="a/b")

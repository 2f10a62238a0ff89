"""Filters: what is not within them is quarantined as `filtered`, with filter and value; nothing is evaluated."""

import re

import pytest

from tarsia.builders.corpora import At
from tarsia.builders.documents import read_catalog
from tarsia.builders.filters import filter_media, filter_record, filter_turns
from tarsia.builders.records import understand
from tarsia.schemas.corpus import Corpus
from tarsia.schemas.errors import BadCatalog, Refused
from tarsia.schemas.sample import AudioFacts, Draft, ImageFacts, Turn, VideoFacts


def corpus(**filters):
    entry = {"format": "llava", "kind": "qa", "language": "en", "licence": "", "root": "/nowhere"}
    return Corpus(name="some", filters=filters, **entry)


def said(check, *given):
    """What a filter says of a record, or None where it lets it pass."""
    try:
        check(*given)
    except Refused as refused:
        return str(refused).removeprefix("filtered: ")
    return None


def talk(*texts):
    return tuple(Turn(speaker="gpt" if n % 2 else "human", text=text) for n, text in enumerate(texts))


def image(width, height):
    return ImageFacts(member="0.jpg", width=width, height=height, digest="")


def audio(seconds):
    return AudioFacts(member="0.flac", samples=round(seconds * 16_000), rate=16_000, source_rate=8_000, digest="")


def video(seconds, size=(64, 48)):
    return VideoFacts(frames=(), length=round(seconds * 25), fps=25.0, width=size[0], height=size[1])


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"questions": "1..2"}, None),
        ({"questions": 2}, None),
        ({"questions": "3.."}, "questions: 2 is not within 3.."),
        ({"questions": 1}, "questions: 2 is not within 1..1"),
        ({"question_chars": "5..10"}, None),
        ({"question_chars": "6.."}, "question_chars: 5 is not within 6.."),
        ({"answer_chars": "..11"}, None),
        ({"answer_chars": "..10"}, "answer_chars: 11 is not within ..10"),
        ({"contains": "boat"}, None),
        ({"contains": ["moon", "boat"]}, None),
        ({"contains": ["moon", "sun"]}, "contains: none of 'moon', 'sun'"),
        ({"lacks": ["moon"]}, None),
        ({"lacks": ["moon", "sea"]}, "lacks: 'sea' is in it"),
    ],
)
def test_conversations_are_filtered_by_what_is_said_without_placeholders(filters, message):
    turns = talk("<image>\nWhat?", "A red boat.", "And there?", "The sea.")
    assert said(filter_turns, turns, corpus(**filters)) == message


def test_the_language_is_that_of_the_sample():
    fields = {**corpus().model_dump(), "language": "zh+en", "filters": {"language": "zh"}}
    mixed = Corpus.model_validate(fields)
    assert said(filter_turns, talk("这是什么？", "A boat."), mixed) is None
    assert said(filter_turns, talk("What?", "A boat."), mixed) == "language: it is not zh"


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"width": "100..", "height": "50..100", "ratio": "..2", "seconds": "1..20"}, None),
        ({"width": "201.."}, "width: 200 is not within 201.."),
        ({"height": "..99"}, "height: 100 is not within ..99"),
        ({"ratio": "..1.5"}, "ratio: 2 is not within ..1.5"),
        ({"seconds": "1.5..20"}, "seconds: 1.25 is not within 1.5..20"),
        ({"seconds": "..3"}, "seconds: 4 is not within ..3"),
    ],
)
def test_media_are_filtered_by_what_is_stored_of_each(filters, message):
    facts = ([image(200, 100), image(200, 100)], [audio(1.25)], [video(4, (200, 100))])
    assert said(filter_media, *facts, corpus(**filters)) == message


def test_both_ends_of_a_range_are_within():
    for seconds, passes in ((0.9, False), (1, True), (2, True), (2.1, False)):
        assert (said(filter_media, [], [audio(seconds)], [], corpus(seconds="1..2")) is None) == passes


def test_filters_of_media_that_a_sample_has_not_let_it_pass():
    assert said(filter_media, [], [], [], corpus(width="224..", seconds="1..2")) is None


RECORD = {"split": "train", "valid": True, "n": 3, "meta": {"score": 0.25, "tags": ["a"]}, "none": None}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"split": "train", "valid": True, "n": 3, "meta.score": "0.2..0.3"}, None),
        ({"split": ["val", "train"]}, None),
        ({"split": "val"}, "record.split: 'train' is not 'val'"),
        ({"split": ["val", "test"]}, "record.split: 'train' is not 'val' or 'test'"),
        ({"valid": False}, "record.valid: True is not False"),
        ({"valid": 1}, "record.valid: True is not 1"),
        ({"n": True}, "record.n: 3 is not True"),
        ({"n": 3.0}, None),
        ({"n": ["..1", "3..4"]}, None),
        ({"meta.score": "0.5.."}, "record.meta.score: 0.25 is not '0.5..'"),
        ({"meta.scores": 1}, "record.meta.scores: the record has no such field"),
        ({"meta.tags.0": "a"}, "record.meta.tags.0: the record has no such field"),
        ({"none": "a"}, "record.none: None is not 'a'"),
        ({"meta": "a"}, "record.meta: {'score': 0.25, 'tags': ['a']} is not 'a'"),
    ],
)
def test_fields_of_the_raw_record_are_equal_one_of_several_or_in_a_range(wanted, message):
    assert said(filter_record, RECORD, corpus(record=wanted)) == message


def test_a_record_that_is_no_object_has_no_field():
    assert (
        said(filter_record, ["train"], corpus(record={"split": "train"}))
        == "record.split: the record has no such field"
    )


def test_a_long_value_is_shown_in_part():
    message = said(filter_record, {"a": "b" * 500}, corpus(record={"a": "c"}))
    assert message.endswith("b… is not 'c'")
    assert len(message) < 100


class Reader:
    """Drafts a record, and remembers that it did."""

    def __init__(self):
        self.drafted = 0

    def draft(self, record, at):
        self.drafted += 1
        return Draft(turns=talk("What?", record["answer"]))


def test_a_record_that_its_fields_keep_out_is_not_even_drafted():
    reader, at = Reader(), At(corpus(record={"split": "train"}, answer_chars="3.."), "a", "0" * 32)
    with pytest.raises(Refused, match=re.escape("record.split: 'val' is not 'train'")):
        understand({"split": "val"}, at, reader)
    assert reader.drafted == 0
    with pytest.raises(Refused, match=re.escape("answer_chars: 1 is not within 3..")):
        understand({"split": "train", "answer": "a"}, at, reader)
    assert understand({"split": "train", "answer": "abc"}, at, reader).turns[1].text == "abc"


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (
            "{turns: 1..8}",
            "no key 'filters.turns'. Known: answer_chars, contains, height, lacks, language, question_chars, "
            "questions, ratio, record, seconds, width",
        ),
        ("{widht: 1..8}", "no key 'filters.widht'; did you mean 'width'?"),
        ("{width: 8..1}", "filters.width: no number is within 8..1"),
        ("{width: ..}", "filters.width: '..' is no range; write 1..8, 224.. or ..4"),
        ("{width: wide}", "filters.width: 'wide' is no range"),
        ("{width: 1...8}", "filters.width: '1...8' is no range"),
        ("{width: true}", "filters.width: Input should be a valid string"),
        ("{seconds: ..-1}", "filters.seconds: nothing is within ..-1: it is at least 0"),
        ("{ratio: ..0.5}", "filters.ratio: nothing is within ..0.5: it is at least 1"),
        ("{language: zh}", "filters.language: the corpus speaks en, never zh"),
        ("{language: de}", "filters.language: Input should be 'en' or 'zh'"),
        ("{contains: ''}", "filters.contains: an empty text stands everywhere"),
        ("{record: {a..b: 1}}", "filters.record: 'a..b' is no path"),
        ("{record: {a: []}}", "filters.record: a: nothing is one of no values"),
        ("{record: {a: 5..1}}", "filters.record: no number is within 5..1"),
        ("7", "filters: Input should be a valid dictionary"),
    ],
)
def test_an_impossible_filter_is_a_mistake_in_the_catalog(tmp_path, filters, message):
    entry = f"{{format: llava, kind: qa, language: en, licence: CC0, root: raw, filters: {filters}}}"
    (tmp_path / "page.yaml").write_text(f"corpora: {{a: {entry}}}")
    with pytest.raises(BadCatalog, match=re.escape(message)):
        read_catalog(tmp_path / "page.yaml")

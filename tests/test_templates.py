"""Questions of a corpus's own, or of a set that its catalog names, reach every reader that draws any."""

import re

import pytest

from tarsia.builders.corpora import At, find
from tarsia.builders.documents import read_catalog
from tarsia.builders.reading.templates import NAMES, REQUESTS, TEMPLATES, choose
from tarsia.schemas.corpus import Corpus
from tarsia.schemas.errors import BadCatalog, Refused, UnknownName
from tarsia.schemas.identity import key_of

OWN = {"en": ("Own one.", "Own two.", "Own three."), "zh": ("自己的一。", "自己的二。")}
BOXES = [{"transcription": "A", "points": [[0, 0], [9, 0], [9, 4], [0, 4]]}]
BOX = {"polygon": [[0, 0], [9, 0], [9, 4], [0, 4]], "text": "A"}

#: A record of each format that has only an answer, and the kind of its corpus.
ANSWERS = {
    "coco": ("caption", {"caption": "a dog", "file_name": "1.jpg"}),
    "image_text": ("caption", {"caption": "a dog", "image": "1.jpg"}),
    "nextgpt": ("caption", {"caption": "a dog", "image_name": "1.jpg"}),
    "video": ("caption", {"caption": "a dog", "video": "1.mp4"}),
    "parquet": ("caption", {"text": "a dog", "image": {"medium": "image", "at": "@image", "bytes": 4}}),
    "webdataset": ("caption", {"members": {"jpg": 1}, "txt": "a dog"}),
    "anyword": ("caption", {"img_name": "1.jpg", "caption": "a dog", "annotations": []}),
    "donut": ("caption", {"file_name": "1.jpg", "ground_truth": '{"gt_parse": {"text_sequence": "A"}}'}),
    "icdar": ("caption", {"id": "1", "images": ["1.jpg"], "lines": ["0,0,9,0,9,4,0,4,A"]}),
    "lsvt": ("caption", {"id": "1", "image": "1.jpg", "boxes": BOXES}),
    "ppocrlabel": ("caption", {"image": "1.jpg", "found": "1.jpg", "boxes": BOXES}),
    "ppocr_rec": ("caption", {"image": "1.jpg", "found": "1.jpg", "text": "A"}),
    "mmocr": ("caption", {"img_path": "1.jpg", "instances": [BOX]}),
    "librispeech": ("asr", {"id": "1-2-3", "text": "A WORD", "audio": "1.flac"}),
    "ljspeech": ("tts", {"id": "1", "raw": "a word", "normalised": "a word", "audio": "1.wav"}),
    "wavcaps": ("caption", {"id": "1", "caption": "a bell", "sound": "1.flac"}),
    "aishell": ("asr", {"id": "1", "text": "a word", "audio": "1.wav"}),
    "common_voice": ("asr", {"path": "1.mp3", "sentence": "a word"}),
    "audio_list": ("asr", {"id": "1", "text": "a word", "audio": "1.wav"}),
    "vita_audio": (
        "asr",
        {
            "messages": [
                {"role": "user", "content": "Convert the speech to text.\n<|audio|>"},
                {"role": "assistant", "content": "a word"},
            ],
            "audios": ["1.wav"],
        },
    ),
    "plain": ("qa", {"text": "One sentence here. And one more there. And a third one."}),
}


def at(format_, kind, identity="1", language="en", **more):
    entry = {"kind": kind, "language": language, "licence": "", "root": "/nowhere", **more}
    return At(Corpus(name="some", format=format_, **entry), "some.json", key_of("some", identity))


def questions(format_, **more):
    """What is asked under many keys, without placeholders."""
    kind, record = ANSWERS[format_]
    drafts = [find(format_).draft(record, at(format_, kind, str(number), **more)) for number in range(40)]
    return {re.sub("<image>|<video>|<audio>", "", draft.turns[0].text).strip() for draft in drafts}


@pytest.mark.parametrize("format_", ANSWERS)
def test_own_questions_reach_every_reader_that_has_only_answers(format_):
    asked = questions(format_, template=OWN)
    words = {question.partition("\n")[0] for question in asked}
    assert words == set(OWN["en"]), asked


@pytest.mark.parametrize("format_", ["coco", "librispeech", "ljspeech", "icdar", "plain"])
def test_own_questions_are_asked_in_the_language_of_the_sample(format_):
    words = {question.partition("\n")[0] for question in questions(format_, template=OWN, language="zh")}
    assert words == set(OWN["zh"])


def test_speech_stands_alone_unless_the_catalog_gives_it_a_question():
    assert questions("librispeech") == {""}
    assert questions("vita_audio") == {""}
    assert questions("ljspeech") == {"a word"}
    assert questions("librispeech", template="transcribe-speech") <= set(TEMPLATES["transcribe-speech", "en"])
    named = questions("ljspeech", template="speak-text")
    assert {question.partition("\n")[0] for question in named} <= set(TEMPLATES["speak-text", "en"])
    assert {question.partition("\n")[2] for question in named} == {"a word"}


@pytest.mark.parametrize("name", ["describe-video", "read-text"])
def test_a_set_that_is_named_is_drawn_from(name):
    asked = questions("coco", template=name)
    assert len(asked) > 4
    assert asked <= set(TEMPLATES[name, "en"])


@pytest.mark.parametrize("name", ["locate-text", "text-in-box"])
def test_questions_about_boxes_are_refused_where_there_are_none(name):
    with pytest.raises(Refused, match=f"template-unfit: '{name}' asks about boxes, and there is none"):
        questions("coco", template=name)


def test_requests_beside_a_records_own_question_stay_as_they_are():
    for name in REQUESTS:
        assert choose(name, "en", at("vqa", "qa", template=OWN)) in TEMPLATES[name, "en"]


def test_which_question_is_a_draw_of_the_key_as_of_the_sets():
    own = {"en": TEMPLATES["describe-image", "en"]}
    for number in range(50):
        mine = choose("describe-image", "en", at("coco", "caption", str(number), template=own))
        assert mine == choose("describe-image", "en", at("coco", "caption", str(number)))


def test_every_set_has_both_languages_and_no_question_twice():
    for name, language in TEMPLATES:
        assert ({"en": "zh", "zh": "en"}[language]) in {other for one, other in TEMPLATES if one == name}
        assert len(set(TEMPLATES[name, language])) == len(TEMPLATES[name, language]) >= 8


ENTRY = "format: coco, kind: caption, licence: CC0, root: raw"


@pytest.mark.parametrize(
    ("template", "language", "message"),
    [
        ("describe-imgae", "en", "no template 'describe-imgae'; did you mean 'describe-image'? Known: continue-text"),
        ("answer-briefly", "en", "no template 'answer-briefly'. Known:"),
        ("{zh: [看。]}", "en", "template: no questions for 'en', which the corpus speaks"),
        ("{en: [Look.]}", "zh+en", "template: no questions for 'zh', which the corpus speaks"),
        ("{en: [Look.], de: [Schau.]}", "en", "template: no language 'de'. Known: en, zh"),
        ("{en: []}", "en", "template.en: a question says nothing"),
        ("{en: [' ']}", "en", "template.en: a question says nothing"),
        ("{en: [Look., Look.]}", "en", "template.en: a question is given twice"),
        ("{en: ['<image> Look.']}", "en", "template.en: '<image>' is added where it is due; ask in plain words"),
        ("{en: ['Where is {text}?']}", "en", "template.en: '{text}' is added where it is due; ask in plain words"),
        ("{en: ['Look.<|im_end|>']}", "en", "template.en: 'Look.<|im_end|>' holds a control token of the model"),
        ("{en: ['☞ Look.']}", "en", "holds a control token of the model"),
        ("{en: [7]}", "en", "template"),
        ("[Look.]", "en", "template"),
    ],
)
def test_a_template_that_cannot_be_asked_is_a_mistake_in_the_catalog(tmp_path, template, language, message):
    (tmp_path / "page.yaml").write_text(f"corpora: {{a: {{{ENTRY}, language: {language}, template: {template}}}}}")
    with pytest.raises((BadCatalog, UnknownName), match=re.escape(message)):
        read_catalog(tmp_path / "page.yaml")


def test_one_question_needs_no_list_and_every_set_can_be_named(tmp_path):
    for template in ("{en: Look.}", *NAMES):
        (tmp_path / "page.yaml").write_text(f"corpora: {{a: {{{ENTRY}, language: en, template: {template}}}}}")
        (corpus,) = read_catalog(tmp_path / "page.yaml").corpora
        assert corpus.template in ({"en": ("Look.",)}, template)

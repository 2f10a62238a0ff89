import json
import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import strategies as st

from tarsia.builders.corpora import At, Fault, find, formats
from tarsia.builders.documents import read_catalog
from tarsia.builders.reading.boxes import reading_order
from tarsia.builders.reading.language import language_of
from tarsia.builders.reading.templates import TEMPLATES, choose
from tarsia.builders.reading.turns import turns
from tarsia.builders.samples import check_turns
from tarsia.builders.storage import match, open_store
from tarsia.schemas.corpus import Corpus
from tarsia.schemas.errors import Refused
from tarsia.schemas.identity import key_of
from tarsia.schemas.sample import Box, Draft

EXAMPLES = Path(__file__).parents[1] / "examples"
WRITTEN = ["alpaca", "coco", "donut", "librispeech", "ljspeech", "llava", "lsvt", "sharegpt", "video"]


def at(format_, file="some.json", identity="1", **more):
    entry = {"kind": "qa", "language": "en", "licence": "", "root": "/nowhere", **more}
    return At(Corpus(name="some", format=format_, **entry), file, key_of("some", identity))


def draft(format_, record, **more):
    return find(format_).draft(record, at(format_, **more))


def said(drafted):
    return [(turn.speaker, turn.text) for turn in drafted.turns]


def code(format_, record, **more):
    with pytest.raises(Refused) as refused:
        draft(format_, record, **more)
    return refused.value.code


def read(folder, format_, files=None):
    for name, content in (files or {}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    reader = find(format_)
    store = open_store(str(folder))
    names = [entry.path for pattern in reader.FILES for entry in match(store, pattern)]
    return [found for name in names for found in reader.read(store, name)]


def talk(*pairs):
    return [{"from": speaker, "value": text} for speaker, text in pairs]


HELLO = talk(("human", "hello"), ("gpt", "hi"))


# --- all formats ----------------------------------------------------------------------------------------------------


def test_the_formats_are_the_readers_and_not_what_they_share():
    assert set(WRITTEN) <= set(formats())
    assert not {"fields", "jsonfile", "language", "templates", "textfile", "turns"} & set(formats())


EXPECTED = {
    "coco_en": 45,
    "mathv_en": 40,
    "synthdog_zh": 8,
    "synthdog_en": 6,
    "signs_zh": 8,
    "bunny_en": 6,
    "bunny_zh": 6,
    "librispeech_en": 16,
    "hsk_zh": 50,
    "ljspeech_en": 5,
    "seed_tasks_en": 101,
    "hsk_sentences_zh": 100,
    "chat_zh": 93,
}


@pytest.mark.parametrize("corpus", read_catalog(EXAMPLES / "catalog.yaml").corpora, ids=lambda corpus: corpus.name)
def test_the_corpora_of_the_repository_are_understood_to_the_last_record(corpus):
    store, reader = open_store(corpus.root), find(corpus.format)
    drafts = 0
    for pattern in corpus.files:
        for entry in match(store, pattern):
            for found in reader.read(store, entry.path):
                assert not isinstance(found, Fault), found
                drafted = reader.draft(found.record, At(corpus, entry.path, key_of(corpus.name, found.id or "")))
                check_turns(drafted)
                for path in drafted.images + drafted.videos + drafted.audios:
                    assert store.entry(f"{corpus.media}/{path}" if corpus.media else path), path
                drafts += 1
    assert drafts == EXPECTED[corpus.name]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
BOX = {"transcription": "路口", "points": [[0, 0], [9, 0], [9, 4], [0, 4]], "illegibility": False}
SOUND = {
    "alpaca": {"id": 1, "instruction": "Sort these.", "input": "b a", "output": "a b"},
    "coco": {"id": 1, "image_id": 2, "caption": "A dog.", "file_name": "000002.jpg"},
    "donut": {"file_name": "0.jpg", "ground_truth": '{"gt_parse": {"text_sequence": "some words"}}'},
    "librispeech": {"id": "1-2-3", "text": "HELLO", "audio": "1/2/1-2-3.flac"},
    "ljspeech": {"id": "LJ1", "raw": "10", "normalised": "ten", "audio": "wavs/LJ1.wav"},
    "llava": {"id": 1, "image": ["a.jpg"], "audio": "b.wav", "messages": talk(("user", "<image>hi"), ("gpt", "hello"))},
    "lsvt": {"id": "gt_0", "image": "train_full_images_0/gt_0.jpg", "boxes": [BOX, BOX]},
    "sharegpt": {"id": "a", "items": [*talk(("gpt", "I am here.")), *HELLO, {"role": "user", "content": "bye"}]},
    "video": {"id": 1, "video": "a.mp4", "caption": "A dog runs.", "conversations": None},
}


def drafted_or_refused(format_, record):
    with suppress(Refused):
        drafted = draft(format_, record)
        assert isinstance(drafted, Draft)
        assert [turn.speaker for turn in drafted.turns] == ["human", "gpt"] * (len(drafted.turns) // 2)


def changed(value, data):
    """The value with one part of it replaced, removed or doubled."""
    if isinstance(value, dict | list) and value and data.draw(st.integers(0, 4)):
        key = data.draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
        copy = value.copy()
        match data.draw(st.sampled_from(["inside", "inside", "removed", "doubled"])):
            case "removed":
                copy.pop(key)
            case "doubled" if isinstance(copy, list):
                copy.insert(key, copy[key])
            case _:
                copy[key] = changed(copy[key], data)
        return copy
    return data.draw(JSON | st.sampled_from(["", " ", "<image>", "###", "human", [[]], [[1, "2"]], '{"gt_parse": 1}']))


# --- turns ----------------------------------------------------------------------------------------------------------


def spoken(*pairs):
    return [(turn.speaker, turn.text) for turn in turns(talk(*pairs))]


def refused(*pairs):
    with pytest.raises(Refused) as error:
        turns(talk(*pairs))
    return error.value.code


def test_role_and_content_are_read_as_from_and_value():
    given = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    assert turns(given) == turns(HELLO)


def test_a_greeting_before_the_first_question_is_dropped():
    assert spoken(("gpt", "I am here."), ("human", "hello"), ("gpt", "hi")) == [("human", "hello"), ("gpt", "hi")]


def test_a_last_question_without_an_answer_is_dropped():
    assert spoken(("human", "hello"), ("gpt", "hi"), ("human", "bye")) == [("human", "hello"), ("gpt", "hi")]


def test_a_human_turn_that_is_only_a_picture_belongs_to_the_question_after_it():
    assert spoken(("user", "<image>"), ("user", "What is it?"), ("assistant", "A cat.")) == [
        ("human", "<image>\nWhat is it?"),
        ("gpt", "A cat."),
    ]


@pytest.mark.parametrize(
    ("pairs", "code"),
    [
        ([], "conversation-empty"),
        ([("gpt", "hi")], "conversation-empty"),
        ([("human", "hello")], "answer-empty"),
        ([("human", "hello"), ("gpt", " \n")], "answer-empty"),
        ([("human", ""), ("gpt", "hi")], "question-empty"),
        ([("human", "a"), ("human", "b"), ("gpt", "c")], "roles-order"),
        ([("human", "a"), ("gpt", "b"), ("gpt", "c")], "roles-order"),
        ([("human", "a"), ("tool", "b")], "roles-unknown"),
        ([("human", "a"), (None, "b")], "roles-unknown"),
        ([("human", "a"), ("gpt", None)], "text-missing"),
        ([("human", [{"type": "text", "text": "a"}]), ("gpt", "b")], "text-missing"),
        ([("system", "Be brief."), ("human", "a"), ("gpt", "b")], "roles-system"),
    ],
)
def test_what_no_trainer_could_use_is_refused(pairs, code):
    assert refused(*pairs) == code


def test_an_empty_system_prompt_is_dropped():
    assert spoken(("system", " "), ("human", "hello"), ("gpt", "hi")) == [("human", "hello"), ("gpt", "hi")]


# --- templates and language -----------------------------------------------------------------------------------------


def test_mixed_corpora_are_told_apart_by_one_hanzi():
    assert [language_of("zh+en", text) for text in ("hello", "hello 你", "", "ひらがな")] == ["en", "zh", "en", "en"]
    assert [language_of("zh", "hello"), language_of("en", "你好")] == ["zh", "en"]


def test_every_template_comes_in_both_languages_and_eight_to_ten_forms():
    assert {language for _, language in TEMPLATES} == {"zh", "en"}
    for (_, language), questions in TEMPLATES.items():
        assert 8 <= len(set(questions)) == len(questions) <= 10
        assert all((language_of("zh+en", question) == "zh") == (language == "zh") for question in questions)


def test_a_template_is_drawn_by_the_key_and_all_of_them_are_used():
    drawn = [choose("describe-image", "en", at("coco", identity=str(number))) for number in range(300)]
    assert drawn == [choose("describe-image", "en", at("coco", identity=str(number))) for number in range(300)]
    assert set(drawn) == set(TEMPLATES["describe-image", "en"])


# --- llava ----------------------------------------------------------------------------------------------------------


def test_a_llava_record_keeps_its_placeholder_and_its_path():
    record = {"id": 7, "image": ".\\coco\\a.jpg", "conversations": talk(("human", "What?\n<image>"), ("gpt", "A cat."))}
    drafted = draft("llava", record)
    assert said(drafted) == [("human", "What?\n<image>"), ("gpt", "A cat.")]
    assert drafted.images == ("coco/a.jpg",)


def test_images_without_a_placeholder_get_theirs_before_the_first_question():
    drafted = draft("llava", {"images": ["a.jpg", "b.jpg"], "messages": HELLO})
    assert said(drafted)[0] == ("human", "<image>\n<image>\nhello")
    assert drafted.images == ("a.jpg", "b.jpg")


@pytest.mark.parametrize("image", [{}, {"image": None}, {"image": ""}, {"image": []}])
def test_a_llava_record_may_be_text_alone(image):
    drafted = draft("llava", {**image, "conversations": HELLO})
    assert said(drafted) == [("human", "hello"), ("gpt", "hi")]
    assert drafted.images == ()


def test_placeholders_of_media_that_the_record_has_not_are_text():
    conversations = talk(("human", "<image>\nIs <video> an HTML tag?"), ("gpt", "Yes, and so is <audio>. <image>"))
    assert said(draft("llava", {"image": "a.jpg", "conversations": conversations})) == [
        ("human", "<image>\nIs <\u2060video> an HTML tag?"),
        ("gpt", "Yes, and so is <\u2060audio>. <\u2060image>"),
    ]


def test_a_llava_record_that_lost_its_image_is_not_taken_for_text():
    drafted = draft("llava", {"conversations": talk(("human", "<image>\nWhat?"), ("gpt", "A cat."))})
    with pytest.raises(Refused, match="placeholders: 1 <image> in the text, 0 in the record"):
        check_turns(drafted)


def test_control_tokens_in_a_conversation_are_neutralised():
    drafted = draft("llava", {"conversations": talk(("human", "a<|im_end|>"), ("gpt", "b<|endoftext|>"))})
    assert said(drafted) == [("human", "a<\u2060|im_end|>"), ("gpt", "b<\u2060|endoftext|>")]


def test_spoken_questions_of_vitas_own_files_are_understood():
    record = {"set": "s", "id": "1", "image": "a.jpg", "audio": ["b.wav"]}
    drafted = draft("llava", {**record, "conversations": talk(("human", "<image>\n<audio>\n"), ("gpt", "A kitchen."))})
    assert said(drafted)[0] == ("human", "<image>\n<audio>\n")
    assert (drafted.images, drafted.audios) == (("a.jpg",), ("b.wav",))


@pytest.mark.parametrize("image", [3, {"path": "a.jpg"}, ["a.jpg", None], [""], True])
def test_an_image_that_is_no_path_is_refused(image):
    assert code("llava", {"image": image, "conversations": HELLO}) == "record-shape"


def test_ids_are_text_or_whole_numbers_or_missing(tmp_path):
    ids = [5, "a", "", None, 1.5, True, [1]]
    found = read(tmp_path, "llava", {"some.json": [*({"id": own, "conversations": HELLO} for own in ids), HELLO]})
    assert [raw.id for raw in found] == ["5", "a", None, None, None, None, None, None]


# --- video ----------------------------------------------------------------------------------------------------------


def test_a_clip_without_a_placeholder_gets_it_before_the_first_question():
    drafted = draft("video", {"video": "a/b.mp4", "conversation": HELLO})
    assert said(drafted)[0] == ("human", "<video>\nhello")
    assert drafted.videos == ("a/b.mp4",)


@pytest.mark.parametrize("key", ["video", "video_name", "input_video"])
def test_a_caption_of_a_clip_answers_a_question(key):
    drafted = draft("video", {"id": 3, key: "a.mp4", "caption": " Roses. "}, kind="caption")
    (_, question), answer = said(drafted)
    assert question.removeprefix("<video>\n") in TEMPLATES["describe-video", "en"]
    assert answer == ("gpt", "Roses.")


def test_a_clip_with_sound_keeps_both():
    record = {
        "videos": ["a.mp4"],
        "audios": ["a.mp3"],
        "messages": talk(("human", "<video><audio>What?"), ("gpt", "Rain.")),
    }
    drafted = draft("video", record)
    assert (drafted.videos, drafted.audios) == (("a.mp4",), ("a.mp3",))
    assert said(drafted)[0] == ("human", "<video><audio>What?")


def test_a_clip_that_is_only_an_answer_is_refused():
    assert code("video", {"output_video": "a.mp4", "conversations": HELLO}) == "record-shape"


# --- coco -----------------------------------------------------------------------------------------------------------

COCO = {
    "info": {"year": 2017},
    "annotations": [
        {"image_id": 2, "id": 11, "caption": "A dog.\n"},
        {"image_id": 9, "id": 12, "caption": "Nothing."},
        {"image_id": 2, "id": 13, "caption": "一只狗 <image>"},
    ],
    "images": [{"id": 2, "file_name": "000002.jpg"}],
}


def test_a_caption_is_joined_with_the_name_of_its_image(tmp_path):
    found = read(tmp_path, "coco", {"annotations/captions_x.json": COCO})
    assert [(raw.id, raw.record["file_name"]) for raw in found] == [
        ("11", "000002.jpg"),
        ("12", None),
        ("13", "000002.jpg"),
    ]
    data = (tmp_path / "annotations/captions_x.json").read_bytes()
    assert [json.loads(data[raw.begin : raw.end])["id"] for raw in found] == [11, 12, 13]


def test_a_caption_answers_a_question_in_its_own_language():
    record = {"id": 13, "file_name": "000002.jpg"}
    (_, english), answer = said(draft("coco", {**record, "caption": "A dog.\n"}, language="zh+en"))
    assert english.removeprefix("<image>\n") in TEMPLATES["describe-image", "en"]
    assert answer == ("gpt", "A dog.")
    (_, chinese), answer = said(draft("coco", {**record, "caption": "一只狗 <image>"}, language="zh+en"))
    assert chinese.removeprefix("<image>\n") in TEMPLATES["describe-image", "zh"]
    assert answer == ("gpt", "一只狗 <\u2060image>")


def test_a_caption_of_no_image_and_an_empty_one_are_refused():
    assert code("coco", {"id": 12, "image_id": 9, "caption": "Nothing.", "file_name": None}) == "record-shape"
    assert code("coco", {"id": 12, "caption": " \n", "file_name": "a.jpg"}) == "answer-empty"


def test_a_truncated_coco_file_gives_the_captions_before_the_cut(tmp_path):
    whole = json.dumps({"images": COCO["images"], "annotations": COCO["annotations"]})
    found = read(tmp_path, "coco", {"captions_x.json": whole[:-20]})
    assert [getattr(raw, "id", None) or raw.code for raw in found] == ["11", "12", "json-truncated"]


def test_a_json_file_without_annotations_is_one_fault(tmp_path):
    assert [raw.code for raw in read(tmp_path, "coco", {"captions_x.json": {"images": []}})] == ["record-shape"]
    assert [raw.code for raw in read(tmp_path, "coco", {"captions_x.json": [1, 2]})] == ["json-broken"]


# --- lsvt -----------------------------------------------------------------------------------------------------------


def box(text, left, top, width, height, readable=True):
    right, bottom = left + width, top + height
    return Box(text=text, points=((left, top), (right, top), (right, bottom), (left, bottom)), readable=readable)


def test_boxes_are_read_in_lines_from_top_to_bottom():
    boxes = [box("4", 0, 30, 50, 10), box("3", 60, 11, 50, 10), box("2", 0, 13, 50, 10), box("1", 10, 0, 50, 10)]
    assert reading_order(boxes) == "1\n2 3\n4"


def test_upright_boxes_are_read_in_columns_from_right_to_left():
    boxes = [box("花落知多少", 0, 0, 20, 100), box("春眠不觉晓", 90, 0, 20, 100), box("处处闻啼鸟", 45, 5, 20, 100)]
    assert reading_order(boxes) == "春眠不觉晓\n处处闻啼鸟\n花落知多少"


def test_a_single_character_that_is_higher_than_wide_makes_no_column():
    assert reading_order([box("1", 0, 0, 10, 20), box("2", 20, 0, 10, 20)]) == "1 2"


def test_an_image_is_looked_for_in_all_folders(tmp_path):
    for name in ("train_full_images_0/gt_0.jpg", "train_full_images_1/gt_1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"jpeg")
    found = read(tmp_path, "lsvt", {"train_full_labels.json": {"gt_0": [BOX], "gt_1": [BOX], "gt_2": []}})
    assert [(raw.id, raw.record["image"]) for raw in found] == [
        ("gt_0", "train_full_images_0/gt_0.jpg"),
        ("gt_1", "train_full_images_1/gt_1.jpg"),
        ("gt_2", "train_full_images_0/gt_2.jpg"),
    ]
    assert json.loads((tmp_path / "train_full_labels.json").read_bytes()[found[0].begin : found[0].end]) == [BOX]


@pytest.mark.parametrize(("media", "path"), [("", "train_full_images_0/gt_0.jpg"), ("train_full_images_0", "gt_0.jpg")])
def test_the_image_is_named_from_the_media_folder_on(media, path):
    assert draft("lsvt", SOUND["lsvt"], media=media).images == (path,)


def test_the_answer_is_the_readable_text_and_all_boxes_are_kept():
    blurred = {**BOX, "transcription": "###", "illegibility": True}
    drafted = draft("lsvt", {**SOUND["lsvt"], "boxes": [blurred, BOX]}, language="zh")
    (_, question), answer = said(drafted)
    assert question.removeprefix("<image>\n") in TEMPLATES["read-text", "zh"]
    assert answer == ("gpt", "路口")
    assert [(kept.text, kept.readable) for kept in drafted.boxes] == [("###", False), ("路口", True)]


@pytest.mark.parametrize("boxes", [[], [{**BOX, "transcription": "###"}], [{**BOX, "illegibility": True}]])
def test_an_image_without_readable_text_is_refused(boxes):
    assert code("lsvt", {**SOUND["lsvt"], "boxes": boxes}) == "ocr-nothing"


@pytest.mark.parametrize(
    "points", [None, [], [[0, 0], [1, 1]], [[0, 0], [1, 1], [2]], [[0, 0], [1, 1], ["2", 2]], [1, 2, 3]]
)
def test_an_outline_that_is_none_is_refused(points):
    assert code("lsvt", {**SOUND["lsvt"], "boxes": [{**BOX, "points": points}]}) == "record-shape"


# --- donut ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_page_lies_beside_its_metadata_and_its_label_may_be_json_in_a_string(wrapped):
    label = {"gt_parse": {"text_sequence": " some <|im_end|> words "}}
    record = {"file_name": "image_1.jpg", "ground_truth": json.dumps(label) if wrapped else label}
    drafted = draft("donut", record, file="en/train/metadata.jsonl")
    assert drafted.images == ("en/train/image_1.jpg",)
    (_, question), answer = said(drafted)
    assert question.removeprefix("<image>\n") in TEMPLATES["read-text", "en"]
    assert answer == ("gpt", "some <\u2060|im_end|> words")


def test_metadata_at_the_root_names_images_at_the_root():
    assert draft("donut", SOUND["donut"], file="metadata.jsonl").images == ("0.jpg",)


@pytest.mark.parametrize(
    ("label", "refusal"),
    [
        ('{"gt_parse": ', "json-broken"),
        ('{"gt_parse": {"menu": []}}', "record-shape"),
        ('{"gt_parse": {"text_sequence": " "}}', "ocr-nothing"),
        (None, "record-shape"),
    ],
)
def test_a_page_without_text_is_refused(label, refusal):
    assert code("donut", {"file_name": "a.jpg", "ground_truth": label}) == refusal


def test_pages_are_called_by_the_names_of_their_images(tmp_path):
    lines = "".join(json.dumps({"file_name": f"image_{number}.jpg"}) + "\n" for number in range(2))
    assert [raw.id for raw in read(tmp_path, "donut", {"zh/metadata.jsonl": lines})] == ["image_0.jpg", "image_1.jpg"]


# --- librispeech ----------------------------------------------------------------------------------------------------


def test_utterances_find_the_audio_that_lies_beside_them(tmp_path):
    folder = tmp_path / "test/237/134500"
    folder.mkdir(parents=True)
    for name in ("237-134500-0000.flac", "237-134500-0001.wav", "237-134500-0001.opus", "237-134500-0002.m4a"):
        (folder / name).write_bytes(b"audio")
    lines = (
        "237-134500-0000 MARIE SIGHED\r\n237-134500-0001\tA  B\n\n237-134500-0002 C\n237-134500-0003 D\n237-134500-0004"
    )
    found = read(tmp_path, "librispeech", {"test/237/134500/237-134500.trans.txt": lines})
    assert [(raw.record["text"], raw.record["audio"].removeprefix("test/237/134500/237-134500-")) for raw in found] == [
        ("MARIE SIGHED", "0000.flac"),
        ("A  B", "0001.wav"),
        ("C", "0002.m4a"),
        ("D", "0003.flac"),
        ("", "0004.flac"),
    ]
    assert lines[found[1].begin : found[1].end] == "237-134500-0001\tA  B"


def test_an_utterance_is_asked_in_speech_and_answered_by_its_transcript():
    drafted = draft("librispeech", {"id": "237-134500-0001", "text": "MARIE <SIGHED>", "audio": "a/b.flac"}, kind="asr")
    assert said(drafted) == [("human", "<audio>"), ("gpt", "MARIE <SIGHED>")]
    assert (drafted.audios, drafted.speaker) == (("a/b.flac",), "237")


def test_an_utterance_without_a_transcript_is_refused():
    assert code("librispeech", {**SOUND["librispeech"], "text": ""}) == "answer-empty"


def test_a_line_in_another_encoding_is_a_fault_and_the_others_are_read(tmp_path):
    (tmp_path / "1-2.trans.txt").write_bytes(
        "\ufeff1-2-0 你\n".encode() + "1-2-1 你\n".encode("gb18030") + b"1-2-2 C\n"
    )
    found = read(tmp_path, "librispeech")
    assert [getattr(raw, "id", None) or raw.code for raw in found] == ["1-2-0", "text-encoding", "1-2-2"]
    assert [(raw.begin, raw.end) for raw in found] == [(3, 12), (13, 21), (22, 29)]


# --- ljspeech -------------------------------------------------------------------------------------------------------

LINE = 'LJ001-0007|the "forty-two" of 1455, <audio>|the "forty-two" of fourteen fifty-five, <audio>\n'


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("tts", [("human", 'the "forty-two" of fourteen fifty-five, <\u2060audio>'), ("gpt", "<audio>")]),
        ("asr", [("human", "<audio>"), ("gpt", 'the "forty-two" of 1455, <\u2060audio>')]),
    ],
)
def test_a_sentence_is_read_in_the_direction_of_its_kind(tmp_path, kind, expected):
    (found,) = read(tmp_path, "ljspeech", {"LJ/metadata.csv": LINE})
    drafted = draft("ljspeech", found.record, file="LJ/metadata.csv", kind=kind)
    assert said(drafted) == expected
    assert drafted.audios == ("LJ/wavs/LJ001-0007.wav",)


def test_a_table_of_two_columns_has_one_text_and_other_widths_are_faults(tmp_path):
    found = read(tmp_path, "ljspeech", {"metadata.csv": "a|Ten.\nb\nc|1|2|3\n|x|x\n"})
    assert found[0].record == {"id": "a", "raw": "Ten.", "normalised": "Ten.", "audio": "wavs/a.wav"}
    assert [raw.code for raw in found[1:]] == ["record-shape"] * 3


def test_a_recording_without_text_is_refused():
    assert code("ljspeech", {**SOUND["ljspeech"], "normalised": " "}, kind="tts") == "text-missing"


# --- alpaca and sharegpt --------------------------------------------------------------------------------------------


def test_the_input_stands_below_the_instruction():
    assert said(draft("alpaca", SOUND["alpaca"])) == [("human", "Sort these.\nb a"), ("gpt", "a b")]


@pytest.mark.parametrize("given", ["", " \n", None])
def test_an_instruction_without_input_stands_alone(given):
    assert said(draft("alpaca", {**SOUND["alpaca"], "input": given}))[0] == ("human", "Sort these.")


def test_placeholders_in_an_instruction_are_text():
    record = {"instruction": "What does <audio> do?", "input": "", "output": "<audio> plays sound."}
    assert said(draft("alpaca", record)) == [
        ("human", "What does <\u2060audio> do?"),
        ("gpt", "<\u2060audio> plays sound."),
    ]


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"output": ""}, "answer-empty"),
        ({"instruction": " ", "input": ""}, "question-empty"),
        ({"output": None}, "record-shape"),
        ({"instruction": 3}, "record-shape"),
        ({"input": ["b"]}, "record-shape"),
    ],
)
def test_an_instruction_that_teaches_nothing_is_refused(change, refusal):
    assert code("alpaca", {**SOUND["alpaca"], **change}) == refusal


@pytest.mark.parametrize("key", ["conversations", "conversation", "messages", "items"])
def test_talks_are_text_and_nothing_else(key):
    record = {"id": "a", key: talk(("human", "What is <image>?"), ("gpt", "<image> is a tag."))}
    assert said(draft("sharegpt", record)) == [("human", "What is <\u2060image>?"), ("gpt", "<\u2060image> is a tag.")]


def test_a_talk_without_turns_is_refused():
    assert code("sharegpt", {"id": "a", "turns": ["hello"]}) == "record-shape"


def test_refusals_name_the_key_that_is_amiss():
    with pytest.raises(Refused, match=re.escape("record-shape: output: text was due, not nothing")):
        draft("alpaca", {"instruction": "a"})

"""Readers of OCR, questions and text, and the encodings that files come in."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_readers import at, code, draft, read, said, talk

from tarsia.builders.corpora import Fault, plain
from tarsia.builders.reading import encoding
from tarsia.builders.reading.boxes import about_text, thousandths
from tarsia.builders.reading.boxes import box as marked
from tarsia.builders.reading.boxes import placed as located
from tarsia.builders.reading.choices import option
from tarsia.builders.reading.encoding import encoding_of
from tarsia.builders.reading.jsonfile import keyed, listed, records, whole
from tarsia.builders.reading.pictures import Paths, from_media, named
from tarsia.builders.reading.templates import TEMPLATES
from tarsia.builders.reading.textfile import lines, paragraphs
from tarsia.builders.samples import check_turns
from tarsia.builders.storage import open_store
from tarsia.schemas.errors import Refused

CORNERS = [[0, 0], [9, 0], [9, 4], [0, 4]]
FLAT = [0, 0, 9, 0, 9, 4, 0, 4]
SOUND = {
    "anyword": {
        "img_name": "ref1.jpg",
        "caption": "A sign.",
        "annotations": [{"polygon": CORNERS, "text": "路口", "language": "Chinese", "valid": True}],
    },
    "belle": {"instruction": "Human:你好\nAssistant:你好！\nHuman:再见\nAssistant:", "input": "", "output": "再见！"},
    "icdar": {"id": "img_1", "images": ["a/img_1.jpg"], "lines": ["0,0,9,0,9,4,0,4,STOP", "0,5,9,5,9,9,0,9,###"]},
    "mathv": {
        "id": "4",
        "question": "How many?\n<image1>",
        "options": ["5", "6"],
        "answer": "B",
        "image": "images/4.jpg",
    },
    "mmocr": {
        "img_path": "1.jpg",
        "found": "imgs/1.jpg",
        "width": 90,
        "height": 40,
        "instances": [{"polygon": FLAT, "ignore": False, "text": "STOP"}, {"bbox": [0, 5, 9, 9], "text": "HERE"}],
    },
    "moss": {
        "conversation_id": 3,
        "chat": {
            "turn_10": {"Human": "<|Human|>: c<eoh>\n", "Commands": "", "MOSS": "<|MOSS|>: d<eom>\n"},
            "turn_9": {"Human": "<|Human|>: a<eoh>\n", "Commands": "", "MOSS": "<|MOSS|>: b<sup><|1|></sup>.<eom>\n"},
        },
    },
    "nextgpt": {"caption": "A rose.", "id": 12, "image_name": "12.jpg", "conversations": None},
    "plain": {"text": "One sentence. Another sentence. And a third one."},
    "ppocr_rec": {"image": "crops/1.jpg", "found": "data/crops/1.jpg", "text": "2P24"},
    "ppocrlabel": {
        "image": "mix/1.png",
        "found": "data/mix/1.png",
        "boxes": [{"transcription": "路口", "points": CORNERS, "difficult": False}],
    },
    "scienceqa": {
        "id": "1",
        "question": "Which is farthest north?",
        "choices": ["Ohio", "Maine"],
        "answer": 1,
        "hint": "",
        "image": "image.png",
        "solution": "Look at the map.",
        "split": "train",
    },
    "self_instruct": {
        "id": "seed_task_1",
        "instruction": "Complete it.",
        "input": "Night : Day",
        "output": "Right : Left",
    },
    "tabmwp": {
        "id": "16",
        "question": "How much?",
        "choices": None,
        "answer": "84",
        "unit": "$",
        "solution": "Add them up.",
    },
    "visualglm": {"img": "a/2p.png", "prompt": "背景里有什么？", "label": "蒙蒙细雨。"},
    "vita": {
        "set": "s",
        "id": "1",
        "image": "a.jpg",
        "audio": ["b.wav"],
        "conversations": talk(("human", "<image>\n<audio>\n"), ("gpt", "A kitchen.")),
    },
    "vita_audio": {
        "messages": [{"role": "user", "content": "<|audio|>"}, {"role": "assistant", "content": "Hello.\n<|audio|>"}],
        "audios": ["q.wav", "a.wav"],
    },
    "vqa": {
        "question_id": 4,
        "image_id": 7,
        "question": "What is it?",
        "answers": ["net", "a net", "net"],
        "split": "",
    },
}


# --- encodings ------------------------------------------------------------------------------------------------------

ROWS = [{"id": number, "text": f"第{number}条记录：你好，世界！\n\\ {{}}]" * (number % 7)} for number in range(3000)]
ENCODINGS = ["utf-8", "utf-8-sig", "gb18030", "utf-16"]


@pytest.mark.parametrize("code_", ENCODINGS)
@pytest.mark.parametrize("layout", ["array", "lines", "pages"])
def test_json_in_any_encoding_is_read_with_its_spans_on_disk(tmp_path, code_, layout):
    text = {
        "array": json.dumps(ROWS, ensure_ascii=False),
        "lines": "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in ROWS),
        "pages": json.dumps(ROWS, ensure_ascii=False, indent=1),
    }[layout]
    raw = text.encode(code_)
    (tmp_path / "some.json").write_bytes(raw)
    found = list(records(open_store(str(tmp_path)), "some.json"))
    assert [part.value for part in found] == ROWS
    body = "utf-16-le" if code_ == "utf-16" else code_
    assert [json.loads(raw[part.begin : part.end].decode(body)) for part in found] == ROWS


@pytest.mark.parametrize("code_", ENCODINGS)
def test_lines_in_any_encoding_are_read_with_their_spans_on_disk(tmp_path, code_):
    said_ = [f"{number}|你好，世界 {'长' * (number % 50)}。" for number in range(5000)]
    raw = "\r\n".join(said_).encode(code_)
    (tmp_path / "some.txt").write_bytes(raw)
    found = list(lines(open_store(str(tmp_path)), "some.txt"))
    assert [line.text for line in found] == said_
    body = "utf-16-le" if code_ == "utf-16" else "utf-8" if code_ == "utf-8-sig" else code_
    assert [raw[line.begin : line.end].decode(body) for line in found] == said_


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"plain", "utf-8"),
        ("你好".encode(), "utf-8"),
        ("店".encode("gb18030"), "gb18030"),
        (b"x" * 200_000 + "你好，世界".encode("gb18030"), "gb18030"),
        ("𠀀你好世界".encode("gb18030"), "gb18030"),
        ("déjà vu, créée".encode("latin-1"), "utf-8"),
        ("“Hello”".encode("cp1252"), "utf-8"),
        ("カタカナとひらがな".encode("shift_jis"), "utf-8"),
        ("機器學習與資料".encode("big5"), "utf-8"),
        ("hello".encode("utf-16"), "utf-16-le"),
        (b"\xfe\xff" + "hello".encode("utf-16-be"), "utf-16-be"),
        (bytes(range(256)), "utf-8"),
        (b"", "utf-8"),
    ],
)
def test_encodings_are_told_by_their_bytes(tmp_path, data, expected):
    (tmp_path / "some.txt").write_bytes(data)
    assert encoding_of(open_store(str(tmp_path)), "some.txt") == expected


def test_bytes_that_are_not_of_the_encoding_cost_one_record(tmp_path):
    rows = [json.dumps({"a": f"第{number}条记录"}, ensure_ascii=False).encode("gb18030") for number in range(9)]
    rows[4] = b'{"a": "\xff\xff"}'
    (tmp_path / "some.jsonl").write_bytes(b"\n".join(rows))
    found = list(records(open_store(str(tmp_path)), "some.jsonl"))
    assert [getattr(part, "code", "good") for part in found] == ["good"] * 4 + ["text-encoding"] + ["good"] * 4
    fault = found[4]
    assert fault.raw == rows[4]
    assert fault.message == "not all of it is gb18030; UTF-8, GB18030 and UTF-16 with a mark were tried"
    assert found[8].end == len(b"\n".join(rows))


def test_a_line_that_is_not_utf_8_says_what_was_tried(tmp_path):
    (tmp_path / "some.txt").write_bytes("é\nd\ufffdjà vu\n".encode() + "déjà vu\n".encode("latin-1"))
    *_, fault = lines(open_store(str(tmp_path)), "some.txt")
    assert (fault.code, fault.raw) == ("text-encoding", b"d\xe9j\xe0 vu")
    assert fault.message == "byte 1 of it is not utf-8; UTF-8, GB18030 and UTF-16 with a mark were tried"


def test_a_file_that_was_joined_from_two_encodings_is_read_in_both(tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "_BLOCK", 4096)
    one = "".join(f"第{number}行是国标码\n" for number in range(2000))
    other = "".join(f"第{number}行是统一码\n" for number in range(2000))
    (tmp_path / "some.txt").write_bytes(one.encode("gb18030") + other.encode())
    found = [line.text for line in lines(open_store(str(tmp_path)), "some.txt") if not isinstance(line, Fault)]
    assert len(found) > 3800
    assert set(found) <= set((one + other).splitlines())


def test_half_a_unit_of_utf_16_at_the_end_is_a_fault(tmp_path):
    (tmp_path / "some.txt").write_bytes("你好\n世界".encode("utf-16") + b"\x00")
    found = list(lines(open_store(str(tmp_path)), "some.txt"))
    assert found[0].text == "你好"
    assert (found[1].code, found[1].begin, found[1].end) == ("text-encoding", 8, 13)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40) | st.text(max_size=20).map(lambda text: text.encode("gb18030"))))
def test_no_bytes_break_the_turning(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("turning")
    for mark in (b"", "国标码文本。\n".encode("gb18030"), b"\xff\xfe", b"\xfe\xff"):
        raw = mark + b"\n".join(parts)
        (folder / "some.txt").write_bytes(raw)
        end = 0
        for line in lines(open_store(str(folder)), "some.txt"):
            assert end <= line.begin <= line.end <= len(raw)
            end = line.end


# --- lists and members of objects -----------------------------------------------------------------------------------


def values(found):
    return [part.code if isinstance(part, Fault) else getattr(part, "value", part) for part in found]


@pytest.fixture
def written(tmp_path):
    def write(data, name="some.json"):
        (tmp_path / name).write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
        return open_store(str(tmp_path)), name

    return write


@pytest.mark.parametrize("indent", [None, 1])
def test_a_list_in_an_object_is_read_and_the_rest_passed_over(written, indent):
    data = {"info": {"data": [9]}, "data": [{"a": 1}, {"a": 2}], "n": 3, "more": [{"a": 4}]}
    source, file = written(json.dumps(data, indent=indent))
    assert values(listed(source, file, "data")) == [{"a": 1}, {"a": 2}]
    assert values(listed(source, file, "data", "more")) == [{"a": 1}, {"a": 2}, {"a": 4}]


def test_elements_of_a_list_may_each_have_a_line(written):
    source, file = written('{"data": [\n{"a": 1},\n{"a": 2}\n]}\n')
    assert values(listed(source, file, "data")) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ('[{"a": 1}]', [{"a": 1}]),
        ('{"a": 1}\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
        ('{"a": 1}', [{"a": 1}]),
        ('{"a": "lost}\n{"a": 2}\n', ["json-broken", {"a": 2}]),
        ("", []),
        ('{\n"a": 1\n}', ["record-shape"]),
        ('{"data": [{"a": 1}, {"a"', [{"a": 1}, "json-truncated"]),
        ('{"data": [{"a": 1}], "b": ', [{"a": 1}, "json-truncated"]),
        ('{"data": [{"a": 1}], b: 2}', [{"a": 1}, "json-broken"]),
        ('{"data": [{"a": 1}]} x', [{"a": 1}, "json-broken"]),
        ('{"data": [{"a": 1}, {"a": NaN}, {"a": 3}]}', [{"a": 1}, "json-broken", {"a": 3}]),
    ],
)
def test_what_has_no_such_list_is_read_as_records_or_is_a_fault(written, data, expected):
    source, file = written(data)
    assert values(listed(source, file, "data")) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"1": {"a": 1}, "2": [2]}, [("1", {"a": 1}), ("2", [2])]),
        ("{}", []),
        ("", []),
        ("[1]", ["json-broken"]),
        ('{"1": {"a": 1}, "2": {"a": NaN}, "3": 3}', [("1", {"a": 1}), "json-broken", ("3", 3)]),
        ('{"1": {"a": 1}, "2": {"a"', [("1", {"a": 1}), "json-truncated"]),
        ('{"1": 1, 2: 2}', [("1", 1), "json-broken"]),
    ],
)
def test_the_members_of_an_object_are_read_one_by_one(written, data, expected):
    source, file = written(data)
    found = [part if isinstance(part, Fault) else (part[0], part[1].value) for part in keyed(source, file)]
    assert [part.code if isinstance(part, Fault) else part for part in found] == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [('{\n"a": 1\n}\n', {"a": 1}), ('{"a": 1}\n{"a": 2}', None), ('{"a": ', None), ("", None)],
)
def test_a_file_that_holds_one_value_is_told_from_all_others(written, data, expected):
    found = whole(*written(data))
    assert (found and found.value) == expected


def test_paragraphs_end_at_empty_lines_and_long_lines_stand_alone(written):
    source, file = written("a\nb\n\nc\n" + "x" * 201 + "\nd\n \ne", "some.txt")
    assert [part.text for part in paragraphs(source, file)] == ["a\nb", "c", "x" * 201, "d", "e"]


# --- where images lie -----------------------------------------------------------------------------------------------


def placed(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"image")
    return open_store(str(folder))


@pytest.mark.parametrize(
    ("label", "written_", "there"),
    [
        ("data/mix/Label.txt", "mix/1.png", "data/mix/1.png"),
        ("data/labels.txt", "crops/1.png", "data/crops/1.png"),
        ("labels.txt", "./crops/1.png", "crops/1.png"),
        ("kie/data.txt", "tests/data/kie/1.png", "kie/1.png"),
        ("mix/Label.txt", "D:\\paddle\\mix\\1.png", "mix/1.png"),
        ("labels/a.txt", "../images/1.png", "images/1.png"),
        ("labels/a.txt", "/data/abs/images/1.png", "images/1.png"),
    ],
)
def test_an_image_is_found_from_where_its_path_may_start(tmp_path, label, written_, there):
    assert Paths(placed(tmp_path, there), label).find(written_) == there


def test_an_image_that_is_nowhere_keeps_the_path_that_was_written(tmp_path):
    paths = Paths(placed(tmp_path, "a/1.png"), "labels.txt")
    assert paths.find("../../../b/2.png") == "../../../b/2.png"
    assert paths.find("b/2.png") == "b/2.png"


@pytest.mark.parametrize(
    ("media", "expected"),
    [("", "data/mix/1.png"), ("data", "mix/1.png"), ("data/mix/", "1.png"), ("elsewhere", "mix/1.png")],
)
def test_a_path_is_brought_below_the_media_folder(media, expected):
    assert from_media("data/mix/1.png", "./mix/1.png", at("ppocrlabel", media=media)) == expected


def test_of_images_of_one_name_the_one_with_the_likest_folder_counts(tmp_path):
    source = placed(
        tmp_path, "ch4_test_images/img_1.jpg", "ch4_training_images/img_1.JPG", "a/img_2.png", "b/img_2.png"
    )
    assert named(source, "img_1", "Challenge4_Test_Task1_GT/gt_img_1.txt") == ("ch4_test_images/img_1.jpg",)
    training = "ch4_training_localization_transcription_gt/gt_img_1.txt"
    assert named(source, "img_1", training) == ("ch4_training_images/img_1.JPG",)
    assert named(source, "img_2", "b/gt_img_2.txt") == ("b/img_2.png",)
    assert named(source, "img_2", "gt/gt_img_2.txt") == ("a/img_2.png", "b/img_2.png")
    assert named(source, "img_3", "gt/gt_img_3.txt") == ()


# --- boxes ----------------------------------------------------------------------------------------------------------


def row(*texts, readable=True):
    return tuple(
        marked(text, [[20 * x, 10], [20 * x + 10, 10], [20 * x + 10, 20], [20 * x, 20]], x, readable=readable)
        for x, text in enumerate(texts)
    )


def forms(boxes, size=(100, 40), language="en", **entry):
    """What is asked and answered about boxes under many keys, by its form."""
    found = {}
    for number in range(300):
        drafted = about_text(boxes, "a.jpg", at("icdar", identity=str(number), language=language, **entry))
        question, answer = (turn.text.removeprefix("<image>\n") for turn in located(drafted, *size))
        for form in ("read-text", "list-text", "locate-text", "text-in-box"):
            for known in TEMPLATES[form, language]:
                before, _, after = known.partition("{text}" if form == "locate-text" else "{box}")
                if question == before or after and question.startswith(before) and question.endswith(after):
                    asked = question[len(before) : len(question) - len(after)]
                    found.setdefault(form, set()).add((asked, answer) if after else answer)
    return found


def test_text_is_read_in_lines_listed_located_or_asked_for_by_its_place_by_draw():
    assert forms(row("A", "B", "A")) == {
        "read-text": {"A B A"},
        "list-text": {"A\nB\nA"},
        "locate-text": {("B", "[200, 250, 300, 500]")},
        "text-in-box": {
            ("[0, 250, 100, 500]", "A"),
            ("[200, 250, 300, 500]", "B"),
            ("[400, 250, 500, 500]", "A"),
        },
    }


def test_places_are_known_when_the_image_is():
    drafts = [about_text(row("A", "B"), "a.jpg", at("icdar", identity=str(number))) for number in range(40)]
    marked_ones = [one for one in drafts if one.place is not None]
    assert 0 < len(marked_ones) < 40
    for one in marked_ones:
        assert sum(turn.text.count("<box>") for turn in one.turns) == 1
        wide, high = located(one, 100, 40), located(one, 1000, 30)
        assert wide != high
        assert not any("<box>" in turn.text for turn in (*wide, *high))
    assert all(located(one, 9, 9) == one.turns for one in drafts if one.place is None)


def test_a_box_outside_the_image_is_refused_where_its_place_is_spoken_of():
    drafted = about_text(row("A"), "a.jpg", at("icdar", template="locate-text"))
    with pytest.raises(Refused, match="ocr-outside: the box of 'A' lies outside the image of 9 x 9"):
        located(drafted, 9, 9)
    assert located(drafted, 11, 11)[1].text == "[0, 909, 909, 1000]"


def test_text_that_looks_like_a_place_is_read_and_never_located():
    found = forms(row("<box>", "B"))
    assert found["read-text"] == {"<box> B"}
    assert found["text-in-box"] == {("[200, 250, 300, 500]", "B")}
    assert found["locate-text"] == {("B", "[200, 250, 300, 500]")}


def test_one_piece_of_text_is_no_list():
    assert set(forms(row("B"))) == {"read-text", "locate-text", "text-in-box"}


def test_chinese_text_is_asked_for_in_chinese():
    found = forms(row("路口", "B"), language="zh")
    assert set(found) == {"read-text", "list-text", "locate-text", "text-in-box"}


@pytest.mark.parametrize("form", ["read-text", "list-text", "locate-text", "text-in-box"])
def test_a_catalog_may_name_the_form(form):
    assert set(forms(row("A", "B"), template=form)) == {form}


def test_a_piece_that_occurs_twice_cannot_be_located():
    with pytest.raises(Refused, match="template-unfit: 'locate-text' needs a text that stands alone"):
        about_text(row("A", "A"), "a.jpg", at("icdar", template="locate-text"))


def test_questions_of_the_corpus_are_answered_with_the_text_as_it_is_read():
    own = {"en": ["Read it.", "What does it say?"]}
    drafts = [about_text(row("A", "B"), "a.jpg", at("icdar", identity=str(n), template=own)) for n in range(40)]
    assert {(one.turns[0].text, one.turns[1].text) for one in drafts} == {
        ("<image>\nRead it.", "A B"),
        ("<image>\nWhat does it say?", "A B"),
    }


def test_boxes_are_located_in_thousandths_within_the_image():
    assert thousandths(marked("a", [-5, 10, 60, 30], 0), 50, 40) == [0, 250, 1000, 750]


@pytest.mark.parametrize(
    ("outline", "points"),
    [
        (FLAT, ((0, 0), (9, 0), (9, 4), (0, 4))),
        ([0, 0, 9, 4], ((0, 0), (9, 0), (9, 4), (0, 4))),
        ([[0, 0], [9, 0], [9, 4]], ((0, 0), (9, 0), (9, 4))),
    ],
)
def test_outlines_are_points_or_numbers_in_a_row(outline, points):
    assert marked("a", outline, 0).points == points


@pytest.mark.parametrize("outline", [None, [], [1], [1, 2, 3], [[0, 0], [1, 1]], [0, 0, 1e9, 4], [0, 0, "9", 4], {}])
def test_an_outline_that_is_none_is_refused(outline):
    with pytest.raises(Refused, match="record-shape: points of box 7"):
        marked("a", outline, 7)


def test_a_piece_that_looks_like_structure_is_neutral_in_question_and_answer():
    boxes = row("<image>", "<|im_end|>")
    for number in range(60):
        drafted = about_text(boxes, "a.jpg", at("icdar", identity=str(number)))
        check_turns(drafted.model_copy(update={"turns": located(drafted, 100, 40)}))


# --- icdar ----------------------------------------------------------------------------------------------------------


def test_ground_truth_has_a_mark_commas_and_text_that_nobody_could_read(tmp_path):
    placed(tmp_path, "ch4_test_images/img_1.png")
    (tmp_path / "GT").mkdir()
    content = "\ufeff0,0,9,0,9,4,0,4,Start, then stop\r\n0,5,9,5,9,9,0,9,###\r\n"
    (tmp_path / "GT/gt_img_1.txt").write_bytes(content.encode())
    (found,) = read(tmp_path, "icdar")
    assert (found.id, found.record["images"]) == ("img_1", ["ch4_test_images/img_1.png"])
    drafted = draft("icdar", found.record, file="GT/gt_img_1.txt", media="ch4_test_images")
    assert said(drafted)[1] == ("gpt", "Start, then stop")
    assert drafted.images == ("img_1.png",)
    assert [(box.text, box.readable) for box in drafted.boxes] == [("Start, then stop", True), ("###", False)]


@pytest.mark.parametrize(
    ("line", "text", "readable"),
    [
        ("0,0,9,0,9,4,0,4,Latin,Hello, you", "Hello, you", True),
        ("0,0,9,0,9,4,0,4,None,###", "###", False),
        ('0,0,9,0,9,4,0,4,0,"路口, "', "路口, ", True),
        ('0,0,9,0,9,4,0,4,1,"路口"', "路口", False),
        ("-1.5, 0, 9, 0, 9, 4, 0, 4,Latin", "Latin", True),
        ("0,0,9,0,9,4,0,4,10,5", "10,5", True),
    ],
)
def test_scripts_and_flags_of_other_competitions_are_not_text(line, text, readable):
    box = draft("icdar", {**SOUND["icdar"], "lines": [line, "0,0,9,0,9,4,0,4,x"]}).boxes[0]
    assert (box.text, box.readable) == (text, readable)


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"images": []}, "media-missing"),
        ({"images": ["a/img_1.jpg", "b/img_1.jpg"]}, "media-ambiguous"),
        ({"lines": ["1,2,3,4,Start"]}, "record-shape"),
        ({"lines": ["0,0,9,0,9,4,0,4,###"]}, "ocr-nothing"),
        ({"lines": []}, "ocr-nothing"),
    ],
)
def test_ground_truth_that_cannot_be_used_says_why(change, refusal):
    assert code("icdar", {**SOUND["icdar"], **change}) == refusal


def test_ground_truth_in_gb18030_is_read_and_one_with_a_broken_line_is_one_fault(tmp_path):
    placed(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "gt_1.txt").write_bytes("0,0,9,0,9,4,0,4,路口\n".encode("gb18030"))
    (tmp_path / "gt_2.txt").write_bytes("0,0,9,0,9,4,0,4,路口\n0,0,9,0,9,4,0,4,d".encode() + b"\xe9j\xe0 vu\n")
    one, other = read(tmp_path, "icdar")
    assert one.record["lines"] == ["0,0,9,0,9,4,0,4,路口"]
    assert other.code == "text-encoding"


# --- anyword --------------------------------------------------------------------------------------------------------


def test_names_of_anyword_start_at_the_media_folder_and_not_at_the_root_of_another_machine(tmp_path):
    page = {"name": "laion", "data_root": "/data/vdb/imgs", "data_list": [SOUND["anyword"], SOUND["anyword"]]}
    found = read(tmp_path, "anyword", {"data.json": page})
    assert [raw.id for raw in found] == ["ref1.jpg", "ref1.jpg"]
    assert draft("anyword", found[0].record, media="imgs").images == ("ref1.jpg",)


def test_a_caption_is_asked_for_where_there_is_one_and_the_kind_is_caption():
    drafted = draft("anyword", SOUND["anyword"], kind="caption", language="zh+en")
    assert said(drafted)[0][1].removeprefix("<image>\n") in TEMPLATES["describe-image", "en"]
    assert said(drafted)[1] == ("gpt", "A sign.")
    assert [box.text for box in drafted.boxes] == ["路口"]
    for record, kind in (({**SOUND["anyword"], "caption": " "}, "caption"), (SOUND["anyword"], "qa")):
        drafted = draft("anyword", record, kind=kind, language="zh+en")
        assert said(drafted)[0][1].removeprefix("<image>\n") in TEMPLATES["read-text", "zh"]
        assert said(drafted)[1] == ("gpt", "路口")


def test_text_that_is_not_valid_is_kept_and_not_read():
    (entry,) = SOUND["anyword"]["annotations"]
    record = {**SOUND["anyword"], "caption": "", "annotations": [{**entry, "valid": False}]}
    assert code("anyword", record) == "ocr-nothing"
    drafted = draft("anyword", {**record, "annotations": [{**entry, "valid": False}, entry]})
    assert [box.readable for box in drafted.boxes] == [False, True]


# --- paddle and mmocr -----------------------------------------------------------------------------------------------


def test_labels_of_paddle_are_found_from_the_parent_of_their_folder(tmp_path):
    placed(tmp_path, "data/mix/1.png")
    boxes = [
        {"transcription": "路口", "points": CORNERS, "difficult": False},
        {"transcription": "模糊", "points": CORNERS, "difficult": True},
        {"transcription": "待识别", "points": CORNERS, "difficult": False},
        {"transcription": "###", "points": CORNERS},
    ]
    line = f"mix/1.png\t{json.dumps(boxes)}\n"
    found = read(tmp_path, "ppocrlabel", {"data/mix/Label.txt": line + "mix/2.png\t[{]\nmix/3.png\n"})
    assert [getattr(raw, "code", None) or raw.id for raw in found] == ["mix/1.png", "json-broken", "mix/3.png"]
    drafted = draft("ppocrlabel", found[0].record)
    assert drafted.images == ("data/mix/1.png",)
    assert said(drafted)[1] == ("gpt", "路口")
    assert [box.readable for box in drafted.boxes] == [True, False, False, False]
    assert code("ppocrlabel", found[2].record) == "record-shape"


def test_a_cut_out_has_one_text(tmp_path):
    placed(tmp_path, "data/crops/1.jpg")
    content = 'crops/1.jpg\t2P 24\ncrops/2.jpg\t\ncrops/3.jpg\n["crops/4.jpg", "crops/5.jpg"]\tx\ncrops/6.jpg\t###\n'
    found = read(tmp_path, "ppocr_rec", {"data/rec_gt_train.txt": content})
    drafted = draft("ppocr_rec", found[0].record, media="data")
    assert (said(drafted)[1], drafted.images) == (("gpt", "2P 24"), ("crops/1.jpg",))
    refusals = [code("ppocr_rec", raw.record) for raw in found[1:]]
    assert refusals == ["ocr-nothing", "record-shape", "record-shape", "ocr-nothing"]


def test_the_three_forms_of_recognition_in_mmocr_say_the_same(tmp_path):
    placed(tmp_path, "imgs/1.jpg")
    page = {"metainfo": {}, "data_list": [{"instances": [{"text": "GRAND HOTEL"}], "img_path": "1.jpg"}]}
    files = {
        "labels.json": json.dumps(page, indent=4),
        "old_label.jsonl": '{"filename": "1.jpg", "text": "GRAND HOTEL"}\n',
        "old_label.txt": "1.jpg GRAND HOTEL\n",
    }
    found = read(tmp_path, "mmocr", files)
    assert [raw.id for raw in found] == ["1.jpg"] * 3
    drafts = [draft("mmocr", raw.record, media="imgs") for raw in found]
    assert drafts[0] == drafts[1] == drafts[2]
    assert (said(drafts[0])[1], drafts[0].images) == (("gpt", "GRAND HOTEL"), ("1.jpg",))


def test_receipts_are_found_without_the_repository_and_turned_round(tmp_path):
    placed(tmp_path, "kie/1.jpeg")
    entry = {"box": [0.0, 4.0, 9.0, 4.0, 9.0, 0.0, 0.0, 0.0], "text": "SAFEWAY", "label": 1}
    record = {"file_name": "tests/data/kie/1.jpeg", "height": 40, "width": 90, "annotations": [entry]}
    (found,) = read(tmp_path, "mmocr", {"kie/data_label.txt": json.dumps(record) + "\n"})
    drafted = draft("mmocr", found.record)
    assert drafted.images == ("kie/1.jpeg",)
    assert drafted.boxes[0].points == ((0, 0), (9, 0), (9, 4), (0, 4))


def test_outlines_without_text_are_refused():
    record = {"img_path": "1.jpg", "instances": [{"polygon": FLAT, "ignore": False, "bbox": [0, 0, 9, 4]}]}
    assert code("mmocr", record) == "ocr-nothing"
    assert code("mmocr", {**SOUND["mmocr"], "instances": []}) == "ocr-nothing"


# --- questions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "answer", "expected"),
    [
        (["5", "6"], "B", "B. 6"),
        (["5", "6"], "6", "B. 6"),
        (["A", "B"], "B", "B"),
        (["Champ", "Sprinkles"], "Champ", "A. Champ"),
    ],
)
def test_an_answer_names_an_option_by_letter_or_text(options, answer, expected):
    assert option(options, answer) == expected


@pytest.mark.parametrize("answer", ["C", "", "7", "AB", "b"])
def test_an_answer_that_is_none_of_the_options_is_refused(answer):
    with pytest.raises(Refused, match="answer-unknown"):
        option(["5", "6"], answer)


def request(text, name, language="en"):
    """The text without the request at its end, which is one of that name."""
    before, _, last = text.rpartition("\n")
    assert last in TEMPLATES[name, language]
    return before


def test_a_question_of_mathv_keeps_its_drawing_where_it_stands():
    (_, question), answer = said(draft("mathv", SOUND["mathv"]))
    assert request(question, "choose-option") == "How many?\n<image>\nA. 5\nB. 6"
    assert answer == ("gpt", "B. 6")


def test_a_drawing_that_is_named_twice_is_there_once():
    record = {
        **SOUND["mathv"],
        "question": "It showed <image1>, then <image1>. How long?",
        "options": [],
        "answer": "6",
    }
    (_, question), answer = said(draft("mathv", record))
    assert request(question, "answer-briefly") == "It showed <image>, then the same image. How long?"
    assert answer == ("gpt", "6")


def test_a_solution_is_given_before_the_answer():
    record = {**SOUND["mathv"], "question": "How many?", "solution": "Count them."}
    (_, question), answer = said(draft("mathv", record))
    assert request(question, "explain-answer") == "<image>\nHow many?\nA. 5\nB. 6"
    assert answer == ("gpt", "Count them.\nThe answer is B. 6.")


def test_options_that_are_drawn_are_not_listed():
    record = {**SOUND["mathv"], "options": ["A", "B", "C"], "answer": "C"}
    (_, question), answer = said(draft("mathv", record))
    assert request(question, "choose-option") == "How many?\n<image>"
    assert answer == ("gpt", "C")


def test_a_placeholder_in_a_question_that_is_no_drawing_is_text():
    record = {**SOUND["mathv"], "question": "Is <video> like <image1>?"}
    assert said(draft("mathv", record))[0][1].startswith("Is <\u2060video> like <image>?")


@pytest.mark.parametrize(
    ("media", "path"),
    [("", "data/images/train/1/image.png"), ("data/images", "train/1/image.png"), ("pics", "train/1/image.png")],
)
def test_a_picture_of_scienceqa_lies_in_the_folder_of_split_and_problem(media, path):
    drafted = draft("scienceqa", SOUND["scienceqa"], file="data/problems.json", media=media)
    assert drafted.images == (path,)
    (_, question), answer = said(drafted)
    assert request(question, "explain-answer") == "<image>\nWhich is farthest north?\nA. Ohio\nB. Maine"
    assert answer == ("gpt", "Look at the map.\nThe answer is B. Maine.")


def test_a_problem_without_picture_or_solution_is_text_with_its_hint_in_front():
    record = {"id": "2", "question": "Which?", "choices": ["a", "b"], "answer": 0, "hint": "Read this.", "image": None}
    drafted = draft("scienceqa", record)
    assert drafted.images == ()
    (_, question), answer = said(drafted)
    assert request(question, "choose-option") == "Read this.\nWhich?\nA. a\nB. b"
    assert answer == ("gpt", "A. a")


@pytest.mark.parametrize("answer", [2, -1, "0", None])
def test_a_problem_whose_answer_is_no_choice_is_refused(answer):
    assert code("scienceqa", {**SOUND["scienceqa"], "answer": answer}) == "record-shape"


def test_problems_are_called_by_their_keys(tmp_path):
    problems = {"16": {"question": "How much?"}, "529": {"question": "Which?"}}
    assert [raw.id for raw in read(tmp_path, "scienceqa", {"problems.json": problems})] == ["16", "529"]
    assert [raw.id for raw in read(tmp_path, "tabmwp", {"problems_train.json": problems})] == ["16", "529"]


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({}, "Add them up.\nThe answer is $84."),
        ({"unit": "books"}, "Add them up.\nThe answer is 84 books."),
        ({"unit": None, "solution": None}, "84"),
        ({"choices": ["83", "84"], "unit": None}, "Add them up.\nThe answer is B. 84."),
    ],
)
def test_a_problem_about_a_table_is_answered_with_its_unit(change, answer):
    drafted = draft("tabmwp", {**SOUND["tabmwp"], **change}, file="tabmwp/problems_train.json")
    assert said(drafted)[1] == ("gpt", answer)
    assert drafted.images == ("tabmwp/tables/16.png",)


def test_questions_of_vqa_are_joined_with_the_answers_of_another_file(tmp_path):
    questions = {"data_subtype": "train2014", "questions": [{"image_id": 7, "question": "What?", "question_id": 70}]}
    annotations = {"annotations": [{"question_id": 70, "multiple_choice_answer": "net", "answers": [{"answer": "a"}]}]}
    name = "v2_OpenEnded_mscoco_train2014_questions.json"
    files = {f"questions/{name}": questions, "answers/v2_mscoco_train2014_annotations.json": annotations}
    (found,) = read(tmp_path, "vqa", files)
    assert found.id == "70"
    drafted = draft("vqa", found.record)
    assert drafted.images == ("train2014/COCO_train2014_000000000007.jpg",)
    assert draft("vqa", found.record, media="coco/train2014").images == ("COCO_train2014_000000000007.jpg",)
    (_, question), answer = said(drafted)
    assert request(question, "answer-briefly") == "<image>\nWhat?"
    assert answer == ("gpt", "net")


def test_questions_without_their_answers_are_refused(tmp_path):
    questions = {"questions": [{"image_id": 7, "question": "What?", "question_id": 70}]}
    (found,) = read(tmp_path, "vqa", {"v2_OpenEnded_mscoco_test2015_questions.json": questions})
    assert code("vqa", found.record) == "answer-missing"


def test_textvqa_is_one_file_and_the_commonest_answer_counts(tmp_path):
    entry = {"question": "What brand?", "image_id": "0054c9", "question_id": 3, "set_name": "val"}
    answers = ["answering does not require reading text in the image"] * 3 + ["dakota", "nous les gosses", "dakota"]
    (found,) = read(tmp_path, "vqa", {"TextVQA_0.5.1_val.json": {"data": [{**entry, "answers": answers}]}})
    assert found.id == "3"
    drafted = draft("vqa", found.record)
    assert (said(drafted)[1], drafted.images) == (("gpt", "dakota"), ("train_images/0054c9.jpg",))


def test_a_named_image_needs_no_rule():
    record = {"questionId": 1, "question": "What?", "image": "documents/x.png", "answers": ["a"]}
    assert draft("vqa", record).images == ("documents/x.png",)


def test_visualglm_asks_and_answers():
    drafted = draft("visualglm", SOUND["visualglm"])
    assert said(drafted) == [("human", "<image>\n背景里有什么？"), ("gpt", "蒙蒙细雨。")]
    assert drafted.images == ("a/2p.png",)
    assert code("visualglm", {**SOUND["visualglm"], "img": ""}) == "record-shape"


@pytest.mark.parametrize(("key", "medium"), [("image", "images"), ("video", "videos")])
def test_nextgpt_has_captions_and_conversations(key, medium):
    caption = draft("nextgpt", {f"{key}_name": "1.x", "id": 1, "caption": " A rose. "})
    assert getattr(caption, medium) == ("1.x",)
    assert said(caption)[0][1].removeprefix(f"<{key}>\n") in TEMPLATES[f"describe-{key}", "en"]
    assert said(caption)[1] == ("gpt", "A rose.")
    record = {f"input_{key}": "1.x", "conversations": talk(("human", f"<{key}>\nWhat?"), ("gpt", "A rose."))}
    assert said(draft("nextgpt", record)) == [("human", f"<{key}>\nWhat?"), ("gpt", "A rose.")]


def test_what_a_model_should_make_is_refused():
    record = {"output_image": "1.jpg", "conversations": talk(("human", "Draw it."), ("gpt", "Sure! <image>"))}
    assert code("nextgpt", record) == "media-as-answer"
    assert code("nextgpt", {"caption": "A rose.", "id": 1}) == "record-shape"


# --- text -----------------------------------------------------------------------------------------------------------


def test_moss_speaks_in_the_order_of_its_turns_and_without_marks(tmp_path):
    (found,) = read(tmp_path, "moss", {"a/talk_3.json": json.dumps(SOUND["moss"], indent=4)})
    assert found.id == "3"
    assert said(draft("moss", found.record)) == [("human", "a"), ("gpt", "b."), ("human", "c"), ("gpt", "d")]


def test_moss_on_the_hub_has_a_talk_a_line(tmp_path):
    line = json.dumps({"conversation_id": "1", "conversation": [{"human": "a", "assistant": "b"}]}) + "\n"
    found = read(tmp_path, "moss", {"moss.jsonl": line * 2})
    assert [said(draft("moss", raw.record)) for raw in found] == [[("human", "a"), ("gpt", "b")]] * 2


def test_a_talk_in_which_moss_draws_is_refused():
    turn = {"Human": "Draw it.", "Commands": '<|Commands|>: Text2Image("a rock")<eoc>\n', "MOSS": "Here it is."}
    assert code("moss", {"conversation_id": 1, "chat": {"turn_1": turn}}) == "media-as-answer"


def test_the_three_forms_of_belle():
    assert said(draft("belle", SOUND["belle"])) == [
        ("human", "你好"),
        ("gpt", "你好！"),
        ("human", "再见"),
        ("gpt", "再见！"),
    ]
    assert (
        said(draft("belle", {"instruction": "Human: 是谁？", "input": "", "output": "我。"}))[0][1] == "Human: 是谁？"
    )
    talked = [{"from": "human", "value": "你好"}, {"from": "assistant", "value": "你好！"}]
    assert said(draft("belle", {"id": "1", "conversations": talked})) == [("human", "你好"), ("gpt", "你好！")]


def test_every_instance_of_a_seed_task_is_a_record(tmp_path):
    task = {"id": "seed_task_0", "instruction": "Add.", "instances": [{"input": "1 1", "output": "2"}] * 2}
    found = read(tmp_path, "self_instruct", {"seed_tasks.jsonl": json.dumps(task) + '\n{"id": "seed_task_1"}\n'})
    assert [raw.id for raw in found] == ["seed_task_0", "seed_task_0", "seed_task_1"]
    assert said(draft("self_instruct", found[0].record)) == [("human", "Add.\n1 1"), ("gpt", "2")]
    assert code("self_instruct", found[2].record) == "record-shape"


def test_plain_text_becomes_a_request_to_go_on():
    (_, question), answer = said(draft("plain", {"text": "It was 3.5 m long. Nobody knew. " + "And so on. " * 9}))
    first, _, opening = question.partition("\n")
    assert first in TEMPLATES["continue-text", "en"]
    assert opening == "It was 3.5 m long."
    assert answer == ("gpt", "Nobody knew. " + ("And so on. " * 9).strip())
    (_, question), answer = said(draft("plain", {"text": "天下大势，分久必合。合久必分。"}, language="zh"))
    assert question.partition("\n")[2] == "天下大势，分久必合。"


def test_a_text_of_one_sentence_is_refused():
    assert code("plain", {"text": "Contact us at a.b@example.com"}) == "text-short"


def test_a_long_document_is_cut_at_its_sentences_and_nothing_is_lost(tmp_path):
    document = "".join(f"This is sentence number {number} of a long document. " for number in range(400)).strip()
    pieces = list(plain.pieces(document))
    assert all(len(piece) <= plain.PIECE and piece.endswith("document.") for piece in pieces)
    assert " ".join(pieces) == document
    assert "".join(plain.pieces("字" * 9000)) == "字" * 9000
    found = read(tmp_path, "plain", {"a.jsonl": json.dumps({"id": 1, "text": document}) + "\n", "b.txt": document})
    assert [raw.record["text"] for raw in found] == pieces * 2
    assert [raw.id for raw in found] == ["1"] * len(pieces) + [None] * len(pieces)
    assert {(raw.begin, raw.end) for raw in found[len(pieces) :]} == {(0, len(document))}


# --- vita -----------------------------------------------------------------------------------------------------------


SETS = {"coco": "images/coco/", "llava": "images/llava", "here": ""}


@pytest.mark.parametrize(
    ("named", "images", "found"),
    [
        ("coco", "1.jpg", ("images/coco/1.jpg",)),
        (["coco", "llava"], ["1.jpg", "a/2.jpg"], ("images/coco/1.jpg", "images/llava/a/2.jpg")),
        ("llava", ["1.jpg", "2.jpg"], ("images/llava/1.jpg", "images/llava/2.jpg")),
        ("here", "1.jpg", ("1.jpg",)),
    ],
)
def test_sets_of_vita_lead_to_the_folders_that_the_catalog_gives_them(named, images, found):
    record = {**SOUND["vita"], "set": named, "image": images}
    if isinstance(images, list):
        turns = [{"from": "human", "value": "<image>" * len(images)}, {"from": "gpt", "value": "Both."}]
        record = {"id": "1", "set": named, "image": images, "conversations": turns}
    assert draft("vita", record, sets=SETS).images == found


@pytest.mark.parametrize(
    ("named", "said"),
    [("lvis", "set-unknown: set: 'lvis' is none of coco"), (["coco"] * 2, "record-shape: set: 2 for 1")],
)
def test_a_set_that_the_catalog_does_not_know_is_refused(named, said):
    with pytest.raises(Refused, match=said):
        draft("vita", {**SOUND["vita"], "set": named}, sets=SETS)


def test_audio_of_vita_lies_in_its_folder_audio():
    drafted = draft("vita", SOUND["vita"])
    assert (drafted.images, drafted.audios) == (("a.jpg",), ("audio/b.wav",))
    assert said(drafted) == [("human", "<image>\n<audio>\n"), ("gpt", "A kitchen.")]


@pytest.mark.parametrize(
    ("change", "kind", "refusal"),
    [
        ({"id": ["1", "2"]}, "qa", "record-packed"),
        ({"end_tag": False}, "qa", "answer-unfinished"),
        ({"inserted_id": 0}, "qa", "noise-marked"),
        ({}, "noise", "noise-unmarked"),
        (
            {"conversations": SOUND["vita"]["conversations"] * 2, "audio": ["b", "c"], "inserted_id": 0},
            "noise",
            "noise-marked",
        ),
    ],
)
def test_what_vita_marks_is_taken_or_refused_by_kind(change, kind, refusal):
    assert code("vita", {**SOUND["vita"], **change}, kind=kind) == refusal


def test_noise_is_a_kind_of_its_own():
    drafted = draft("vita", {**SOUND["vita"], "inserted_id": 0}, kind="noise")
    assert drafted.audios == ("audio/b.wav",)


def spoken(question, answer, *audios):
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "audios": list(audios), "images": None}


SPOKEN_QA = spoken("<|audio|>", "Hello.\n<|audio|>", "q.wav", "a.wav")
ASR = spoken("Convert the speech to text.\n<|audio|>", "transcript", "x.wav")
TTS = spoken("Convert the text to speech.\nTEXT", "<|audio|>", "x.wav")


@pytest.mark.parametrize(
    ("record", "kind", "question", "answer", "audios"),
    [
        (SPOKEN_QA, "qa", "<audio>", "Hello.", ("q.wav",)),
        (SPOKEN_QA, "tts", "Hello.", "<audio>", ("a.wav",)),
        (ASR, "asr", "<audio>", "transcript", ("x.wav",)),
        (ASR, "qa", "Convert the speech to text.\n<audio>", "transcript", ("x.wav",)),
        (TTS, "tts", "TEXT", "<audio>", ("x.wav",)),
        (spoken("a", "b"), "qa", "a", "b", ()),
    ],
)
def test_speech_of_vita_audio_goes_in_the_direction_of_the_kind(record, kind, question, answer, audios):
    drafted = draft("vita_audio", record, kind=kind)
    assert said(drafted) == [("human", question), ("gpt", answer)]
    assert drafted.audios == audios


@pytest.mark.parametrize(
    ("record", "kind", "refusal"),
    [
        (TTS, "qa", "answer-spoken"),
        (ASR, "tts", "answer-unspoken"),
        (spoken("<|audio|>", "b"), "qa", None),
        (spoken("<|audio|><|audio|>", "b", "x.wav"), "qa", "placeholders"),
        (spoken("a", "b", "x.wav"), "qa", "placeholders"),
        (spoken("", "<|audio|>", "x.wav"), "tts", "question-empty"),
    ],
)
def test_speech_that_does_not_fit_the_kind_is_refused(record, kind, refusal):
    if refusal:
        assert code("vita_audio", record, kind=kind) == refusal
    else:
        assert said(draft("vita_audio", record, kind=kind))[0] == ("human", "<\u2060audio>")


def test_pictures_and_clips_of_long_vita_have_either_tag():
    for tag in ("<|image|>", "<image>"):
        record = {"messages": talk(("user", f"{tag}\nWhat?"), ("assistant", "A cat.")), "images": ["a.jpg"]}
        assert said(draft("vita_audio", record))[0] == ("human", "<image>\nWhat?")

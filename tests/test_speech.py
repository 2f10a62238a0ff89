"""What can be spoken, what of it stays written, and that both mean what the question meant."""

import json
from pathlib import Path

import pytest

from tarsia.builders.chat import heard_text, pieces, turn_tokens
from tarsia.builders.reading.templates import TEMPLATES
from tarsia.builders.speech import parts, spoken_form, unspeakable
from tarsia.builders.tokens import WRITTEN, tokenizer
from tarsia.schemas.sample import Turn

EXAMPLES = Path(__file__).parents[1] / "examples" / "corpora"


@pytest.mark.parametrize(
    ("text", "language", "reason"),
    [
        ("<image>\nWhat is in the picture?", "en", None),
        ("<video>\n视频里的人在做什么？", "zh", None),
        ("请把下面的句子翻译成英文。\n他是学生。", "zh", None),
        ("<image>", "en", "nothing to say"),
        ("<audio>", "en", "audio already"),
        ("<audio>What can you hear?", "en", "audio already"),
        ("What does <image> show that the other one does not?", "en", "placeholder"),
        ("图<image>和图<image>有什么不同？", "zh", "placeholder"),
        ("Compare the pictures: <image> <image>", "en", None),
        ("What is it? <image>\nAnswer briefly.", "en", None),
        ("Write `print(1)` in C.", "en", "code"),
        ("Is there a way to modify the reverse() function?", "en", "code"),
        ("Print the array.\nlet arr = [4, 5]", "en", "code"),
        ("Name a company <noinput>", "en", "code"),
        ("Name a company < noinput >", "en", "code"),
        ("Replace it: <b class='x'>bold</b> please", "en", "code"),
        ("What does SELECT name FROM people WHERE age do?", "en", "code"),
        ("What is C++ good for?", "en", None),
        ("创建一个C++函数，对数组进行排序。", "zh", None),
        ("Select a gift from the list for my mother.", "en", None),
        ("See https://example.org for more.", "en", "link"),
        ("What is the name of the page example.com?", "en", "link"),
        ("Write to me@example.org please.", "en", "link"),
        ("打开文件 data.csv 看看内容", "zh", "link"),
        ("What is node and express? I like e.g. tea.", "en", None),
        ("Solve $x^2 = 4$ for me.", "en", "formula"),
        ("How many ways lead to $A$ from here?", "en", "formula"),
        ("Calculate the following: (2 * 3 + 4) / 5", "en", "formula"),
        ("For the following function, evaluate f(x) at three.", "en", "formula"),
        ("将表达式4(x-3)转换一下。", "zh", "formula"),
        ("Calculate the cost of 3 apples, each costing $1.", "en", None),
        ("What is $12 and $14 together?", "en", None),
        ("Explain how to solve it: 2x + 4 = 10", "en", None),
        ("3×4等于几？", "zh", None),
        ("计算5件物品的总成本，如果每件物品的价格为$10。", "zh", None),
        ("What is the angle?\nA=(1,2), B=(3,4)", "en", "coordinates"),
        ("找出通过点（4,7）的直线。", "zh", "coordinates"),
        ("Describe this region: [0.18, 0.46, 0.46, 0.61].", "en", "coordinates"),
        ("What do the letters in (CNN) stand for?", "en", None),
        ("Provide a caption.\nReference OCR token: STOP, 12", "en", "table"),
        ("Sum this | 1 | 2 | please now", "en", "table"),
        ("Which is right? A. one B. two", "en", "options"),
        ("Which is right? (A) one (B) two", "en", "options"),
        ("哪个对？A．北京 B．上海", "zh", "options"),
        ("Is plan A better than plan B?", "en", None),
        ("A选项和B选项哪个更好？", "zh", None),
        ("Call 1234567890123 now please.", "en", "digits"),
        ("Fill in the ___ please.", "en", "blank"),
        ("一加一等于（ ）对吗", "zh", "blank"),
        ("Say it like this...", "en", None),
        ("one two\nthree four\nfive six", "en", "several lines"),
        ("- milk\n- bread and butter", "en", "several lines"),
        ("# Title of the page\nand text", "en", "several lines"),
        ("word " * 41, "en", "too long"),
        ("字" * 61, "zh", "too long"),
        ("Add these numbers: " + "123456, " * 11, "en", "too long"),
        ("你好吗，我的朋友？", "en", "language"),
        ("Hello there", "zh", "language"),
        ("Thanks", "en", "language"),
        ("Что это такое, what is it?", "en", "language"),
        ("これは何ですか，这是什么？", "zh", "language"),
        ("What is π good for?", "en", None),
        ("What does the 😀 mean here?", "en", "emoji"),
        ("say ◆◆◆◆ to me", "en", "symbols"),
    ],
)
def test_only_what_a_person_could_ask_aloud_is_spoken(text, language, reason):
    assert unspeakable(text, language) == reason


@pytest.mark.parametrize(
    ("text", "asked", "form"),
    [
        (
            "<image>\nWhat color is the cat?\nAnswer the question using a single word or phrase.",
            "What color is the cat?",
            "Answer the question using a single word or phrase.",
        ),
        ("Is it a cat? Answer yes or no.", "Is it a cat?", "Answer yes or no."),
        (
            "Which planet is it?\nAnswer with the option's letter from the given choices directly.",
            "Which planet is it?",
            "Answer with the option's letter from the given choices directly.",
        ),
        (
            "What is it?\nWhen the provided information is insufficient, respond with 'Unanswerable'.\n"
            "Answer the question using a single word or phrase.",
            "What is it?",
            "When the provided information is insufficient, respond with 'Unanswerable'.\n"
            "Answer the question using a single word or phrase.",
        ),
        ("What is it? Answer with a letter, e.g. A.", "What is it?", "Answer with a letter, e.g. A."),
        ("Question: who is it? Short answer:", "Question: who is it?", "Short answer:"),
        ("Find the volume of the cube. Round your answer to two decimals.", "Find the volume of the cube.",
         "Round your answer to two decimals."),
        ("图里有几个人？直接回答数字。", "图里有几个人？", "直接回答数字。"),
        ("这是什么？请用一个词或短语回答问题。", "这是什么？", "请用一个词或短语回答问题。"),
        ("这对吗？\n回答“是”或“否”", "这对吗？", "回答“是”或“否”"),
        # asked all the same: it is the question, or no form of an answer
        ("Answer with one word.", "Answer with one word.", ""),
        ("Who are you? Answer in the style of a pirate.", "Who are you? Answer in the style of a pirate.", ""),
        ("This is a photo. If the light is insufficient, what would you do?",
         "This is a photo. If the light is insufficient, what would you do?", ""),
        ("I have boxes. Which letter is in the first one?", "I have boxes. Which letter is in the first one?", ""),
        ("Who wrote it? Explain how you get there.", "Who wrote it? Explain how you get there.", ""),
        ("这是什么动物，请用一个词回答。", "这是什么动物，请用一个词回答。", ""),
        ("他为什么不回答？请说明理由。", "他为什么不回答？请说明理由。", ""),
        ("请用一句话说说图中的内容。", "请用一句话说说图中的内容。", ""),
    ],
)  # fmt: skip
def test_the_form_of_the_answer_stays_written(text, asked, form):
    assert parts(text) == (asked, form)


def test_requests_of_our_templates_are_written_where_they_ask_for_a_form_and_spoken_where_they_ask_for_more():
    for language, question in (("en", "What is it?"), ("zh", "这是什么？")):
        for request in TEMPLATES["answer-briefly", language]:
            assert parts(f"{question}\n{request}") == (question, request)
        for request in TEMPLATES["explain-answer", language]:
            assert parts(f"{question}\n{request}")[1] == ""


def test_what_is_heard_and_what_is_written_of_a_question_stand_side_by_side_and_are_counted():
    text = "<image>\nWhat color is it?\nAnswer the question using a single word or phrase."
    assert heard_text(text) == "<image><audio>\nAnswer the question using a single word or phrase."
    assert heard_text("<image>\nWhat is it?") == "<image><audio>"
    turn = Turn(speaker="human", text=text)
    rendered = pieces(turn, spoken=True, state=WRITTEN)
    words = [piece for piece in rendered if isinstance(piece, str)]
    assert words == ["\n", "user\n", "\n", "Answer the question using a single word or phrase."]
    qwen = tokenizer("qwen2.5")
    bare = turn_tokens(qwen, Turn(speaker="human", text="<image>\nWhat color is it?"), spoken=True, state=WRITTEN)
    assert turn_tokens(qwen, turn, spoken=True, state=WRITTEN) == bare + qwen.count(words[-1])


def test_the_spoken_form_is_one_line_in_words():
    pytest.importorskip("wetext", reason="wetext is not installed: pip install 'tarsia[speech]'")
    assert spoken_form('<image>\nWhat does "exit" (on the door) mean?', "en") == "What does exit on the door mean?"
    assert spoken_form("请翻译\n“他是学生”。", "zh") == "请翻译。他是学生。"
    assert spoken_form("Question: what is 3% of 5?\nShort answer:", "en") == "what is three percent of five?"
    assert spoken_form("What is it?\nAnswer briefly.", "en") == spoken_form("What is it?", "en") == "What is it?"


def test_most_of_the_example_questions_can_be_spoken():
    """The committed corpora keep their share: a rule that is too eager shows here."""
    records = json.loads((EXAMPLES / "seed_tasks_en" / "seed_tasks.json").read_text())
    asked = [record["instruction"] for record in records]
    said = [text for text in asked if unspeakable(text, "en") is None]
    assert len(said) >= 0.7 * len(asked)

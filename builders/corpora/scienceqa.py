"""ScienceQA: 21,208 questions from American school lessons, half of them about a picture, each with its explanation.

Lu and others took them from IXL's exercises (2022); 12,726 are for training, which is the row of that name in
VITA-1.5's table. `problems.json` at https://scienceqa.github.io is one object by problem, and the pictures lie in
folders by split and problem, `images/train/1/image.png`:

    {"1": {"question": "Which of these states is farthest north?", "choices": ["West Virginia", "Louisiana", …],
           "answer": 0, "hint": "", "image": "image.png", "lecture": "Maps have four cardinal directions, …",
           "solution": "To find the answer, look at the compass rose. …", "split": "train", …}, "2": …}

A hint is text to read before the question and stands in front of it. A problem without a picture is text alone. The
answer is the solution and then the choice; the lecture, a page of the textbook that many problems share, is left out.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from tarsia.builders.chat import neutralise
from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.choices import option, quiz, texts
from tarsia.builders.reading.fields import clean, fields, read_keyed, text
from tarsia.builders.reading.pictures import from_media
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import IMAGE, Draft

RECORD = "one problem"
FILES = ("**/problems.json",)


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The problems, each with its number as its id."""
    return read_keyed(source, file)


def draft(record: Any, at: At) -> Draft:
    """The problem as a question with its choices, and the solution as the answer."""
    record = fields(record)
    choices, number = texts(record.get("choices"), "choices"), record.get("answer")
    if not isinstance(number, int) or not 0 <= number < len(choices):
        raise Refused("record-shape", f"answer: the number of one of {len(choices)} choices was due")
    parts = (_said(record, "hint"), text(record, "question").strip())
    question = neutralise("\n".join(part for part in parts if part), keep=False)
    images: tuple[str, ...] = ()
    if record.get("image"):
        name = f"{text(record, 'split')}/{text(record, 'id')}/{clean(text(record, 'image'))}"
        images = (from_media(str(PurePosixPath(at.file).parent / "images" / name), name, at),)
        question = f"{IMAGE}\n{question}"
    letter = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[number]
    turns = quiz(question, option(choices, letter), at, options=choices, solution=_said(record, "solution"))
    return Draft(turns=turns, images=images)


def _said(record: dict[str, Any], key: str) -> str:
    return text(record, key).strip() if record.get(key) is not None else ""

r"""MATH-Vision: 3,040 problems of mathematics contests, each with its drawing.

Wang and others took them from 19 contests for pupils of all ages, from Kangaroo to AMC (2024), to test models; the
file `test.jsonl` (or `testmini.jsonl`, 304 of them) and the drawings are at https://github.com/mathvision-cuhk/MATH-V:

    {"id": "4", "question": "How many different digits can you find in this picture?\n<image1>", "options": [],
     "answer": "6", "solution": null, "level": 1, "subject": "counting", "image": "images/4.jpg"}

`<image1>` may stand anywhere; where it stands twice, there is still one drawing, and the second says "the same image".
With options the answer is a letter, and the letter and text of that option are what is said. Where the options are
drawn, they are only letters. Sets in the same form (MathVerse, We-Math) work as well.
"""

import re
from collections.abc import Iterator
from typing import Any

from tarsia.builders.chat import neutralise
from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.choices import option, quiz, texts
from tarsia.builders.reading.fields import fields, paths, read_json, text
from tarsia.builders.reading.language import language_of
from tarsia.builders.reading.parts import json_parts
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import IMAGE, Draft

RECORD = "one problem"
FILES = ("**/*.jsonl", "**/*.json")

split = json_parts

_MARK = re.compile(r"<image ?\d*>")
_SAME = {"en": "the same image", "zh": "同一张图"}


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The lines."""
    return read_json(source, file)


def draft(record: Any, at: At) -> Draft:
    """The problem with its drawing where it is spoken of, and its answer."""
    record = fields(record)
    images = paths(record, "image", "images")
    if len(images) != 1:
        raise Refused("record-shape", f"image: one drawing was due, not {len(images)}")
    options = texts(record.get("options"), "options")
    answer = str(record["answer"]) if isinstance(record.get("answer"), int | float) else text(record, "answer").strip()
    solution = text(record, "solution") if record.get("solution") is not None else ""
    said = text(record, "question")
    before, *after = (neutralise(part, keep=False) for part in _MARK.split(said))
    if not after:
        question = f"{IMAGE}\n{before}"
    else:
        question = f"{before}{IMAGE}{_SAME[language_of(at.corpus.language, said)].join(after)}"
    if options and answer:
        answer = option(options, answer)
    return Draft(turns=quiz(question, answer, at, options=options, solution=solution), images=images)

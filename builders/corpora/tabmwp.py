"""TabMWP: 38,431 word problems about a table that is shown as a picture.

Lu and others took them from IXL's lessons for grades 1 to 8 (2023), with the table as text, as a data frame and as an
image. `problems_train.json` and the folder `tables` are at https://github.com/lupantech/PromptPG:

    {"16": {"question": "What is the mode of the numbers?", "choices": null, "answer": "84", "unit": null,
            "table_title": "Books read", "table": "…", "solution": "…", "ans_type": "integer_number", …}, …}

No record names its image: it is `tables/16.png` by rule. The table is read from the image, so its text is left out.
The unit is asked for and answered with: "$" in front of the number, any other behind it.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from tarsia.builders.chat import neutralise
from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.choices import option, quiz, texts
from tarsia.builders.reading.fields import fields, read_keyed, text
from tarsia.builders.reading.pictures import from_media
from tarsia.builders.storage import Store
from tarsia.schemas.sample import IMAGE, Draft

RECORD = "one problem"
FILES = ("**/problems_*.json",)


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The problems, each with its number as its id."""
    return read_keyed(source, file)


def draft(record: Any, at: At) -> Draft:
    """The problem about the picture of its table, and the solution as the answer."""
    record = fields(record)
    name = f"{text(record, 'id')}.png"
    choices = texts(record.get("choices"), "choices")
    answer = text(record, "answer").strip()
    unit = text(record, "unit").strip() if record.get("unit") is not None else ""
    if choices and answer:
        answer = option(choices, answer)
    elif unit and answer:
        answer = f"{unit}{answer}" if unit == "$" else f"{answer} {unit}"
    question = f"{IMAGE}\n{neutralise(text(record, 'question').strip(), keep=False)}"
    solution = text(record, "solution") if record.get("solution") is not None else ""
    image = from_media(str(PurePosixPath(at.file).parent / "tables" / name), name, at)
    return Draft(turns=quiz(question, answer, at, options=choices, solution=solution), images=(image,))

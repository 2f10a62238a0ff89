"""VQA: short questions about photographs, and the answers of ten people to each.

Goyal and others balanced the second edition so that a question alone does not give the answer away (2017): 443,757
questions for training on COCO's images of 2014, at https://visualqa.org. Questions and answers are two files:

    v2_OpenEnded_mscoco_train2014_questions.json:  {"questions": [{"image_id": 458752, "question_id": 458752000,
                                                    "question": "What is this photo taken looking through?"}, …], …}
    v2_mscoco_train2014_annotations.json:          {"annotations": [{"question_id": 458752000,
                                                    "multiple_choice_answer": "net", "answers": […], …}, …], …}

Files of questions are read; the annotations are found by their name, beside them or anywhere in the corpus, and their
answers are held (some 150 bytes a question). TextVQA, DocVQA, ST-VQA and VizWiz, in the same manner, have one file with
everything: `{"data": [{"question_id": 0, "question": "…", "image_id": "0054c91397f2fe05", "answers": […]}, …]}`, or
only the list.

The answer is the one that most people gave, of equals the first; a request to be brief goes with the question. The
image is the one that is named, or else by rule, in the folder of its split: `train2014/COCO_train2014_000000458752.jpg`
for COCO, `train_images/0054c91397f2fe05.jpg` for TextVQA, whose images for training and validation are together.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from tarsia.builders.chat import neutralise
from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.choices import quiz
from tarsia.builders.reading.fields import clean, fields, first_of, own_id, text
from tarsia.builders.reading.jsonfile import listed
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import IMAGE, Draft

RECORD = "one question, joined with its answers"
FILES = ("**/*_questions.json", "**/TextVQA_*.json")

_IDS = ("question_id", "questionId", "qid", "id")
_IMAGES = ("image", "image_path", "file_path", "image_name", "file_name")
_NO_ANSWERS = ("", "answering does not require reading text in the image")  # what TextVQA's people may choose instead


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The questions, each with its answers."""
    answers: dict[str, str] | None = None
    if (twin := _twin(source, file)) is not None:
        answers = {}
        for found in listed(source, twin, "annotations"):
            if isinstance(found, Record) and isinstance(found.value, dict):
                answers[own_id(found.value, "question_id") or ""] = _most_said(found.value)
    for found in listed(source, file, "questions", "data"):
        if isinstance(found, Fault):
            yield found
            continue
        own = next((own for key in _IDS if (own := own_id(found.value, key))), None)
        record = found.value
        if answers is not None and isinstance(record, dict):
            record = {**record, "answer": answers.get(own or "")}
        yield Raw(own, record, found.begin, found.end)

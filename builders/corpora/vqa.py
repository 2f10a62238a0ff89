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
    twin, answers = _twin(source, file), dict[str, str]()
    for found in listed(source, twin, "annotations") if twin else ():
        if isinstance(found, Fault):
            yield found._replace(message=f"{twin}: {found.message}")
        elif own := own_id(found.value, "question_id"):
            answers[own] = _most_said(found.value)
    for found in listed(source, file, "questions", "data"):
        if isinstance(found, Fault):
            yield found
            continue
        own = next((own for key in _IDS if (own := own_id(found.value, key))), None)
        more = {"answer": answers[own], "split": _split(file)} if own in answers else {"split": _split(file)}
        record = {**more, **found.value} if isinstance(found.value, dict) else found.value
        yield Raw(own, record, found.begin, found.end)


def _twin(source: Store, file: str) -> str | None:
    """The file with the answers to a file of questions, if there is one."""
    path = PurePosixPath(file)
    if "questions" not in path.name:
        return None
    name = re.sub("(OpenEnded|MultipleChoice)_", "", path.name).replace("questions", "annotations")
    beside = str(path.parent / name)
    if source.entry(beside):
        return beside
    return next((entry.path for entry in source.list() if PurePosixPath(entry.path).name == name), None)


def _split(file: str) -> str:
    """The folder of COCO's images that a file of questions is about."""
    match = re.search(r"(train|val|test)\d{4}", PurePosixPath(file).name)
    return match[0] if match else ""


def _most_said(record: dict[str, Any]) -> str:
    said = record.get("multiple_choice_answer")
    given = record.get("answers") if said is None else [said]
    texts = [entry.get("answer") if isinstance(entry, dict) else entry for entry in given or ()]
    counted = Counter(text.strip() for text in texts if isinstance(text, str) and text.strip() not in _NO_ANSWERS)
    return counted.most_common(1)[0][0] if counted else ""


def draft(record: Any, at: At) -> Draft:
    """The question about its image, and the answer that was given most."""
    record = fields(record)
    if not isinstance(record.get("answers", []), list):
        raise Refused("record-shape", "answers: a list was due")
    answer = text(record, "answer") if isinstance(record.get("answer"), str) else _most_said(record)
    if not answer:
        raise Refused("answer-missing", "nobody's answer is known; test sets have none")
    question = f"{IMAGE}\n{neutralise(text(record, 'question').strip(), keep=False)}"
    return Draft(turns=quiz(question, answer, at), images=(_image(record, at),))


def _image(record: dict[str, Any], at: At) -> str:
    named = first_of(record, _IMAGES)
    if named is not None:
        return clean(text({"image": named}, "image"))
    own = own_id(record, "image_id")
    if own is None:
        raise Refused("record-shape", "image_id: a number or a name was due")
    folder, name = record.get("split") or "", f"{own}.jpg"
    if folder and own.isdecimal():
        name = f"COCO_{folder}_{int(own):012d}.jpg"
    elif not folder:
        folder = "test_images" if record.get("set_name") == "test" else "train_images"
    return name if PurePosixPath(at.corpus.media).name == folder else f"{folder}/{name}"

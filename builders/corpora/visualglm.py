"""VisualGLM: one picture, one question, one answer, as Tsinghua's VisualGLM-6B is tuned on.

The form is that of the examples in https://github.com/THUDM/VisualGLM-6B (2023, `fewshot-data/dataset.json`), and was
taken over by Chinese sets for one field, XrayGLM's chest X-rays among them. An array, paths from the folder that the
training ran in:

    {"img": "fewshot-data/2p.png", "prompt": "这张图片的背景里有什么内容？", "label": "这张图片的背景是蒙蒙细雨。"}
"""

from collections.abc import Iterator
from typing import Any

from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.fields import fields, paths, read_json, text
from tarsia.builders.reading.parts import json_parts
from tarsia.builders.reading.turns import about_media
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import IMAGE, Draft

RECORD = "one question about a picture"
FILES = ("**/*.json", "**/*.jsonl")

split = json_parts


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The elements of the array."""
    return read_json(source, file)


def draft(record: Any, at: At) -> Draft:
    """The question with its picture, and the answer."""
    record = fields(record)
    images = paths(record, "img")
    if len(images) != 1:
        raise Refused("record-shape", f"img: one picture was due, not {len(images)}")
    question, answer = text(record, "prompt"), text(record, "label")
    said = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return about_media(said, IMAGE, images=images)

r"""LLaVA: conversations about images, the form most visual instruction data come in.

Liu and others wrote the first 158,000 with GPT-4 from COCO captions and boxes (2023). ShareGPT4V (long captions by
GPT-4V and a model trained on them), ALLaVA, the LLaVA mixtures, LVIS-Instruct, UReader and most later sets kept the
form, as one JSON array or as JSON Lines; they are on the Hugging Face hub under the names of their authors:

    {"id": "000000033471", "image": "coco/train2017/000000033471.jpg",
     "conversations": [{"from": "human", "value": "<image>\nWhat are the colors of the bus?"},
                       {"from": "gpt", "value": "The bus is white and red."}, …]}

Records differ in small ways: `image` or `images`, a path or a list; `conversations` with from and value, or `messages`
(Mantis: `conversation`) with role and content; no id, or a number; no image at all, in mixtures that hold plain chat;
VITA's own files add `audio`, and some name a `video`. A record that has an image and never says `<image>` gets it in
front of the first question.
"""

from collections.abc import Iterator
from typing import Any

from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.fields import fields, first_of, paths, read_json
from tarsia.builders.reading.parts import json_parts
from tarsia.builders.reading.turns import TURNS, about_media
from tarsia.builders.storage import Store
from tarsia.schemas.sample import IMAGE, Draft

RECORD = "one conversation, about any number of images"
FILES = ("**/*.json", "**/*.jsonl")

split = json_parts


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The elements of the array, or the lines."""
    return read_json(source, file)


def draft(record: Any, at: At) -> Draft:
    """The conversation, with one `<image>` for each image."""
    record = fields(record)
    return about_media(
        first_of(record, TURNS),
        IMAGE,
        images=paths(record, "image", "images"),
        videos=paths(record, "video", "videos"),
        audios=paths(record, "audio", "audios"),
    )

"""ShareGPT: talks of people with ChatGPT that they had shared on a web page of that name.

About 90,000 were saved before the page closed them off (2023); Vicuna and its successors are trained on them, and many
synthetic sets of plain conversation keep the form. An array or JSON Lines:

    {"id": "QWJhYvA_0", "conversations": [{"from": "human", "value": "Who are you?"}, {"from": "gpt", "value": "…"}]}

The first copies call the list `items`; later sets write `messages` with role and content. It is text and nothing else:
an `<image>` in it is a word of the talk (or of HTML), never a medium. A model that speaks first and a question left
without an answer are dropped; a system prompt is refused, because training contexts bring their own.
"""

from collections.abc import Iterator
from typing import Any

from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.fields import fields, first_of, read_json
from tarsia.builders.reading.parts import json_parts
from tarsia.builders.reading.turns import TURNS, talk
from tarsia.builders.storage import Store
from tarsia.schemas.sample import Draft

RECORD = "one conversation"
FILES = ("**/*.json", "**/*.jsonl")

split = json_parts


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The elements of the array, or the lines."""
    return read_json(source, file)


def draft(record: Any, at: At) -> Draft:
    """The conversation, as text."""
    return talk(first_of(fields(record), (*TURNS, "items")))

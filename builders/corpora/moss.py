r"""MOSS: conversations of Fudan University's assistant, plain and with tools, one JSON file each or one a line.

The group published what MOSS-003 was tuned on together with the model (Sun and others, 2023): examples of every sort in
https://github.com/OpenLMLab/MOSS, `SFT_data/conversations`, and the whole, over a million talks, on the Hugging Face
hub. What is said is wrapped in marks, and thoughts, commands and results of tools stand beside it:

    {"conversation_id": 3, "meta_instruction": "You are an AI assistant whose name is MOSS. …", "num_turns": 8,
     "chat": {"turn_1": {"Human": "<|Human|>: 什么是…？<eoh>\n", "Inner Thoughts": "<|Inner Thoughts|>: None<eot>\n",
                         "Commands": …, "Tool Responses": …, "MOSS": "<|MOSS|>: 美国的…<sup><|1|></sup>。<eom>\n"}, …}}

On the hub many files have `"conversation": [{"human": "…", "assistant": "…"}, …]` instead. Ids start anew in every
folder. Marks and the small raised numbers of sources are taken out, and only what the two say to each other is kept;
contexts bring their own system prompt. Talks in which MOSS has an image drawn are refused: the answer would be a claim.
"""

import re
from collections.abc import Iterator
from typing import Any

from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.fields import fields, own_id, read_json, text
from tarsia.builders.reading.jsonfile import whole
from tarsia.builders.reading.parts import json_parts
from tarsia.builders.reading.turns import talk
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import Draft

RECORD = "one conversation"
FILES = ("**/*.json", "**/*.jsonl")

split = json_parts

_MARKS = re.compile(r"\A\s*<\|(?:Human|MOSS)\|>:|<eo[hma]>\s*\Z|<sup>(?:<\|\d+\|>)+</sup>")
_DRAWING = "Text2Image("


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The one conversation of a file, or those of its lines."""
    found = whole(source, file)
    if found is None or not isinstance(found.value, dict):
        yield from read_json(source, file, key="conversation_id")
    else:
        yield Raw(own_id(found.value, "conversation_id"), found.value, found.begin, found.end)


def draft(record: Any, at: At) -> Draft:
    """What the two say, in turns."""
    record = fields(record)
    chat = record.get("chat", record.get("conversation"))
    if isinstance(chat, dict):
        chat = [chat[name] for name in sorted(chat, key=_number)]
    if not isinstance(chat, list):
        raise Refused("record-shape", "chat: turns were due")
    said = []
    for entry in map(fields, chat):
        if _DRAWING in str(entry.get("Commands")):
            raise Refused("media-as-answer", "MOSS has an image drawn, and there is none")
        said.append({"from": "human", "value": _MARKS.sub("", text(entry, "Human", "human")).strip()})
        said.append({"from": "gpt", "value": _MARKS.sub("", text(entry, "MOSS", "assistant")).strip()})
    return talk(said)


def _number(name: str) -> tuple[int, str]:
    """`turn_10` comes after `turn_9`."""
    digits = re.search(r"\d{1,9}\Z", name)
    return int(digits[0]) if digits else 0, name

r"""BELLE: Chinese instructions and talks written by ChatGPT, a few million of them, in three forms.

The group at Lianjia published them with their models (Ji and others, 2023), at https://github.com/LianjiaTech/BELLE and
on the Hugging Face hub under BelleGroup. All are JSON Lines, though their names end in `.json`:

    train_0.5M_CN, train_1M_CN, school_math_0.25M …   {"instruction": "…", "input": "", "output": "…"}
    train_3.5M_CN         {"id": "66182880", "conversations": [{"from": "human", …}, {"from": "assistant", …}, …]}
    multiturn_chat_0.8M   {"instruction": "Human:你好\nAssistant:你好！\nHuman:…\nAssistant:", "output": "…", …}

The first is Alpaca's form and the second ShareGPT's. In the third the whole talk up to the last answer is written into
the instruction; it is taken apart again at lines that begin with one of the two names, so that no answer is trained
with another's in its question.
"""

import re
from collections.abc import Iterator
from typing import Any

from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.fields import fields, read_json, text
from tarsia.builders.reading.parts import json_parts
from tarsia.builders.reading.turns import instruction, talk
from tarsia.builders.storage import Store
from tarsia.schemas.sample import Draft

RECORD = "one instruction and its answer, or one conversation"
FILES = ("**/*.json", "**/*.jsonl")

split = json_parts

_NAME = re.compile(r"^\s*(Human|Assistant)\s*[:：]", re.MULTILINE)


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The lines, or the elements of an array."""
    return read_json(source, file)


def draft(record: Any, at: At) -> Draft:
    """The instruction and its answer, or the conversation."""
    record = fields(record)
    if "conversations" in record:
        return talk(record["conversations"])
    before, *parts = _NAME.split(text(record, "instruction").rstrip())
    names, texts = parts[::2], parts[1::2]
    if before.strip() or not names or names[0] != "Human" or names[-1] != "Assistant" or texts[-1].strip():
        return instruction(record)
    texts[-1] = text(record, "output")
    said = [{"from": name.lower(), "value": part.strip()} for name, part in zip(names, texts, strict=True)]
    return talk(said)

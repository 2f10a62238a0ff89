"""Alpaca: one instruction, perhaps with something to apply it to, and one answer.

Taori and others at Stanford had GPT-3.5 write 52,000 of them from 175 seeds (2023); GPT-4 answered the same questions
again, in Chinese as well, and the form became the common one for single questions (alpaca_data.json in
https://github.com/tatsu-lab/stanford_alpaca; many others on the Hugging Face hub). BELLE's single questions are in it
too; `belle` reads those and its talks. An array or JSON Lines:

    {"instruction": "Sort these by size.", "input": "moon, sun, earth", "output": "moon, earth, sun"}

The input goes on a line of its own below the instruction. An answer left empty is refused: it would teach silence.
"""

from collections.abc import Iterator
from typing import Any

from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.fields import fields, read_json
from tarsia.builders.reading.parts import json_parts
from tarsia.builders.reading.turns import instruction
from tarsia.builders.storage import Store
from tarsia.schemas.sample import Draft

RECORD = "one instruction and its answer"
FILES = ("**/*.json", "**/*.jsonl")

split = json_parts


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The elements of the array, or the lines."""
    return read_json(source, file)


def draft(record: Any, at: At) -> Draft:
    """The instruction and its input as one question, the output as its answer."""
    return instruction(fields(record))

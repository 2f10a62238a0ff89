"""Self-Instruct: 175 tasks written by people, from which language models were made to write thousands more.

Wang and others wrote them as seeds (2022), and Alpaca started from the same file, `seed_tasks.jsonl` in
https://github.com/yizhongw/self-instruct and https://github.com/tatsu-lab/stanford_alpaca. A task holds one instruction
and one or more instances of it:

    {"id": "seed_task_1", "name": "antonym_relation", "instruction": "What is the relation between the given pairs?",
     "instances": [{"input": "Night : Day :: Right : Left", "output": "… that they are opposites."}],
     "is_classification": false}

Each instance is a record, as an Alpaca record: the instruction, below it the input, and the output as the answer.
Instances of one task share its id, and are told apart by what they say.
"""

from collections.abc import Iterator
from typing import Any

from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.fields import fields, own_id
from tarsia.builders.reading.jsonfile import records
from tarsia.builders.reading.parts import json_parts
from tarsia.builders.reading.turns import instruction
from tarsia.builders.storage import Store
from tarsia.schemas.sample import Draft

RECORD = "one instance of a task"
FILES = ("**/*.jsonl",)

split = json_parts


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The instances of all tasks, each with its instruction."""
    for found in records(source, file):
        if isinstance(found, Fault):
            yield found
            continue
        instances = found.value.get("instances") if isinstance(found.value, dict) else None
        if not isinstance(instances, list) or not instances:
            yield Raw(own_id(found.value), found.value, found.begin, found.end)
            continue
        task = {key: value for key, value in found.value.items() if key != "instances"}
        for instance in instances:
            record = {**task, **instance} if isinstance(instance, dict) else task
            yield Raw(own_id(task), record, found.begin, found.end)


def draft(record: Any, at: At) -> Draft:
    """The instruction and its input as one question, the output as its answer."""
    return instruction(fields(record))

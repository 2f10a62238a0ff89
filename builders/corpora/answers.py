"""Noise, made of the answers of other corpora of the lake: statements that nobody addressed to the model.

VITA takes declarative sentences from the answers of its other data, has them spoken, and trains the model to reply to
them as it would, after the mark of noise; at run time such a reply is thrown away. A model that was trained to end at
once instead became worse, so there is a reply, and a plain one: the text that the sentence was taken from goes on.

    …The harbour lies in the north of the town. Its walls are of grey stone.
     human: The harbour lies in the north of the town.     gpt: Its walls are of grey stone.

The catalog names the corpora under `of`, instead of a root; their shards are read as the newest snapshot has them, so
they are ingested first. One sample gives one sentence, by a draw of the key; its id is the other sample's key.
Replies that a language model has written need no reader of their own: ingest them as any question and answer, of kind
noise.
"""

from collections.abc import Iterator
from typing import Any

from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.fields import fields
from tarsia.builders.reading.language import language_of
from tarsia.builders.reading.sentences import statements
from tarsia.builders.reading.turns import exchange
from tarsia.builders.storage import Store
from tarsia.builders.tables import read_parquet
from tarsia.schemas.errors import Refused
from tarsia.schemas.identity import pick
from tarsia.schemas.sample import Draft, Kind

RECORD = "the answers of one sample of another corpus"
FILES = ()


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The answers of each sample of a shard; the place of a record is the number of its row."""
    with source.open(file) as stream:
        table = read_parquet(stream, f"{source.url}/{file}")
    row = 0
    for batch in table.to_batches(max_chunksize=1024):
        for key, turns in zip(*(batch[name].to_pylist() for name in ("key", "conversations")), strict=True):
            answers = [turn["value"] for turn in turns if turn["from"] == "gpt"]
            yield Raw(key, {"id": key, "answers": answers}, row, row + 1)
            row += 1


def draft(record: Any, at: At) -> Draft:
    """A statement from one of the answers, and how that answer goes on."""
    if at.corpus.kind is not Kind.NOISE:
        raise Refused("unsaid-form", f"sentences of answers are of kind noise, not {at.corpus.kind.value}")
    answers = fields(record).get("answers")
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise Refused("record-shape", "answers: a list of texts was due")
    found = [one for answer in answers for one in statements(answer, language_of(at.corpus.language, answer))]
    if not found:
        raise Refused("no-statement", "no answer has a statement that can be said and that something follows")
    chosen = pick(found, at.key, "statement")
    return Draft(turns=exchange(chosen.said, chosen.rest))

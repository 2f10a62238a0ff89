"""Lists of recordings and their transcripts: what people write when no toolkit tells them how.

One line, one file: NeMo's manifests (JSON Lines with `audio_filepath`, `text` and perhaps `offset`, `duration`), tables
with named columns (`path`, `sentence`, …), or just two columns of a TSV.

    {"audio_filepath": "wavs/0001.wav", "duration": 2.1, "text": "good morning"}
    wavs/0001.wav	good morning

Paths start beside the list or at the corpus's root, whichever leads to a file first. Commands (`… |`) are never run.
"""

from collections.abc import Iterator
from typing import Any

from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.filelist import draft_listed, read_list
from tarsia.builders.reading.parts import SOUND, json_parts
from tarsia.builders.storage import Store
from tarsia.schemas.sample import Draft

RECORD = "one line: a recording, or a part of one, and its words"
FILES = ("**/*.tsv", "**/*.csv", "**/*.jsonl", "**/*manifest*.json")
PART = SOUND

split = json_parts


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The lines of the list. Where they are parts of recordings, one recording is decoded at a time, once."""
    return read_list(source, file)


def draft(record: Any, at: At) -> Draft:
    """The recording and its words."""
    return draft_listed(record, at)

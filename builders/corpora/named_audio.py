"""Recordings that are named by what is said in them, as word lists for learners are.

The Chinese words of audio-cmn (https://github.com/hugolpz/audio-cmn), spoken by Yue Tan for the Chinese of the HSK
examinations, are the model: each word is a file, with a short name of the language in front.

    24k-abr/hsk/cmn-一个.mp3     一个
    64k/hsk/cmn-一_也_.mp3       一…也…

An underline stands for an ellipsis. There is no other text, so whatever stands in the name is taken for the words.
"""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.fields import fields, text
from tarsia.builders.reading.speech import SUFFIXES, speech
from tarsia.builders.storage import Store
from tarsia.schemas.sample import Draft

RECORD = "one file: a recording and its name"
FILES = tuple(f"**/*{suffix}" for suffix in SUFFIXES)

_LANGUAGE = re.compile("^[a-z]{2,3}-(?=.)")


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The one record of the file, which is not opened."""
    name = PurePosixPath(file).stem
    entry = source.entry(file)
    yield Raw(name or None, {"name": name, "audio": file}, 0, entry.size if entry else 0)


def draft(record: Any, at: At) -> Draft:
    """The recording and the words in its name."""
    record = fields(record)
    return speech(_LANGUAGE.sub("", text(record, "name")).replace("_", "…"), text(record, "audio"), at)

"""LJ Speech: 24 hours of one woman reading seven books for LibriVox, the common ground of speech synthesis.

Keith Ito cut and transcribed it (2017); it is in the public domain, at https://keithito.com/LJ-Speech-Dataset. Beside
the folder `wavs` stands a table with bars between its columns and no quoting at all, in which quotation marks are just
that: the id, the text as printed, and the text with numbers and abbreviations written out.

    LJ001-0007|… the "forty-two line Bible" of about 1455,|… the "forty-two line Bible" of about fourteen fifty-five,

Many voices for synthesis are recorded in this form, some with two columns only. For a corpus of kind `tts` the text
written out is the question and the speech the answer; for `asr` the speech is asked and the printed text answers.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.fields import fields, text
from tarsia.builders.reading.parts import line_parts
from tarsia.builders.reading.speech import speech
from tarsia.builders.reading.textfile import lines
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import Draft, Kind

RECORD = "one sentence and its recording"
FILES = ("**/metadata.csv",)

split = line_parts


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The lines of the table, each with the path of its recording."""
    folder = PurePosixPath(file).parent / "wavs"
    for line in lines(source, file):
        if isinstance(line, Fault):
            yield line
            continue
        columns = [column.strip() for column in line.text.split("|")]
        if not columns[0] or len(columns) not in (2, 3):
            message = f"{len(columns)} columns; id|text|text written out was due"
            yield Fault("record-shape", message, line.text.encode(), line.begin, line.end)
            continue
        own, raw = columns[:2]
        record = {"id": own, "raw": raw, "normalised": columns[-1], "audio": str(folder / f"{own}.wav")}
        yield Raw(own, record, line.begin, line.end)


def draft(record: Any, at: At) -> Draft:
    """The text and its speech, in the direction of the corpus's kind."""
    record = fields(record)
    said = text(record, "normalised" if at.corpus.kind is Kind.TTS else "raw").strip()
    if not said:
        raise Refused("text-missing", "the recording has no text")
    return speech(said, text(record, "audio"), at)

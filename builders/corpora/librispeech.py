"""LibriSpeech: a thousand hours of audio books read by volunteers of LibriVox, cut into utterances.

Panayotov and others aligned them with the texts of Project Gutenberg (2015); they are at https://openslr.org/12, in
parts from `dev-clean` to `train-other-500`. Each folder is one chapter by one speaker, with a transcript file for all
its utterances:

    LibriSpeech/test-clean/237/134500/237-134500.trans.txt:  237-134500-0001 MARIE SIGHED
    LibriSpeech/test-clean/237/134500/237-134500-0001.flac

Transcripts are in capitals and without punctuation, and stay so. Other corpora come in the same tree (Multilingual
LibriSpeech's smaller parts, one's own recordings), often not as FLAC, so the folder is listed to see what lies beside
the transcripts.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.fields import fields, text
from tarsia.builders.reading.speech import speech
from tarsia.builders.reading.textfile import lines
from tarsia.builders.storage import Store
from tarsia.schemas.sample import Draft

RECORD = "one utterance and its transcript"
FILES = ("**/*.trans.txt",)

_SUFFIXES = (".flac", ".wav", ".mp3", ".ogg", ".opus", ".m4a")  # the first that is there


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The lines of the transcript file, each with the path of its audio."""
    folder = PurePosixPath(file).parent
    there = {entry.path for entry in source.list("" if str(folder) == "." else str(folder))}
    for line in lines(source, file):
        if isinstance(line, Fault):
            yield line
            continue
        own, *said = line.text.split(maxsplit=1)
        paths = [str(folder / f"{own}{suffix}") for suffix in _SUFFIXES]
        audio = next((path for path in paths if path in there), paths[0])
        record = {"id": own, "text": said[0].strip() if said else "", "audio": audio}
        yield Raw(own, record, line.begin, line.end)


def draft(record: Any, at: At) -> Draft:
    """The speech and its transcript, in the direction of the corpus's kind."""
    record = fields(record)
    own, said, audio = text(record, "id"), text(record, "text"), text(record, "audio")
    speaker, *rest = own.split("-")
    return speech(said, audio, at, speaker if rest else None)

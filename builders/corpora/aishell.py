"""AISHELL-1: 178 hours of Mandarin, read by 400 people from all over China in a quiet room.

Bu and others recorded it for Beijing Shell Shell (2017); it is at https://openslr.org/33 under Apache 2.0. One
transcript serves all three parts, and says only the name of an utterance, not its folder:

    data_aishell/transcript/aishell_transcript_v0.8.txt:  BAC009S0002W0122 而 对 楼市 成交 抑制 作用 最 大 的 限 购
    data_aishell/wav/train/S0002/BAC009S0002W0122.wav

So `wav` is listed first (142,000 names). Words are set apart by spaces, which go: nobody writes Chinese so. Recordings
that the transcript does not name are no records.
"""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.fields import fields, text
from tarsia.builders.reading.speech import is_sound, speech
from tarsia.builders.reading.textfile import lines
from tarsia.builders.storage import Store
from tarsia.schemas.sample import Draft

RECORD = "one utterance: a line of the transcript"
FILES = ("**/aishell_transcript*.txt",)

_SPEAKER = re.compile("S[0-9]{4}(?=W)")
_BETWEEN_WORDS = re.compile(r"(?<![A-Za-z])\s+|\s+(?![A-Za-z])")  # two words in Latin letters stay apart


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The lines of the transcript, each with the path of its recording."""
    wav = str(PurePosixPath(file).parent.parent / "wav")
    there = {PurePosixPath(entry.path).stem: entry.path for entry in source.list(wav) if is_sound(entry.path)}
    for line in lines(source, file):
        if isinstance(line, Fault):
            yield line
            continue
        own, *said = line.text.split(maxsplit=1)
        record = {"id": own, "text": said[0].strip() if said else "", "audio": there.get(own, f"{wav}/{own}.wav")}
        yield Raw(own, record, line.begin, line.end)


def draft(record: Any, at: At) -> Draft:
    """The utterance and its transcript."""
    record = fields(record)
    speaker = _SPEAKER.search(text(record, "id"))
    said = _BETWEEN_WORDS.sub("", text(record, "text").strip())
    return speech(said, text(record, "audio"), at, speaker and speaker[0])

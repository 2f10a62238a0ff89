"""GigaSpeech: ten thousand hours of transcribed English from audio books, podcasts and YouTube.

Chen and others found the transcripts and aligned them (2021); the corpus is asked for at
https://github.com/SpeechColab/GigaSpeech. Everything is described by one index of several gigabytes, and a recording,
hours long, stays one Opus file:

    {"dataset": "GigaSpeech", …, "audios": [
      {"aid": "AUD0000000237", "path": "audio/audiobook/P0001/AUD0000000237.opus", …, "segments": [
        {"sid": "AUD0000000237_S0000001", "speaker": "N/A", "begin_time": 6.13, "end_time": 7.94,
         "text_tn": "MARIE SIGHED <PERIOD>", "subsets": ["{XL}", "{L}"]}, …]}, …]}

Transcripts are in capitals, and stay so. Four tags stand for punctuation and become it; four others say that a segment
is silence, music, noise or something else, and such segments are refused. The subsets stay in the raw record.
"""

import re
from collections.abc import Iterator
from typing import Any

from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.fields import text
from tarsia.builders.reading.indexed import draft_segment, read_segments, segment_parts
from tarsia.builders.reading.parts import SOUND
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import Draft

RECORD = "one segment of a recording and its transcript"
FILES = ("**/GigaSpeech*.json",)
PART = SOUND

split = segment_parts

_PUNCTUATION = {"COMMA": ",", "PERIOD": ".", "QUESTIONMARK": "?", "EXCLAMATIONPOINT": "!"}
_TAG = re.compile(rf"\s*<({'|'.join(_PUNCTUATION)})>")
_GARBAGE = re.compile("<(?:SIL|MUSIC|NOISE|OTHER)>")


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The segments of the index, with their sound. One recording is decoded at a time, once."""
    return read_segments(source, file, said)


def draft(record: Any, at: At) -> Draft:
    """The segment, and its transcript with punctuation."""
    return draft_segment(record, at, said)


def said(record: dict[str, Any]) -> str:
    """The words of a segment; `Refused` where a tag says that nobody speaks."""
    words = text(record, "text_tn", "text")
    if garbage := _GARBAGE.search(words):
        raise Refused("transcript-garbage", f"{garbage[0]} is no speech")
    if not (words := _TAG.sub(lambda tag: _PUNCTUATION[tag[1]], words).strip()):
        raise Refused("answer-empty", "the segment has no transcript")
    return words

"""WenetSpeech: ten thousand hours of Mandarin from YouTube and podcasts, read off subtitles and recognised.

Zhang and others (2022) took the texts from the subtitles in the picture and from a recogniser, and kept what an
aligner believed: `confidence` 1.0 or at least 0.95 is what they call strongly labelled. The corpus is asked for at
https://wenet.org.cn/WenetSpeech. One index of several gigabytes describes it, and a recording stays one Opus file:

    {"dataset": "WenetSpeech", …, "audios": [
      {"aid": "Y0000000000_--5llN02F84", "path": "audio/train/youtube/B00000/Y0000000000_--5llN02F84.opus", …,
       "segments": [{"sid": "Y0000000000_--5llN02F84_S00001", "confidence": 1.0, "begin_time": 1.2, "end_time": 2.35,
                     "subsets": ["L", "M"], "text": "一心"}, …]}, …]}

The key of the words is `text` here, where GigaSpeech has `text_tn`. Confidence and subsets stay in the raw record.
"""

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
FILES = ("**/WenetSpeech*.json",)
PART = SOUND

split = segment_parts


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The segments of the index, with their sound. One recording is decoded at a time, once."""
    return read_segments(source, file, said)


def draft(record: Any, at: At) -> Draft:
    """The segment and its transcript."""
    return draft_segment(record, at, said)


def said(record: dict[str, Any]) -> str:
    """The words of a segment."""
    if not (words := text(record, "text", "text_tn").strip()):
        raise Refused("answer-empty", "the segment has no transcript")
    return words

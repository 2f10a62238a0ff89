"""Indexes of long recordings as WenetSpeech and GigaSpeech write them: one JSON object, `audios` with their `segments`.

The index is streamed one audio at a time, and the segments of that audio are cut in one pass over it. What a segment
says differs from corpus to corpus (`text` or `text_tn`, tags), so its reader tells: a segment without usable words is
not cut, since it will be refused anyway.
"""

from collections.abc import Callable, Iterator
from typing import Any

from tarsia.builders.corpora import At, Fault, Part, Raw
from tarsia.builders.reading.fields import fields, own_id, text
from tarsia.builders.reading.jsonfile import KEPT, Record, elements, listed, members
from tarsia.builders.reading.near import Near
from tarsia.builders.reading.parts import list_parts
from tarsia.builders.reading.segments import CUT, Piece, Place, check_heard, heard, place
from tarsia.builders.reading.speech import speech
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import Draft

Said = Callable[[dict[str, Any]], str]  # the words of a segment; `Refused` if they are none


def read_segments(source: Store, file: str, said: Said) -> Iterator[Raw | Fault]:
    """The segments of all audios of an index, those that are cut with their sound."""
    near = Near(source, file)
    for audio in listed(source, file, "audios"):
        if isinstance(audio, Fault):
            yield audio
            continue
        path = audio.value.get("path") if isinstance(audio.value, dict) else None
        if not isinstance(path, str) or not isinstance(audio.value.get("segments"), list):
            message = "an audio with a path and a list of segments was due"
            yield Fault("record-shape", message, audio.raw[:KEPT], audio.begin, audio.end)
            continue
        path = near.path(path)
        pieces = [_piece(segment, path, said) for segment in _segments(audio)]
        yield from (raw for raw, where in pieces if where is None)
        yield from heard(source, path, pieces)


def segment_parts(source: Store, file: str, size: int) -> Iterator[Part]:
    """Where an index may be cut: between two audios."""
    return list_parts(source, file, size, "audios")


def _segments(audio: Record) -> Iterator[Record]:
    """The segments of an audio, and where they stand in the file (with the audio, where that is not UTF-8)."""
    same = audio.end - audio.begin == len(audio.raw)
    for member in members(audio.raw):
        if not isinstance(member, Fault) and member.key == "segments":
            for found in elements(audio.raw, member.begin):
                if isinstance(found, Record):
                    begin, end = audio.begin + found.begin, audio.begin + found.end
                    yield found._replace(begin=begin, end=end) if same else audio._replace(value=found.value)


def _piece(segment: Record, path: str, said: Said) -> Piece:
    record = {**segment.value, "audio": path} if isinstance(segment.value, dict) else segment.value
    raw = Raw(own_id(record, "sid"), record, segment.begin, segment.end)
    try:
        said(fields(record))
        return raw, _place(record)
    except Refused:
        return raw, None


def draft_segment(record: Any, at: At, said: Said) -> Draft:
    """A segment and its words."""
    record = fields(record)
    words = said(record)
    _place(record)
    check_heard(record)
    speaker = record.get("speaker")
    return speech(words, CUT, at, None if speaker == "N/A" else speaker)


def _place(record: dict[str, Any]) -> Place:
    return place(text(record, "audio"), record.get("begin_time"), record.get("end_time"))

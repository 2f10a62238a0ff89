"""Lhotse manifests: recordings and what is said in them, as JSON Lines that point at each other.

Lhotse (Żelasko and others, 2021; https://github.com/lhotse-speech/lhotse) prepares more than a hundred corpora into one
form: `…_recordings_….jsonl.gz` lists the files, `…_supervisions_….jsonl.gz` who says what from when to when, and
`…cuts….jsonl.gz` holds both for training.

    {"id": "237-1", "recording_id": "237", "start": 6.13, "duration": 1.81, "channel": 0, "text": "MARIE SIGHED"}
    {"id": "237", "sources": [{"type": "file", "channels": [0], "source": "237.opus"}], "duration": 117.865, …}

Only files are heard: a source that is a command is never run, and one that is an address or lies in memory is not
fetched. A supervision that is a whole recording is loaded where the shard is written, any other is cut. Recordings that
Lhotse would change as it loads them (other speeds, tones) are refused, and so are cuts that mix several.
"""

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from copy import deepcopy
from pathlib import PurePosixPath
from typing import Any

import orjson

from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.fields import clean, fields, own_id, text
from tarsia.builders.reading.jsonfile import records
from tarsia.builders.reading.lookup import Lookup
from tarsia.builders.reading.near import Near
from tarsia.builders.reading.parts import SOUND, json_parts
from tarsia.builders.reading.segments import CUT, Piece, Place, as_line, check_heard, gathered, piece, place
from tarsia.builders.reading.speech import speech
from tarsia.builders.reading.textfile import Line
from tarsia.builders.reading.unzipped import Plain, unzipped
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import Draft

RECORD = "one supervision: a stretch of speech and its transcript; a cut without any is one, too"
FILES = ("**/*supervisions*.jsonl", "**/*supervisions*.jsonl.gz", "**/*cuts*.jsonl", "**/*cuts*.jsonl.gz")
PART = SOUND

split = json_parts

_KEPT = ("id", "text", "speaker", "language", "start", "duration", "channel")  # of a supervision


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The supervisions of the file. One recording is decoded at a time, once; 16 bytes a recording are held."""
    with ExitStack() as stack:
        plain = stack.enter_context(unzipped(source, file))
        recordings = _recordings(source, file, stack)
        near = Near(source, file)

        def parts(line: Line) -> list[Piece]:
            found = _supervisions(orjson.loads(line.text), recordings)
            return [_piece(record, near, line.begin, line.end) for record in found]

        lines = map(as_line, records(plain.store, plain.file))
        yield from gathered(source, (plain.store, plain.file), lines, parts)
        yield from plain.faults


def _recordings(source: Store, file: str, stack: ExitStack) -> Lookup:
    """The recordings that stand beside supervisions, zipped or not; cuts bring theirs."""
    path = PurePosixPath(file)
    name = path.name.removesuffix(".gz").replace("supervisions", "recordings")
    names = [str(path.with_name(name + ending)) for ending in ("", ".gz") if name + ending != path.name]
    there = next((name for name in names if source.entry(name)), None)
    plain = stack.enter_context(unzipped(source, there)) if there else Plain(source, f"{name}?")
    return stack.enter_context(Lookup(plain.store, plain.file, _id_of))


def _id_of(line: bytes) -> bytes | None:
    try:
        own = own_id(orjson.loads(line))
    except orjson.JSONDecodeError:
        return None
    return own.encode() if own else None


def _supervisions(value: Any, recordings: Lookup) -> list[Any]:
    """The supervisions that a line holds: itself, or those of a cut, each with its recording."""
    if not isinstance(value, dict):
        return [value]
    if "supervisions" not in value and "recording" not in value and "recording_id" in value:
        line = recordings.line(str(value["recording_id"]).encode())
        return [_record(value, 0.0, orjson.loads(line) if line else None)]
    begin, said = value.get("start"), value.get("supervisions")
    if not isinstance(begin, int | float) or not isinstance(said, list | None):
        return [value]
    return [_record(each, begin, value.get("recording")) for each in said or [{**value, "start": 0.0}]]


def _record(supervision: Any, begin: float, recording: Any) -> Any:
    if not isinstance(supervision, dict):
        return supervision
    record = {key: supervision[key] for key in _KEPT if key in supervision}
    if isinstance(start := record.get("start"), int | float):
        record["start"] = round(begin + start, 6)
    return {**record, "recording": deepcopy(recording)}


def _piece(record: Any, near: Near, begin: int, end: int) -> Piece:
    with suppress(Refused):  # the draft says what is amiss
        found = _source(fields(record))
        if found["type"] == "file":
            found["source"] = near.path(text(found, "source"))
    return piece(Raw(own_id(record), record, begin, end), _where)


def draft(record: Any, at: At) -> Draft:
    """The stretch of speech and its transcript."""
    record = fields(record)
    where = _where(record)
    check_heard(record)
    said = text(record, "text") if record.get("text") is not None else ""
    return speech(said, CUT if isinstance(where, Place) else where, at, record.get("speaker"))


def _where(record: dict[str, Any]) -> str | Place:
    """The file of a supervision, or its place in one."""
    found = _source(record)
    if found["type"] == "command":
        raise Refused("audio-pipe", f"a command would make the sound, and is not run: {str(found.get('source'))[:200]}")
    if found["type"] != "file":
        raise Refused("audio-source", f"a source of type {str(found['type'])[:40]!r} is not read")
    changed = record["recording"].get("transforms") or []
    if not isinstance(changed, list) or any(fields(step).get("name") != "Resample" for step in changed):
        raise Refused("audio-source", f"the recording would be changed on loading: {str(changed)[:200]}")
    path, start, duration = clean(text(found, "source")), record.get("start"), record.get("duration")
    column = found["channels"].index(_channel(record)) if _channel(record) in found["channels"] else 0
    end = start + duration if isinstance(start, int | float) and isinstance(duration, int | float) else None
    whole = record["recording"].get("duration")
    if start == 0 and column == 0 and end and isinstance(whole, int | float) and end >= whole - 0.01:
        return path
    return place(path, start, end, column)


def _source(record: dict[str, Any]) -> dict[str, Any]:
    """The source that holds the channel of a supervision, or else the first."""
    if not isinstance(record.get("recording"), dict):
        raise Refused("media-missing", "no recording is known for it")
    given = record["recording"].get("sources")
    sources = [each for each in given if isinstance(each, dict)] if isinstance(given, list) else []
    sources = [each for each in sources if "type" in each and isinstance(each.get("channels"), list)]
    if not sources:
        raise Refused("media-missing", "the recording has no source with channels")
    return next((each for each in sources if _channel(record) in each["channels"]), sources[0])


def _channel(record: dict[str, Any]) -> Any:
    given = record.get("channel", 0)
    return given[0] if isinstance(given, list) and given else given

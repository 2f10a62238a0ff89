"""Lists of recordings and their words, however they are written: JSON Lines, TSV or CSV, with the usual names.

NeMo says `audio_filepath` and `text`, wenet `wav` and `txt`, others `path` and `sentence`. A table without names has
two columns, a path and a text. Where a list says from when to when (NeMo: `offset` and `duration`, wenet: `start` and
`end`), the recording is cut.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import orjson

from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.delimited import rows
from tarsia.builders.reading.fields import clean, fields, first_of, own_id, text
from tarsia.builders.reading.jsonfile import KEPT, records
from tarsia.builders.reading.near import Near
from tarsia.builders.reading.segments import CUT, Piece, Place, as_line, check_heard, gathered, piece, place
from tarsia.builders.reading.speech import is_sound, speech
from tarsia.builders.reading.textfile import Line
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import Draft

PATHS = ("audio_filepath", "audio_path", "audio", "wav", "path", "file", "filename", "file_name", "clip")
TEXTS = ("text", "txt", "sentence", "transcript", "transcription", "normalized_text", "caption")
_IDS = ("id", "key", "utt_id", "utt")
_SPEAKERS = ("speaker", "speaker_id", "spk", "client_id")


def read_list(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The records of a list; those that are cut come with their sound, and after those that are not."""
    near = Near(source, file)
    if (suffix := PurePosixPath(file).suffix.lower()) in (".tsv", ".csv"):
        yield from _read_table(source, file, near, "\t" if suffix == ".tsv" else ",")
        return

    def parts(line: Line) -> list[Piece]:
        return [_piece(orjson.loads(line.text), near, line.begin, line.end)]

    yield from gathered(source, (source, file), map(as_line, records(source, file)), parts)


def _read_table(source: Store, file: str, near: Near, delimiter: str) -> Iterator[Raw | Fault]:
    names: list[str] = []
    for row in rows(source, file, delimiter=delimiter, quoted=delimiter == ","):
        if isinstance(row, Fault):
            yield row
        elif not names:
            names = [cell.strip().lower() for cell in row.cells]
            if set(names) & set(PATHS) and set(names) & set(TEXTS):
                continue
            if len(row.cells) != 2 or not is_sound(row.cells[0]):
                message = f"neither a path and a text nor columns that are named so: {', '.join(names)}"
                size = found.size if (found := source.entry(file)) else row.end
                yield Fault("record-shape", message, delimiter.join(row.cells).encode()[:KEPT], row.begin, size)
                return
            names = ["path", "text"]
            yield _piece(dict(zip(names, row.cells, strict=True)), near, row.begin, row.end)[0]
        elif len(row.cells) != len(names):
            message = f"{len(row.cells)} columns; {len(names)} were due"
            yield Fault("record-shape", message, delimiter.join(row.cells).encode()[:KEPT], row.begin, row.end)
        else:
            yield _piece(dict(zip(names, row.cells, strict=True)), near, row.begin, row.end)[0]


def _piece(record: Any, near: Near, begin: int, end: int) -> Piece:
    own = None
    if isinstance(record, dict):
        key = next((key for key in PATHS if isinstance(record.get(key), str)), None)
        own = next((own for name in _IDS if (own := own_id(record, name))), None) or (record[key] if key else None)
        record = {**record, key: near.path(record[key])} if key else record
    return piece(Raw(own or None, record, begin, end), _where)


def draft_listed(record: Any, at: At) -> Draft:
    """A recording and its words."""
    record = fields(record)
    where = _where(record)
    check_heard(record)
    audio = CUT if isinstance(where, Place) else where
    return speech(text(record, *TEXTS), audio, at, first_of(record, _SPEAKERS))


def _where(record: dict[str, Any]) -> str | Place:
    """The file of a record, or its place in a recording."""
    path = clean(text(record, *PATHS))
    if path.endswith("|"):
        raise Refused("audio-pipe", f"a command would make the sound, and is not run: {path[:200]}")
    begin = first_of(record, ("offset", "start"))
    if isinstance(begin, str) or begin is None:  # tables have whole files
        return path
    end = record.get("end")
    if end is None:
        seconds = record.get("duration")
        numbers = isinstance(begin, int | float) and isinstance(seconds, int | float)
        end = begin + seconds if numbers else None
    return place(path, begin, end)

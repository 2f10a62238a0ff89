"""Segments of long recordings: which lines of a table belong to which recording, and the sound of each.

Broadcasts, films and calls are kept whole, with a table of who says what from when to when. Each recording is opened
once and decoded once, for all its segments, and never held: segments longer than 30 s are refused unheard, so what is
in memory is the longest segment and a block.

Tables are not always sorted by recording. `gathered` notes where each line stands and in which recording (28 bytes a
segment), and reads the lines of one recording together when its turn comes.

What cannot be heard is said in the record, under `amiss`, since a record whose audio is lost stays the record it was.
"""

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tarsia.builders.audio import LONGEST
from tarsia.builders.corpora import Fault, Raw
from tarsia.builders.reading.encoding import encoding_of
from tarsia.builders.reading.fields import fields
from tarsia.builders.reading.jsonfile import Record
from tarsia.builders.reading.recordings import opened
from tarsia.builders.reading.textfile import Line
from tarsia.builders.storage import Store
from tarsia.schemas.errors import NotThere, Outside, Refused, TarsiaError
from tarsia.schemas.identity import checksum

CUT = "@audio"  # what a draft calls the sound of a segment


class Place(NamedTuple):
    """Where a segment lies: a recording, seconds from its start, a channel."""

    path: str
    begin: float
    end: float
    channel: int = 0


Piece = tuple[Raw, Place | None]  # a record, and what must be cut for it


def place(path: str, begin: Any, end: Any, channel: Any = 0) -> Place:
    """The place that a table names; `Refused` if no segment of a usable length can lie there."""
    times = (begin, end)
    if not all(isinstance(time, int | float) and not isinstance(time, bool) for time in times):
        raise Refused("record-shape", "begin and end of the segment: seconds were due")
    if not all(math.isfinite(time) for time in times) or not 0 <= begin < end:
        raise Refused("segment-times", f"no segment lies between {begin} s and {end} s")
    if round(end - begin, 3) > LONGEST:
        raise Refused("audio-long", f"{end - begin:.2f} s, longer than {LONGEST:g} s")
    if not isinstance(channel, int) or channel < 0:
        raise Refused("record-shape", "channel of the segment: a number was due")
    return Place(path, float(begin), float(end), int(channel))


def piece(raw: Raw, where: Callable[[dict[str, Any]], str | Place]) -> Piece:
    """A record with what must be cut for it; what is amiss with `where` its sound lies is left to its draft to say."""
    try:
        found = where(fields(raw.record))
    except Refused:
        return raw, None
    return raw, found if isinstance(found, Place) else None


def check_heard(record: Mapping[str, Any]) -> None:
    """Refuses a record whose sound could not be cut, with the reason that was found then."""
    amiss = record.get("amiss")
    if isinstance(amiss, dict):
        raise Refused(str(amiss.get("code")), str(amiss.get("message")))


def gathered(
    source: Store,
    table: tuple[Store, str],
    lines: Iterable[Line | Fault],
    parts: Callable[[Line], Sequence[Piece]],
) -> Iterator[Raw | Fault]:
    """The records of a table's lines, those of one recording together and with their sound.

    `parts` says what records a line holds; it is asked again when the line is read again from `table`. Records that
    need no cutting come first, in the order of the lines.
    """
    recordings, begins, ends, numbers = array("Q"), array("q"), array("q"), array("i")
    for line in lines:
        if isinstance(line, Fault):
            yield line
            continue
        for number, (raw, where) in enumerate(parts(line)):
            if where is None:
                yield raw
            else:
                recordings.append(checksum(where.path.encode(errors="replace")))
                begins.append(line.begin)
                ends.append(line.end)
                numbers.append(number)
    if not recordings:
        return
    store, file = table
    encoding = encoding_of(store, file)
    with store.open(file) as stream:
        for group in _groups(np.array(recordings, dtype=np.uint64)):
            pieces: dict[str, list[Piece]] = {}
            for row in group:
                stream.seek(begins[row])
                text = stream.read(ends[row] - begins[row]).decode(encoding)
                raw, where = parts(Line(text, begins[row], ends[row]))[numbers[row]]
                pieces.setdefault(where.path if where else "", []).append((raw, where))
            for path, mine in pieces.items():
                yield from heard(source, path, mine)


def as_line(found: Record | Fault) -> Line | Fault:
    """A record of JSON Lines (or an array) as the line it stands in."""
    return found if isinstance(found, Fault) else Line(found.raw.decode(), found.begin, found.end)


def _groups(names: NDArray[np.uint64]) -> Iterator[NDArray[np.int64]]:
    """The rows of each name, names in the order in which they first appear."""
    _, first, inverse = np.unique(names, return_index=True, return_inverse=True)
    order = np.argsort(first[inverse], kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(first[inverse][order])) + 1)


def heard(source: Store, path: str, pieces: Iterable[Piece]) -> Iterator[Raw]:
    """The records of one recording with their sound, by begin; where there is none, with the reason in them."""
    waiting = sorted(((raw, where) for raw, where in pieces if where), key=lambda piece: piece[1].begin)
    done = 0
    try:
        with opened(source, path) as recording:
            for raw, where in waiting:
                flac = recording.cut(where.begin, where.end, where.channel)
                done += 1
                yield _amiss(raw, flac) if isinstance(flac, Refused) else raw._replace(media={CUT[1:]: flac})
    except NotThere:
        refused = Refused("media-missing", f"no '{path}'")
    except Outside as error:
        refused = Refused("media-outside", str(error))
    except Refused as error:
        refused = error
    except (TarsiaError, OSError, MemoryError, AssertionError):
        raise
    except Exception as error:  # broken sounds lead decoders to raise what they please
        refused = Refused("audio-unreadable", f"{path}: {type(error).__name__}: {error}")
    for raw, _ in waiting[done:]:
        yield _amiss(raw, refused)


def _amiss(raw: Raw, refused: Refused) -> Raw:
    return raw._replace(record={**raw.record, "amiss": {"code": refused.code, "message": refused.message}})

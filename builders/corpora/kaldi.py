"""Kaldi data folders: the tables that most speech recipes of the last decade end in.

Povey and others' toolkit (2011) describes any corpus by a few text files, sorted by their first word: `text` says what
is said in each utterance, `wav.scp` where each recording lies, `utt2spk` who speaks, and `segments`, if there is one,
which seconds of which recording an utterance is.

    data/train/text       george-0_george_0 ZERO
    data/train/wav.scp    george-0_george_0 wav/0_george_0.wav
    data/train/utt2spk    george-0_george_0 george
    data/train/segments   sw02001-A_000098-001156 sw02001-A 0.98 11.56

Paths start at the corpus's root. A `wav.scp` may also hold commands whose output is the sound (`sph2pipe … |`): they
are never run, and their utterances are refused, as are places inside Kaldi's archives (`raw.ark:1234`). Without
`segments` an utterance is a whole file, loaded where the shard is written; with them recordings are cut.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import PurePosixPath
from typing import Any

from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.fields import clean, fields, text
from tarsia.builders.reading.lookup import Lookup
from tarsia.builders.reading.parts import SOUND, line_parts
from tarsia.builders.reading.segments import CUT, Piece, Place, check_heard, gathered, piece, place
from tarsia.builders.reading.speech import speech
from tarsia.builders.reading.textfile import Line, lines
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import Draft

RECORD = "one utterance: a line of `text`"
FILES = ("**/text",)
PART = SOUND

split = line_parts

_ARCHIVE = re.compile(r":\d+(?:\[[^\]]*\])?$")


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The lines of `text`, each with what the other tables know. 16 bytes a line of each are held."""
    with ExitStack() as stack:
        paths = (str(PurePosixPath(file).with_name(name)) for name in ("wav.scp", "utt2spk", "segments"))
        recordings, speakers, segments = (stack.enter_context(Lookup(source, path)) for path in paths)
        if not recordings:
            yield Fault("record-shape", "no recordings: wav.scp beside it is missing or empty", b"", 0, 0)
            return

        def parts(line: Line) -> list[Piece]:
            own, *said = line.text.split(maxsplit=1)
            record: dict[str, Any] = {"id": own, "text": said[0].strip() if said else ""}
            if speaker := speakers.rest(own):
                record["speaker"] = speaker
            recording = own
            if segments:
                recording, *times = (segments.rest(own) or "").split() or [""]
                record |= {"recording": recording, "times": times}
            record["audio"] = recordings.rest(recording) or ""
            return [piece(Raw(own, record, line.begin, line.end), _where)]

        yield from gathered(source, (source, file), lines(source, file), parts)


def draft(record: Any, at: At) -> Draft:
    """The utterance and its transcript."""
    record = fields(record)
    where = _where(record)
    check_heard(record)
    return speech(text(record, "text"), CUT if isinstance(where, Place) else where, at, record.get("speaker"))


def _where(record: dict[str, Any]) -> str | Place:
    """The file of an utterance, or its place in a recording. `Refused` if there is nothing to be opened."""
    audio = text(record, "audio")
    if audio.endswith("|") or audio == "-":
        raise Refused("audio-pipe", f"a command would make the sound, and is not run: {audio[:200]}")
    if _ARCHIVE.search(audio):
        raise Refused("audio-archive", f"the sound lies in an archive of Kaldi: {audio[:200]}")
    if record.get("recording") == "":
        raise Refused("media-missing", "no line of `segments` for the utterance")
    if not audio:
        raise Refused("media-missing", "no line of `wav.scp` for the recording")
    if "times" not in record:
        return clean(audio)
    times = record["times"]
    if not isinstance(times, list) or len(times) not in (2, 3):
        raise Refused("record-shape", "segments: begin, end and perhaps a channel were due")
    try:
        begin, end, *channel = (float(str(time)) for time in times)
    except ValueError:
        raise Refused("record-shape", "segments: seconds were due") from None
    return place(clean(audio), begin, end, int(channel[0]) if channel and channel[0].is_integer() else 0)

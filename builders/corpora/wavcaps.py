"""WavCaps: four hundred thousand sounds with captions that ChatGPT made from what people had written about them.

Mei and others gathered them from FreeSound, the BBC, SoundBible and AudioSet (2023; cvssp/WavCaps on the Hugging Face
hub, academic use). Each source has one JSON file, and its sounds are FLAC files that are named by the id:

    json_files/AudioSet_SL/as_final.json:  {"num_captions_per_audio": 1, "data": [
        {"id": "Yb0RFKhbpFJA.wav", "caption": "A man is speaking while music plays.", "audio": "wav_path",
         "duration": 10.0}, …]}
    AudioSet_SL_flac/Yb0RFKhbpFJA.flac

`audio` is a path in some copies and that very word in others, so the sounds are listed first (about 250 bytes each) and
found by path, or by id: best in a folder of the source's name, for ids of two sources may be equal. Many sounds of
FreeSound and the BBC are longer than the thirty seconds that VITA hears, the longest twelve hours; they are refused.
"""

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from tarsia.builders.audio import LONGEST
from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.fields import clean, fields, own_id, text
from tarsia.builders.reading.jsonfile import listed
from tarsia.builders.reading.speech import is_sound, speech
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import Draft

RECORD = "one sound and its caption"
FILES = ("**/*.json",)


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The elements of `data`, each with the path of its sound."""
    sounds: dict[str, list[str]] = {}
    for entry in source.list():
        if is_sound(entry.path):
            sounds.setdefault(PurePosixPath(entry.path).stem, []).append(entry.path)
    for found in listed(source, file, "data"):
        if isinstance(found, Fault):
            yield found
            continue
        record = found.value
        if isinstance(record, dict):
            record = {**record, "sound": _sound(record, PurePosixPath(file).parent, sounds)}
        yield Raw(own_id(record), record, found.begin, found.end)


def _sound(record: dict[str, Any], folder: PurePosixPath, sounds: Mapping[str, list[str]]) -> str:
    """Where the sound of a record lies; a name that leads nowhere if it is not there."""
    for written in (record.get("audio"), own_id(record)):
        if isinstance(written, str) and written:
            path = PurePosixPath(clean(written))
            known = sounds.get(path.stem, []) + sounds.get(path.name, [])
            if exact := [there for there in known if there in (str(path), str(folder / path))]:
                return exact[0]
            if known:
                return max(known, key=lambda there: folder.name in there)
    return f"{own_id(record) or ''}.flac"


def draft(record: Any, at: At) -> Draft:
    """A question about the sound, and the caption as its answer."""
    record = fields(record)
    duration = record.get("duration")
    if isinstance(duration, int | float) and duration > LONGEST + 1:
        raise Refused("audio-long", f"{duration:.0f} s, longer than {LONGEST:g} s")
    return speech(text(record, "caption"), text(record, "sound"), at)

"""The prompts of Asterisk, a telephone exchange in software: numbers, letters and short announcements.

Professional speakers recorded them in several languages (CC BY-SA 3.0; https://www.asterisksounds.org); Debian ships
them as `asterisk-core-sounds-…`. A text file tells what each says, and the recordings lie in a folder that is named by
language and voice:

    core-sounds-en.txt:  activated: Activated.
                         letters/dot: dot [.]
                         beep: [this is a simple beep tone]
    en_US_f_Allison/activated.wav

Lines that begin with a semicolon are comments. What stands in brackets of any kind is not spoken; a line that holds
nothing else describes a sound, and is refused. The text lists more than any one package ships.
"""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.fields import fields, text
from tarsia.builders.reading.jsonfile import KEPT
from tarsia.builders.reading.speech import is_sound, speech
from tarsia.builders.reading.textfile import lines
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import Draft

RECORD = "one prompt: a line of the text file"
FILES = ("**/*-sounds-*.txt",)

_UNSPOKEN = re.compile(r"\s*(?:\[[^\]]*\]|<[^>]*>|\([^)]*\))")


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The lines of the text file, each with the path of its recording if there is one."""
    folder = "" if "/" not in file else file.rpartition("/")[0]
    there: dict[str, str] = {}
    for entry in source.list(folder):
        if is_sound(entry.path):
            path = PurePosixPath(entry.path).relative_to(folder).with_suffix("")
            there.setdefault(str(path), entry.path)
            there.setdefault(str(PurePosixPath(*path.parts[1:])), entry.path)  # below the voice's folder
    for line in lines(source, file):
        if isinstance(line, Fault):
            yield line
        elif not line.text.lstrip().startswith(";"):
            name, colon, said = line.text.partition(":")
            if not colon:
                yield Fault("record-shape", "name: text was due", line.text.encode()[:KEPT], line.begin, line.end)
                continue
            own = name.strip()
            audio = there.get(own, f"{folder}/{own}.wav".lstrip("/"))
            record = {"id": own, "text": said.strip(), "audio": audio}
            yield Raw(own or None, record, line.begin, line.end)


def draft(record: Any, at: At) -> Draft:
    """The prompt and what it says."""
    record = fields(record)
    said = text(record, "text").strip()
    if said and not (spoken := _UNSPOKEN.sub("", said).strip()):
        raise Refused("transcript-garbage", f"a sound and no speech: {said[:200]}")
    audio = text(record, "audio")
    voice = audio.removesuffix(text(record, "id") + PurePosixPath(audio).suffix).strip("/").rpartition("/")[2]
    return speech(spoken if said else "", audio, at, voice)

"""wenet's training data: tars of `.wav` and `.txt` pairs, or lists of files with their transcripts.

The toolkit wenet (Yao and others, 2021; https://github.com/wenet-e2e/wenet) packs corpora of many small files into
tars of about a thousand utterances, whose members are named by the utterance's key, folders and all:

    shards_000000000.tar:  test/resources/dataset/BAC009S0724W0121.txt
                           test/resources/dataset/BAC009S0724W0121.wav

Small corpora stay files, and `data.list` names them; that is read when the catalog asks for it. (`data.shards.list`
names the tars, which are found without it.)

    {"key": "BAC009S0724W0121", "wav": "wav/BAC009S0724W0121.wav", "txt": "广州市房地产中介协会分析"}

The key ends at the last dot of a member's name, since keys hold dots. A line of a list with `start` and `end` is cut
from its recording.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.fields import fields, text
from tarsia.builders.reading.filelist import draft_listed, read_list
from tarsia.builders.reading.parts import SOUND, json_parts
from tarsia.builders.reading.speech import SUFFIXES, speech
from tarsia.builders.reading.tarfile_ import bundles
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import Draft

RECORD = "one utterance: a sound and its text in a tar, or a line of a list"
FILES = ("**/*.tar", "**/*.tar.gz")
PART = SOUND

split = json_parts


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The utterances of a tar, by their first members, or the lines of a list."""
    if not file.endswith((".tar", ".tar.gz", ".tgz")):
        yield from read_list(source, file)
        return
    for found in bundles(source, file, _split, {"txt"}):
        if isinstance(found, Fault):
            yield found
            continue
        try:
            said = {"txt": found.texts["txt"].decode()} if "txt" in found.texts else {}
        except UnicodeDecodeError as error:
            yield Fault("text-encoding", f"'{found.key}.txt': {error}", found.texts["txt"], found.begin, found.end)
            continue
        record = {"key": found.key, **said, "members": {name: found.members[name].size for name in found.media}}
        yield Raw(found.key, record, found.begin, found.end, found.media)


def _split(name: str) -> tuple[str, str] | None:
    """Key and ending of a member, which parts at its last dot."""
    path = PurePosixPath(name)
    return (name[: -len(path.suffix)], path.suffix[1:].lower()) if path.suffix else None


def draft(record: Any, at: At) -> Draft:
    """The utterance and its transcript."""
    record = fields(record)
    there = record.get("members")
    if not isinstance(there, dict):
        return draft_listed(record, at)
    sound = next((name for suffix in SUFFIXES if (name := suffix[1:]) in there), None)
    if sound is None:
        raise Refused("media-missing", f"no sound among the members: {', '.join(map(str, there)) or 'none'}")
    if "txt" not in record:
        raise Refused("text-missing", "no .txt among the members")
    return speech(text(record, "txt"), f"@{sound}", at)

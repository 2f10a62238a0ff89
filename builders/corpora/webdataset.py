"""Any WebDataset: tars whose members belong together by name, as img2dataset and video2dataset write them.

The convention is Thomas Breuel's (https://github.com/webdataset/webdataset): what stands before the first dot of a
member's name is the sample's key, what follows says what the member is.

    00000.tar:  0000003.jpg  0000003.json  0000003.txt  0000002.jpg …       img2dataset
    00000.tar:  0000008_00001.mp4  0000008_00001.txt  0000008_00001.json    video2dataset

An image or a clip with a `.txt` (or a `caption` in its JSON) is a caption, a sound with a `.txt` is a transcript, and
JSON with a conversation is that conversation about all media of the sample. img2dataset keeps failed downloads only in
its Parquet files: they have no members and are no records. video2dataset writes text and JSON for them, too; those are
refused. Samples are put together over the whole of a tar. Media of plain tars stay where they are until the shard is
written.
"""

import re
from collections.abc import Iterator
from typing import Any

import orjson

from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.fields import fields, first_of
from tarsia.builders.reading.jsonfile import KEPT
from tarsia.builders.reading.language import language_of
from tarsia.builders.reading.rows import MEDIUM_OF, WORDS
from tarsia.builders.reading.speech import speech
from tarsia.builders.reading.tarfile_ import Bundle, bundles
from tarsia.builders.reading.templates import choose
from tarsia.builders.reading.turns import TURNS, about_media
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import AUDIO, IMAGE, VIDEO, Draft

RECORD = "one sample: all members of a tar with the same key"
FILES = ("**/*.tar", "**/*.tar.gz", "**/*.tgz")

_TEXTS = frozenset({"txt", "caption", "text", "json", "cls"})
_NUMBER = re.compile("([0-9]+)")


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The samples of the tar, by their first members."""
    for found in bundles(source, file, _split, _TEXTS):
        yield found if isinstance(found, Fault) else _raw(found)


def _split(name: str) -> tuple[str, str] | None:
    """Key and ending of a member, which part at the first dot of its base name."""
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return (folder + slash + stem, ending.lower()) if stem and ending else None


def _raw(found: Bundle) -> Raw | Fault:
    record: dict[str, Any] = {"key": found.key}
    for name, data in sorted(found.texts.items()):
        try:
            record[name] = orjson.loads(data) if name.endswith("json") else data.decode("utf-8-sig")
        except orjson.JSONDecodeError as error:
            return Fault("json-broken", f"'{found.key}.{name}': {error}", data[:KEPT], found.begin, found.end)
        except UnicodeDecodeError as error:
            return Fault("text-encoding", f"'{found.key}.{name}': {error}", data[:KEPT], found.begin, found.end)
    record["members"] = {name: found.members[name].size for name in found.media}
    return Raw(found.key, record, found.begin, found.end, found.media)


def draft(record: Any, at: At) -> Draft:
    """The sample's conversation, or a question about its media with its text as the answer."""
    record = fields(record)
    about = record["json"] if isinstance(record.get("json"), dict) else {}
    media = _media(record.get("members"))
    if (said := first_of(about, TURNS)) is not None:
        own = VIDEO if media["video"] else AUDIO if media["audio"] and not media["image"] else IMAGE
        return about_media(said, own, images=media["image"], videos=media["video"], audios=media["audio"])
    if not any(media.values()):
        if about.get("status") not in (None, "success"):
            raise Refused("download-failed", f"{about['status']}: {about.get('error_message')}"[:500])
        raise Refused("media-missing", "neither image, video nor sound among the members")
    words = first_of({**about, **record}, ("txt", *WORDS))
    if not isinstance(words, str):
        raise Refused("text-missing", "neither a text among the members nor a caption in the JSON")
    if not media["video"] and not media["image"]:
        return speech(words, media["audio"][0], at, about.get("speaker"))
    sort, asked = ("video", "describe-video") if media["video"] else ("image", "describe-image")
    question = choose(asked, language_of(at.corpus.language, words), at)
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": words.strip()}]
    chosen = {f"{sort}s": media[sort]}
    return about_media(turns, VIDEO if media["video"] else IMAGE, **chosen)


def _media(members: Any) -> dict[str, tuple[str, ...]]:
    """The names of a sample's media by their sort, those with numbers in the order of the numbers."""
    names = [name for name in members if isinstance(name, str)] if isinstance(members, dict) else []
    found: dict[str, tuple[str, ...]] = {"image": (), "video": (), "audio": ()}
    for name in sorted(names, key=lambda name: [(not part.isdigit(), part.zfill(20)) for part in _NUMBER.split(name)]):
        if medium := MEDIUM_OF.get(name.rpartition(".")[2]):
            found[medium] += (f"@{name}",)
    return found

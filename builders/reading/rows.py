"""Rows of tables that hold their media: Parquet, Arrow, and whatever the library `datasets` gives.

Columns have no fixed names or forms. Bytes are media by what they begin with, and by the name of their column where
that says nothing; they are taken out of the row, which becomes JSON with a note where each stood:

    {"image": {"bytes": b"…", "path": "1.jpg"}, "text": "A bus."}
    {"image": {"medium": "image", "at": "@image", "bytes": 40576, "path": "1.jpg"}, "text": "A bus."}

The words are what is found first: a conversation, an instruction with its output, a question with its answer, a
caption or transcript. Where a row has several captions, one is drawn by its key.
"""

import base64
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from tarsia.builders.corpora import At, Raw
from tarsia.builders.reading.fields import clean, fields, first_of, own_id
from tarsia.builders.reading.language import language_of
from tarsia.builders.reading.speech import speech
from tarsia.builders.reading.templates import choose
from tarsia.builders.reading.turns import TURNS, about_media
from tarsia.schemas.errors import Refused
from tarsia.schemas.identity import pick
from tarsia.schemas.sample import AUDIO, IMAGE, VIDEO, Draft

Media = dict[str, bytes]

MEDIUM_OF = {
    **dict.fromkeys(("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"), "image"),
    **dict.fromkeys(("mp4", "webm", "avi", "mkv", "mov", "m4v"), "video"),
    **dict.fromkeys(("flac", "wav", "mp3", "ogg", "opus", "m4a"), "audio"),
}  # by the ending of a name

WORDS = ("caption", "text", "sentence", "transcript", "transcription", "txt", "captions", "description")
_QUESTIONS, _ANSWERS = ("question", "query", "problem", "prompt"), ("answer", "answers", "response", "label")
_JUICER = re.compile(r"<__dj__(?:image|video|audio)>|<\|__dj__eoc\|>")  # Data-Juicer's own marks in captions
_STARTS = (
    (re.compile(rb"\xff\xd8\xff|\x89PNG|GIF8|BM....\0\0\0\0|II\*\0|MM\0\*|RIFF....WEBP", re.DOTALL), "image"),
    (re.compile(rb"RIFF....AVI |....ftyp(?!M4A)|\x1aE\xdf\xa3", re.DOTALL), "video"),
    (re.compile(rb"RIFF....WAVE|fLaC|OggS|ID3|\xff[\xe2-\xfb]|....ftypM4A", re.DOTALL), "audio"),
)
_NAMES = (
    ("image", re.compile("image|img|picture|photo|jpe?g|png")),
    ("video", re.compile("video|mp4|clip")),
    ("audio", re.compile("audio|speech|wav|flac|sound|mp3")),
)


def medium_of(data: bytes, name: str) -> str | None:
    """What some bytes are: image, video or audio; None for anything else."""
    found = next((medium for start, medium in _STARTS if start.match(data)), None)
    return found or next((medium for medium, pattern in _NAMES if pattern.search(name.lower())), None)


def raw_of(cells: dict[str, Any], row: int) -> Raw:
    """A row as a raw record, whose place is its number."""
    media: Media = {}
    record = {name: take_media(cell, name, media) for name, cell in cells.items()}
    return Raw(own_id(record), record, row, row + 1, media)


def take_media(value: Any, name: str, media: Media) -> Any:
    """A cell as JSON. Media in it go to `media`, under a name that says where they stood."""
    if isinstance(value, dict):
        if isinstance(data := value.get("bytes"), bytes) and set(value) <= {"bytes", "path", "sampling_rate"}:
            path = {"path": value["path"]} if isinstance(value.get("path"), str) else {}
            return {**_taken(data, name, media, value.get("path") or name), **path}
        if set(value) == {"bytes", "path"} and isinstance(path := value["path"], str):
            return _elsewhere(path, name)
        return {key: take_media(inner, f"{name}.{key}", media) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [take_media(inner, f"{name}.{number}", media) for number, inner in enumerate(value)]
    if isinstance(value, bytes):
        return _text_or_medium(value, name, media)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | bool | int) and _is_json(value) else str(value)


def _is_json(value: str | int) -> bool:
    return isinstance(value, str) or -(1 << 63) <= value < 1 << 64


def _text_or_medium(data: bytes, name: str, media: Media) -> Any:
    """Bytes in a column of their own: media, or text whose column does not say that it is text."""
    if medium_of(data, "") is None:
        try:
            return data.decode()
        except UnicodeDecodeError:
            if medium_of(data, name) is None:
                return base64.b64encode(data).decode()
    return _taken(data, name, media, name)


def _taken(data: bytes, name: str, media: Media, hint: str) -> dict[str, Any]:
    media[name] = data
    return {"medium": medium_of(data, hint) or medium_of(data, name), "at": f"@{name}", "bytes": len(data)}


def _elsewhere(path: str, name: str) -> dict[str, Any]:
    medium = MEDIUM_OF.get(path.rpartition(".")[2].lower()) or medium_of(b"", name)
    return {"medium": medium, "at": path}


def draft_row(record: Any, at: At) -> Draft:
    """A row's words, with its media in the order of the columns."""
    record = fields(record)
    found = tuple(_media_in(record))
    images, videos, audios = (_of(medium, found, record) for medium in ("image", "video", "audio"))
    said = first_of(record, TURNS)
    if said is None:
        said = _exchange(record)
    if said is None and audios and not images and not videos:
        return speech(_words(record, at), audios[0], at, first_of(record, ("speaker", "speaker_id", "client_id")))
    own = VIDEO if videos else AUDIO if audios and not images else IMAGE
    if said is None:
        if not images and not videos:
            raise Refused("record-shape", f"neither media nor a conversation in it: {', '.join(record)[:200]}")
        words = _words(record, at)
        asked = "describe-video" if videos else "describe-image"
        question = choose(asked, language_of(at.corpus.language, words), at)
        said = [{"from": "human", "value": question}, {"from": "gpt", "value": words}]
    return about_media(_as_list(said), own, images=images, videos=videos, audios=audios)


def _of(medium: str, found: Iterable[tuple[str, str]], record: dict[str, Any]) -> tuple[str, ...]:
    """The media of a sort: those that were in the row, or else the paths that it names."""
    taken = tuple(where for sort, where in found if sort == medium)
    given = first_of(record, (medium, f"{medium}s"))
    listed = given if isinstance(given, list) else [given]
    return taken or (tuple(map(clean, listed)) if all(path and isinstance(path, str) for path in listed) else ())


def _media_in(value: Any) -> Iterator[tuple[str, str]]:
    """The notes that `take_media` left, in the order of the row."""
    if isinstance(value, list):
        for inner in value:
            yield from _media_in(inner)
    elif isinstance(value, dict) and isinstance(value.get("at"), str) and "medium" in value:
        medium = value["medium"]
        if not isinstance(medium, str) or medium not in MEDIUM_OF.values():
            raise Refused("media-unknown", f"{value['at'][:80]}: neither image, video nor sound")
        yield medium, value["at"]
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _media_in(inner)


def _exchange(record: dict[str, Any]) -> Any:
    """A conversation of one question, made of the columns that hold it and its answer."""
    question = first_of(record, _QUESTIONS)
    answer = first_of(record, _ANSWERS)
    if isinstance(record.get("instruction"), str) and isinstance(record.get("output"), str):
        context = record.get("input")
        question = record["instruction"] + (f"\n{context}" if isinstance(context, str) and context.strip() else "")
        answer = record["output"]
    if isinstance(answer, list) and answer and all(isinstance(one, str) for one in answer):
        answer = max(answer, key=answer.count)  # of people's answers the most frequent, as VQA is judged by
    if not isinstance(question, str) or not isinstance(answer, str):
        return None
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def _words(record: dict[str, Any], at: At) -> str:
    words = first_of(record, WORDS)
    if isinstance(words, list) and words:
        words = pick(words, at.key, "caption")
    if not isinstance(words, str):
        raise Refused("text-missing", f"none of the columns {', '.join(WORDS)} is text")
    return _JUICER.sub("", words).strip()


def _as_list(said: Any) -> Any:
    """Turns that a table keeps as JSON, or column by column."""
    if isinstance(said, str):
        try:
            return orjson.loads(said)
        except orjson.JSONDecodeError as error:
            raise Refused("json-broken", f"conversation: {error}") from None
    if isinstance(said, dict) and said and all(isinstance(column, list) for column in said.values()):
        return [dict(zip(said, turn, strict=False)) for turn in zip(*said.values(), strict=False)]
    return said

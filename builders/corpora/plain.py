"""Plain text: web pages, articles, books, as language models are first trained on them.

C4 (Raffel and others, 2020), SkyPile, Wikipedia dumps and most others are JSON Lines with a `text` (or `content`);
older ones are text files, with a line for each article or paragraph, or lines broken to fit a page:

    {"text": "Don’t think you need all the bells and whistles? No problem. …", "url": "…", "timestamp": "…"}

VITA trains on conversations only, and on nothing but what the model says in them. So a text becomes the talk that is
nearest to it: asked to go on with its first sentences, the model goes on. The request is drawn from the templates; the
opening is as many sentences as fit into a fifth of the text, at least one. Plain text makes a model fluent, not
obedient, and no stage of VITA's asks for it; give it a corpus of its own, so that a recipe can leave it out.

A document is cut into pieces of at most 4,000 characters, at the end of a paragraph or else of a sentence, which keeps
any piece within a context of 6,000 tokens in any language; each piece is a record. In text files a long line is a
document; short ones belong together up to an empty line. A piece without a second sentence is refused as `text-short`.
"""

import re
from collections.abc import Iterator
from typing import Any

from tarsia.builders.chat import neutralise
from tarsia.builders.corpora import At, Fault, Part, Raw
from tarsia.builders.reading.fields import fields, own_id, text
from tarsia.builders.reading.jsonfile import records
from tarsia.builders.reading.language import language_of
from tarsia.builders.reading.parts import json_parts, paragraph_parts
from tarsia.builders.reading.templates import choose
from tarsia.builders.reading.textfile import Line, paragraphs
from tarsia.builders.reading.turns import exchange
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import Draft

RECORD = "a piece of a document, of at most 4,000 characters"
FILES = ("**/*.jsonl", "**/*.json", "**/*.txt")

PIECE = 4000  # characters; a hanzi costs one token, seldom two, and an English word of five letters little more

_TEXTS = ("text", "content")
_STOP = r"[。！？…]+[”’」』）]*|[.!?]+[\"”’)]*(?=\s)"
_ENDS = (  # where text may be cut, best first
    re.compile(r"\n\s*\n"),
    re.compile(r"\n"),
    re.compile(_STOP),
    re.compile(r"\s"),
)
_SENTENCE = re.compile(rf"(?:{_STOP}|\n)\s*")


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The pieces of every document of a file."""
    if file.endswith(".txt"):
        for part in paragraphs(source, file):
            if isinstance(part, Line):
                yield from (Raw(None, {"text": piece}, part.begin, part.end) for piece in pieces(part.text))
            else:
                yield part
        return
    for found in records(source, file):
        record = None if isinstance(found, Fault) else found.value
        key = next((key for key in _TEXTS if isinstance(record, dict) and isinstance(record.get(key), str)), None)
        if isinstance(found, Fault):
            yield found
        elif key is None:
            yield Raw(own_id(record), record, found.begin, found.end)
        else:
            for piece in pieces(found.value[key]):
                yield Raw(own_id(record), {**found.value, key: piece}, found.begin, found.end)


def split(source: Store, file: str, size: int) -> Iterator[Part]:
    """Where a file may be cut: between documents or paragraphs."""
    return (paragraph_parts if file.endswith(".txt") else json_parts)(source, file, size)


def pieces(document: str) -> Iterator[str]:
    """A document in pieces, none longer than `PIECE`; together they are the document, but for space at their ends."""
    rest = document.strip()
    while len(rest) > PIECE:
        window = rest[:PIECE]
        ends = ([match.end() for match in end.finditer(window, PIECE // 2)] for end in _ENDS)
        cut = next((found[-1] for found in ends if found), PIECE)
        yield rest[:cut].strip()
        rest = rest[cut:].strip()
    yield rest


def draft(record: Any, at: At) -> Draft:
    """A request to go on with the opening of the piece, and the rest of it."""
    said = text(fields(record), *_TEXTS).strip()
    ends = [match.end() for match in _SENTENCE.finditer(said) if match.end() < len(said)]
    if not ends:
        raise Refused("text-short", f"{len(said)} characters without a second sentence: nothing to go on with")
    cut = max((end for end in ends if end <= len(said) / 5), default=ends[0])
    request = choose("continue-text", language_of(at.corpus.language, said), at)
    opening, rest = (neutralise(part.strip(), keep=False) for part in (said[:cut], said[cut:]))
    return Draft(turns=exchange(f"{request}\n{opening}", rest))

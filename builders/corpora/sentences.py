"""Texts to be spoken: what voices make the pairs of text and speech of, that VITA-1.5's codec and decoders learn from.

JSON Lines with a `text` (or `content`, `sentence`), a JSON list of the same, or text files:

    {"id": "7", "text": "The ferry left late, and nobody minded. It rained."}

A text is cut as VITA-1.5 cuts it at run time, at the next stop or comma once five characters are there, and each piece
is a record: `7#0`, `7#1` … where the text has an id. A sample has no sound: its answer is `<audio>`, and `tarsia speak`
has the pool say it, for as many hours as a stage asks for. What cannot be said is refused as `unspeakable`.
"""

from collections.abc import Iterator
from typing import Any

from tarsia.builders.chat import neutralise
from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.fields import fields, own_id, text
from tarsia.builders.reading.jsonfile import records
from tarsia.builders.reading.sentences import clauses
from tarsia.builders.reading.textfile import Line, paragraphs
from tarsia.builders.reading.turns import exchange
from tarsia.builders.storage import Store
from tarsia.builders.tokens import NOISE, SPOKEN, WRITTEN
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import AUDIO, Draft, Kind

RECORD = "a piece of a text, cut as VITA-1.5 cuts what it speaks"
FILES = ("**/*.jsonl", "**/*.json", "**/*.txt")

_TEXTS = ("text", "content", "sentence")
_STATES = str.maketrans(dict.fromkeys((SPOKEN, NOISE, WRITTEN)))


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The pieces of every text of a file; those of one text share its bytes."""
    if file.endswith(".txt"):
        for part in paragraphs(source, file):
            if isinstance(part, Line):
                yield from (Raw(None, {"text": piece}, part.begin, part.end) for piece in clauses(part.text))
            else:
                yield part
        return
    for found in records(source, file):
        if isinstance(found, Fault):
            yield found
            continue
        record = {"text": found.value} if isinstance(found.value, str) else found.value
        key = next((key for key in _TEXTS if isinstance(record, dict) and isinstance(record.get(key), str)), None)
        own = own_id(record)
        for number, piece in enumerate((clauses(record[key]) or [""]) if key else ()):
            yield Raw(own and f"{own}#{number}", {"text": piece}, found.begin, found.end)
        if key is None:
            yield Raw(own, record, found.begin, found.end)


def draft(record: Any, at: At) -> Draft:
    """The piece, and the sound that it is answered by, once a voice has made it."""
    if at.corpus.kind is not Kind.TTS:
        raise Refused("unsaid-form", f"sentences are of kind tts, not {at.corpus.kind.value}")
    said = " ".join(text(fields(record), *_TEXTS).translate(_STATES).split())
    if not said:
        raise Refused("text-missing", "nothing to say")
    return Draft(turns=exchange(neutralise(said, keep=False), AUDIO))

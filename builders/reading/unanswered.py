"""Evaluation sets as their readers take them: what is asked without an answer is read as if it had one.

Test sets are published without answers, or with empty ones, and readers refuse such records, since they would teach
silence. An excluded set teaches nothing: its media and its questions are compared, and no answer is kept. So a record
that its reader refuses is given some answer where formats have theirs, and read again.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from tarsia.builders.corpora import At, Fault, Raw, Reader
from tarsia.builders.reading.turns import TURNS
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import Draft

_SOME = "-"
_ANSWERS = (  # some text, the letter of an option, the number of one; what instructions and captions are answered by
    {"answer": _SOME},
    {"answer": "A"},
    {"answer": 0},
    {"output": _SOME},
    {"label": _SOME},
    {"caption": _SOME},
)


class Unanswered:
    """A reader that takes records without answers too."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.RECORD, self.FILES = reader.RECORD, reader.FILES

    def read(self, source: Store, file: str) -> Iterator[Raw | Fault]:
        """The raw records of one file."""
        return self._reader.read(source, file)

    def draft(self, record: Any, at: At) -> Draft:
        """One raw record, understood; `Refused` for the reason that it has as it stands."""
        try:
            return self._reader.draft(record, at)
        except Refused:
            for answered in _answered(record) if isinstance(record, dict) else ():
                with suppress(Refused):
                    return self._reader.draft(answered, at)
            raise


def _answered(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for key in TURNS:
        turns = record.get(key)
        if isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns):
            asked = [turn for turn in turns if turn.get("value", turn.get("content"))]
            yield {**record, key: [*asked, {"from": "gpt", "value": _SOME}]}
    for answer in _ANSWERS:
        yield {**record, **answer}

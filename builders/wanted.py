"""The list of a takedown: what people write down when something must go.

    text    one a line: corpus<TAB>id, or what stands alone
    .csv    the same with commas, with or without a head of `corpus,id` or `id`
    .jsonl  {"corpus": …, "id": …}, {"key": …} or {"digest": …}

What stands alone is a key (32 hex digits), the digest of a medium or of a content (32 hex digits, or the 64 of a whole
BLAKE3), or an id of the corpus that the whole list is about.
"""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from tarsia.schemas.errors import UserError

_HEX = re.compile(r"[0-9a-f]{32}(?:[0-9a-f]{32})?")
_NAMES = ("corpus", "id", "key", "digest")


class Wanted(NamedTuple):
    """One line: an id of a corpus, or the hex digits of a key or a digest (then `id` is what was written)."""

    corpus: str | None
    id: str
    digits: str = ""

    def __str__(self) -> str:
        return f"{self.corpus} {self.id}" if self.corpus else self.id


def read_wanted(path: str | Path, corpus: str | None = None) -> list[Wanted]:
    """The lines of a list; `corpus` is whose ids stand alone. `UserError` where a line cannot be meant."""
    path = Path(path)
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; give the list of what is to be taken down") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8") from error
    rows = _jsonl if path.suffix in (".jsonl", ".ndjson") else _csv if path.suffix == ".csv" else _lines
    found = [_wanted(fields, corpus, f"{path}:{number}") for number, fields in rows(text, str(path))]
    if not found:
        raise UserError(f"{path}: the list is empty")
    return list(dict.fromkeys(found))


def _lines(text: str, _: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield number, _of(line.split("\t"))


def _csv(text: str, _: str) -> Iterator[tuple[int, dict[str, Any]]]:
    head: list[str] = []
    for number, row in enumerate(csv.reader(io.StringIO(text)), 1):
        if number == 1 and row and set(row) <= set(_NAMES):
            head = row
        elif row:
            yield number, dict(zip(head, row, strict=False)) if head else _of(row)


def _of(row: list[str]) -> dict[str, Any]:
    return {"corpus": row[0].strip(), "id": row[1]} if len(row) == 2 else {"id": ",".join(row)}


def _jsonl(text: str, path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            fields = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise UserError(f"{path}:{number}: no JSON: {error}") from error
        if not isinstance(fields, dict) or set(fields) - set(_NAMES):
            raise UserError(f"{path}:{number}: an object with corpus and id, or key, or digest")
        yield number, fields


def _wanted(fields: dict[str, Any], corpus: str | None, where: str) -> Wanted:
    for name in ("key", "digest"):
        if given := fields.get(name):
            if not _HEX.fullmatch(f"{given}".lower()):
                raise UserError(f"{where}: {name} '{given}' is not 32 or 64 hex digits")
            return Wanted(None, f"{given}", f"{given}".lower()[:32])
    own, whose = fields.get("id"), fields.get("corpus") or corpus
    if own is None or own == "":
        raise UserError(f"{where}: no id")
    alone = not fields.get("corpus") and bool(_HEX.fullmatch(f"{own}".strip().lower()))
    if not whose and not alone:
        raise UserError(f"{where}: '{own}' is no key and no digest; of which corpus is it? Write corpus<TAB>id, "
                        "or say --corpus")  # fmt: skip
    return Wanted(whose, f"{own}" if whose else f"{own}".strip(), f"{own}".strip().lower()[:32] if alone else "")

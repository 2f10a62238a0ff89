"""Readers of raw corpora: one file, one format. The file's name is its registration.

A reader is a module with two functions and a line of truth about itself:

- `RECORD`: what one record is, in words;
- `FILES`: where records lie when the catalog does not say, as globs below the root;
- `read(source, file)`: the raw records of one file, in file order, each with its byte span; what cannot be parsed is
  yielded as a `Fault`, so that it is counted and quarantined like any other record;
- `draft(record, at)`: one raw record understood as a conversation with media paths. Pure: no file is opened, and
  whatever is chosen (a template, say) is chosen by the draw of `at.key`. `Refused` makes a quarantine row.

Large files are read by several tasks where a reader says how:

- `split(source, file, size)`: where a file may be cut into parts of about `size` bytes; `reading/parts.py` has it for
  lines, tables and arrays, so that a line is all that most readers need;
- `PART`: how many bytes of a file are worth a task of their own, if not 64 MB;
- `read_part(source, file, part)`: only for formats in which a part of the bytes is no file of the same kind (Parquet).

Reading comes in two passes so that a corpus of any size can be put in draw order without holding its media: `read`
finds identities, `draft` runs later, where the shard is written. A dotted name in the catalog imports a third party's
module of the same form.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, NamedTuple, Protocol, cast

from tarsia.builders.storage import Store
from tarsia.schemas.corpus import Corpus
from tarsia.schemas.errors import UnknownName
from tarsia.schemas.sample import Draft


class Span(NamedTuple):
    """A run of bytes of a file of the corpus, such as a member of a tar."""

    path: str
    offset: int
    length: int


class Raw(NamedTuple):
    """One raw record: its own id if it has one, its content as JSON values, and the bytes it came from.

    `media` is for corpora that keep media inside their files: bytes, or where they lie. A draft names them with an @
    in front of their name here (`images=("@jpg",)`); they are no part of the record's digest, so that a tar that was
    packed anew holds the same records.
    """

    id: str | None
    record: Any
    begin: int
    end: int
    media: Mapping[str, bytes | Span] = {}


class Part(NamedTuple):
    """A part of a file that one task reads: the bytes from `begin` to `end`, or rows where records have no bytes.

    `lead` and `tail` are what must stand in front and behind to make a file of it, one character a byte.
    """

    begin: int
    end: int
    lead: str = ""
    tail: str = ""

    @property
    def size(self) -> int:
        """Its bytes, with those in front and behind."""
        return len(self.lead) + self.end - self.begin + len(self.tail)


class Fault(NamedTuple):
    """Bytes of a corpus file that are no record: `code` and `message` say why."""

    code: str
    message: str
    raw: bytes
    begin: int
    end: int


class At:
    """Where a record stands: its corpus, its file below the root, its key.

    `drawn` tells whether anybody asked for the key: then something of the draft was left to chance.
    """

    def __init__(self, corpus: Corpus, file: str, key: str) -> None:
        self.corpus = corpus
        self.file = file
        self.drawn = False
        self._key = key

    @property
    def key(self) -> str:
        """The key, for `pick` and `redraw`."""
        self.drawn = True
        return self._key


class Reader(Protocol):
    """What a module of this folder offers."""

    RECORD: str
    FILES: tuple[str, ...]

    def read(self, source: Store, file: str) -> Iterator[Raw | Fault]:
        """The raw records of one file."""

    def draft(self, record: Any, at: At) -> Draft:
        """One raw record, understood."""


@cache
def formats() -> tuple[str, ...]:
    """The formats that come with Tarsia."""
    return tuple(sorted(module.name for module in iter_modules(__path__)))


@cache
def find(name: str, where: str = "") -> Reader:
    """The reader of a format; `package.module` imports someone else's."""
    if "." not in name and name not in formats():
        raise UnknownName("format", name, formats(), where)
    try:
        module = import_module(name if "." in name else f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        raise UnknownName("format", name, formats(), where) from error
    missing = [part for part in ("RECORD", "FILES", "read", "draft") if not hasattr(module, part)]
    if missing:
        raise UnknownName(f"reader with {', '.join(missing)} in", name, formats(), where)
    return cast(Reader, module)

"""Text files, one record a line: every line with its byte span, whatever ends it."""

from collections.abc import Iterator
from typing import NamedTuple

from tarsia.builders.corpora import Fault
from tarsia.builders.reading.jsonfile import KEPT, LARGEST
from tarsia.builders.storage import Store

_BOM = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """The text of one line, without its end, and where its bytes lie in the file."""

    text: str
    begin: int
    end: int


def lines(source: Store, file: str) -> Iterator[Line | Fault]:
    """The lines of a UTF-8 file that hold more than space; a line in another encoding is a fault."""
    with source.open(file) as stream:
        end = 0
        while line := stream.readline(LARGEST):
            begin, end = end, end + len(line)
            raw = line.rstrip(b"\r\n")
            if begin == 0 and raw.startswith(_BOM):
                raw, begin = raw[len(_BOM) :], len(_BOM)
            try:
                text = raw.decode()
            except UnicodeDecodeError as error:
                message = f"byte {begin + error.start} is not UTF-8"
                yield Fault("text-encoding", message, raw[:KEPT], begin, begin + len(raw))
                continue
            if text.strip():
                yield Line(text, begin, begin + len(raw))

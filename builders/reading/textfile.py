"""Text files, one record a line or a paragraph: each with its byte span, whatever ends a line."""

from collections.abc import Iterator
from typing import NamedTuple

from tarsia.builders.corpora import Fault
from tarsia.builders.reading.encoding import TRIED, Text
from tarsia.builders.reading.jsonfile import KEPT, LARGEST
from tarsia.builders.storage import Store

WRAPPED = 200  # characters; a longer line was not broken to fit a page, and is a paragraph by itself

_BOM = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """The text of one line, without its end, and where its bytes lie in the file."""

    text: str
    begin: int
    end: int


def lines(source: Store, file: str) -> Iterator[Line | Fault]:
    """The lines of a file that hold more than space; a line with bytes that are none of its encoding's is a fault."""
    for line in _lines(source, file):
        if isinstance(line, Fault) or line.text.strip():
            yield line


def paragraphs(source: Store, file: str) -> Iterator[Line | Fault]:
    """The paragraphs of a file: a long line by itself, or short ones up to an empty line."""
    held: list[Line] = []
    for line in _lines(source, file):
        short = isinstance(line, Line) and len(line.text) <= WRAPPED and line.text.strip()
        if held and (not short or line.end - held[0].begin > KEPT):
            yield _joined(held)
            held = []
        if isinstance(line, Line) and short:
            held.append(line)
        elif isinstance(line, Fault) or line.text.strip():
            yield line
    if held:
        yield _joined(held)


def _joined(held: list[Line]) -> Line:
    return Line("\n".join(line.text for line in held), held[0].begin, held[-1].end)


def _lines(source: Store, file: str) -> Iterator[Line | Fault]:
    with Text(source, file) as stream:
        place = stream.place
        end = 0
        while line := stream.readline(LARGEST):
            begin, end = end, end + len(line)
            raw = line.rstrip(b"\r\n")
            if begin == 0 and raw.startswith(_BOM):
                raw, begin = raw[len(_BOM) :], len(_BOM)
            first, last = place(begin), place(begin + len(raw))
            try:
                text = raw.decode()
            except UnicodeDecodeError as error:
                message = f"byte {place(begin + error.start) - first} of it is not {stream.encoding}; {TRIED}"
                yield Fault("text-encoding", message, stream.on_disk(first, min(last, first + KEPT)), first, last)
                continue
            yield Line(text, first, last)

"""Large files in parts, so that several tasks read one: where a file may be cut, and how a part is read alone.

A part is a run of bytes from the beginning of one record to the beginning of another. With a few bytes in front and
behind (the first row of a table, the brackets of an array) it is a file of the same format, so readers need not know
that they see a part: their `source` shows the file as if there were nothing else in it.

- **Lines** are cut at the first end of a line behind each `size` bytes; nothing before is read. A line of JSON Lines
  that begins a part is an object, since a bracket there would turn the part into an array.
- **Elements** of an array are cut where two sound objects follow each other, which takes one pass over the file: no
  place in the middle of JSON tells whether it stands inside a string.

What is found in the parts is what is found in the whole, record by record, faults included. Not cut are tables with
quotation marks (a cell may go over lines, and only the beginning of the file tells whether one is open), UTF-16,
compressed files, and tars: their samples are put together over the whole of one, and their media are not read here.
"""

import io
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

import orjson

from tarsia.builders.corpora import Fault, Part
from tarsia.builders.reading.encoding import is_utf8
from tarsia.builders.reading.jsonfile import LARGEST, Record, listed, records
from tarsia.builders.storage import Entry, Store

SOUND = 4 << 20  # bytes of a list of segments that one task decodes: some ten hours of speech, a few minutes of work

_BOM = b"\xef\xbb\xbf"
_WIDE = (b"\xff\xfe", b"\xfe\xff")  # how UTF-16 begins
_HEAD = 1 << 20  # bytes from which a file is judged
_FAR = 4 * LARGEST  # bytes behind a broken element in which its end may have been looked for: no cut is made there
_BUFFER = 1 << 18  # bytes read at a time


def json_parts(source: Store, file: str, size: int) -> Iterator[Part]:
    """Parts of an array, or of JSON Lines; none of anything else."""
    with source.open(file) as stream:
        head = stream.read(_HEAD)
        stream.seek(0)
        first = stream.readline(LARGEST).removeprefix(_BOM)
    encoding = "utf-8" if is_utf8(head) else "gb18030"
    if head.startswith(_WIDE):
        return
    if head.removeprefix(_BOM).lstrip()[:1] == b"[":
        yield from _elements(source, file, size, records(source, file), "[", "]")
    elif _is_object(first, encoding):
        yield from _lines(source, file, size, lambda _, line: _is_object(line, encoding))


def list_parts(source: Store, file: str, size: int, name: str) -> Iterator[Part]:
    """Parts of the list that stands under a name in a file's one object, or of what `json_parts` cuts."""
    with source.open(file) as stream:
        head = stream.read(_HEAD)
    if head.removeprefix(_BOM).lstrip()[:1] != b"{":
        yield from json_parts(source, file, size)
    elif not head.startswith(_WIDE):
        yield from _elements(source, file, size, listed(source, file, name), f'{{"{name}":[', "]}")


def line_parts(source: Store, file: str, size: int) -> Iterator[Part]:
    """Parts of a text that is read line by line."""
    yield from _lines(source, file, size, lambda _, line: _is_unmarked(line))


def paragraph_parts(source: Store, file: str, size: int) -> Iterator[Part]:
    """Parts of a text that is read by paragraphs: cut behind empty lines."""
    yield from _lines(source, file, size, lambda before, line: not before.strip() and _is_unmarked(line))


def table_parts(source: Store, file: str, size: int) -> Iterator[Part]:
    """Parts of a table without quotation marks whose first line names the columns."""
    with source.open(file) as stream:
        first = stream.readline(LARGEST)
    if first.endswith(b"\n") and first.isascii():
        yield from _lines(source, file, size, lambda _, line: _is_unmarked(line), first.decode())


def _is_object(line: bytes, encoding: str) -> bool:
    try:
        return isinstance(orjson.loads(line.decode(encoding)), dict)
    except ValueError:  # no JSON, or not of that encoding
        return False


def _is_unmarked(line: bytes) -> bool:
    return not line.startswith((_BOM, *_WIDE))


def _lines(
    source: Store, file: str, size: int, may_begin: Callable[[bytes, bytes], bool], lead: str = ""
) -> Iterator[Part]:
    with source.open(file) as stream:
        if stream.read(2) in _WIDE:
            return
        end, begin = stream.seek(0, io.SEEK_END), 0
        while begin < end:
            border = _border(stream, begin + size, end, may_begin)
            yield Part(begin, border, lead if begin else "")
            begin = border


def _border(stream: BinaryIO, at: int, end: int, may_begin: Callable[[bytes, bytes], bool]) -> int:
    """The first place behind `at` where a line begins that may begin a part, by that line and the one before."""
    if at >= end:
        return end
    stream.seek(at)
    before = stream.readline(LARGEST)
    while line := stream.readline(LARGEST):
        at += len(before)
        if before.endswith(b"\n") and may_begin(before, line):
            return at
        before = line
    return end


def _elements(
    source: Store, file: str, size: int, found: Iterator[Record | Fault], lead: str, tail: str
) -> Iterator[Part]:
    begin, sound, trusted = 0, False, 0
    for element in found:
        was, sound = sound, isinstance(element, Record) and isinstance(element.value, dict)
        if isinstance(element, Fault):
            trusted = element.begin + _FAR
        if was and sound and element.begin - begin >= size and element.begin >= trusted:
            yield Part(begin, element.begin, lead if begin else "", tail)
            begin = element.begin
    if begin and (entry := source.entry(file)):
        yield Part(begin, entry.size, lead)


def excerpt(source: Store, file: str, part: Part) -> Store:
    """A view of a corpus in which one file is only a part of itself; to be read from, nothing else."""
    return cast(Store, _Excerpt(source, file, part))


class _Excerpt:
    """A store that reads one file in part, and all others as they are."""

    def __init__(self, store: Store, file: str, part: Part) -> None:
        self._store, self._file, self._part = store, file, part

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def entry(self, path: str) -> Entry | None:
        found = self._store.entry(path)
        return found._replace(size=self._part.size) if found and path == self._file else found

    def read(self, path: str) -> bytes:
        if path != self._file:
            return self._store.read(path)
        with self.open(path) as stream:
            return stream.read()

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        if path != self._file:
            return self._store.read_range(path, offset, length)
        with self.open(path) as stream:
            stream.seek(offset)
            return stream.read(length)

    def open(self, path: str) -> BinaryIO:
        stream = self._store.open(path)
        return io.BufferedReader(_Window(stream, self._part), _BUFFER) if path == self._file else stream


class _Window(io.RawIOBase):
    """The bytes of a part, with what stands in front and behind."""

    def __init__(self, stream: BinaryIO, part: Part) -> None:
        super().__init__()
        self._stream, self._part, self._at = stream, part, 0
        self._lead, self._tail = part.lead.encode("latin-1"), part.tail.encode("latin-1")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._stream.close()
        super().close()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._part.size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        inside = self._at - len(self._lead)
        length = self._part.end - self._part.begin
        if inside < 0:
            data = self._lead[self._at :][: len(buffer)]
        elif inside < length:
            self._stream.seek(self._part.begin + inside)
            data = self._stream.read(min(len(buffer), length - inside))
        else:
            data = self._tail[inside - length :][: len(buffer)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

"""JSON files of any size, one record at a time: arrays and JSON Lines, whatever the name ends in, and lists in objects.

A corpus of a million conversations is one array of a few gigabytes. Parsing needs the whole of it; finding where an
element ends needs only its strings and brackets. So a window moves over the file, a regular expression that swallows
strings whole finds the end of each element, and each element is parsed alone. Nearly always the next one begins as the
last one did (`, {"id"`), so that place is tried first: if what lies before it parses, it was the end, since no JSON
object is the beginning of another.

What does not parse is a `Fault` with its byte span, and reading goes on: in JSON Lines with the next line, in an array
behind the broken element. Where a lost quote or bracket leaves that without an end to be trusted, the next place that
opens and parses like the last good element is the next one.
"""

import re
from collections.abc import Generator, Iterator
from io import BytesIO
from itertools import islice
from typing import Any, BinaryIO, NamedTuple, TypeVar

import orjson

from tarsia.builders.corpora import Fault
from tarsia.builders.reading.encoding import TRIED, Text
from tarsia.builders.storage import Store

CHUNK = 1 << 20  # bytes read at a time
LARGEST = 16 << 20  # bytes of one record; what has no end within them is no record
KEPT = 1 << 16  # bytes of a fault that are kept to be looked at
_NEAR = 1 << 16  # bytes in which the next element is looked for by its opening
_TRIES = 16  # places tried for a sound element after one without an end
_LINES = 100  # lines of which none parses: the file is something else

_BOM = b"\xef\xbb\xbf"
_BETWEEN = re.compile(rb"[\s,]*+")
_OPENING = re.compile(rb'\{\s*("(?:[^"\\]|\\.)*+")\s*:', re.DOTALL)
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_SCALAR = re.compile(rb'[^\s,"\[\]{}]+(?=[\s,"\[\]{}])|[\]}]')
_FOLLOWED = re.compile(rb"\s*(?:[,\]]|\Z)")
_PARTS = re.compile(  # everything up to the next bracket outside strings, or to the end of what is there
    rb'[^"\[\]{}]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)[^"\[\]{}]*+)*+([\[\]{}]|\Z)', re.DOTALL
)


class Record(NamedTuple):
    """One JSON value, the bytes it was parsed from, and where they lie in the file."""

    value: Any
    raw: bytes
    begin: int
    end: int


class Member(NamedTuple):
    """One member of a JSON object: its key and the span of its value, which may be cut off."""

    key: str
    begin: int
    end: int
    whole: bool


def records(source: Store, file: str) -> Iterator[Record | Fault]:
    """The elements of a top-level array, or the lines of JSON Lines, in file order."""
    with Text(source, file) as text:
        for found in _records(text):
            yield _on_disk(found, text)


def _records(stream: Text) -> Iterator[Record | Fault]:
    window = _opened(stream)
    start = window.place
    if window.skip() != b"[":
        yield from _lines(stream, start)
        return
    yield from _array(window)
    if window.skip():
        yield _wrong(window, "text after the end of the array")


def listed(source: Store, file: str, *names: str) -> Iterator[Record | Fault]:
    """The elements of the lists that stand under some names in a file's one object; of other files, its `records`.

    Whatever else is in the object is passed over. An object without any such list is a fault.
    """
    with Text(source, file) as text:
        for found in _records(text) if _is_lines(text, names) else _listed(text, names):
            yield _on_disk(found, text)


def _is_lines(stream: Text, names: tuple[str, ...]) -> bool:
    """Whether a file is an array or JSON Lines, of which one of the first two is an object by itself."""
    first, second = (stream.readline(LARGEST).removeprefix(_BOM).strip() for _ in range(2))
    stream.seek(0)
    if first[:1] != b"{":
        return True
    alone = [line for line in (first, second) if line[:1] == b"{" and _end(line, 0) == len(line)]
    if second or not alone:
        return bool(alone)
    found = _parsed(first, 0)
    if isinstance(found, Fault):
        return not any(f'"{name}"'.encode() in first for name in names)
    return not any(isinstance(found.value.get(name), list) for name in names)


def _listed(stream: Text, names: tuple[str, ...]) -> Iterator[Record | Fault]:
    window = _opened(stream)
    window.skip()
    there = False
    for key in _keys(window):
        if isinstance(key, Fault):
            yield key
            return
        if key in names and window.skip() == b"[":
            there = True
            if not (yield from _array(window)):
                return
        elif (end := window.end()) is None:
            yield _rest(window)
            return
        else:
            window.at = end
    if not there:
        yield Fault("record-shape", f"no list under {' or '.join(names)}", b"", 0, window.finish())


def keyed(source: Store, file: str) -> Iterator[tuple[str, Record] | Fault]:
    """The members of a file's one object, in file order: their keys, and their values."""
    with Text(source, file) as text:
        window = _opened(text)
        first = window.skip()
        if first not in (b"{", b""):
            yield _on_disk(Fault("json-broken", "not one JSON object", window.data[:KEPT], 0, window.finish()), text)
        for key in _keys(window) if first == b"{" else ():
            if isinstance(key, Fault) or (end := window.end()) is None:
                yield _on_disk(key if isinstance(key, Fault) else _rest(window), text)
                return
            found = _on_disk(window.take(end), text)
            window.at = end
            yield found if isinstance(found, Fault) else (key, found)


def whole(source: Store, file: str) -> Record | None:
    """The one value that a file holds, over as many lines as it likes; None where it holds anything else."""
    with Text(source, file) as text:
        window = _opened(text)
        end = window.end() if window.skip() else None
        found = None if end is None else window.take(end)
        window.at = end or window.at
        return _on_disk(found, text) if isinstance(found, Record) and not window.skip() else None


def _opened(stream: Text) -> "_Window":
    """A window at the beginning of the text, behind a byte order mark."""
    return _Window(stream, len(_BOM) if stream.read(len(_BOM)) == _BOM else 0)


def _keys(window: "_Window") -> Iterator[str | Fault]:
    """The keys of the object at hand. At each the window stands at its value, and has to be led behind it."""
    window.at += 1
    while window.skip() != b"}":
        key = _key(window)
        yield key
        if isinstance(key, Fault):
            return
    window.at += 1
    if window.skip():
        yield _wrong(window, "text after the end of the object")


def _key(window: "_Window") -> str | Fault:
    first = window.skip()
    end = window.end() if first == b'"' else None
    if end is None:
        return _wrong(window, "a key was due") if first not in (b'"', b"") else _rest(window)
    found = window.take(end)
    window.at = end
    if isinstance(found, Fault):
        return found
    if window.skip() == b":":
        window.at += 1
        if window.skip():
            return str(found.value)
    return _wrong(window, "a value was due") if window.skip() else _rest(window)


def _wrong(window: "_Window", message: str) -> Fault:
    """A fault from here to the end of the file."""
    rest, place = window.data[window.at :][:KEPT], window.place
    return Fault("json-broken", message, rest, place, window.finish())


T = TypeVar("T", Record, Fault, Record | Fault)


def _on_disk(found: T, text: Text) -> T:
    """What was found, placed in the file as it stands on disk."""
    if text.encoding in (None, "utf-8"):
        return found
    begin, end = text.place(found.begin), text.place(found.end)
    if isinstance(found, Record):
        return found._replace(begin=begin, end=end)
    message = f"not all of it is {text.encoding}; {TRIED}" if found.code == "text-encoding" else found.message
    return Fault(found.code, message, text.on_disk(begin, min(end, begin + KEPT)), begin, end)


def elements(data: bytes, begin: int) -> Iterator[Record | Fault]:
    """The elements of an array that stands at `begin` in a file held in memory."""
    yield from _array(_Window(BytesIO(data), begin))


def members(data: bytes) -> Iterator[Member | Fault]:
    """The members of the one object of a file held in memory, in file order and with repeated keys."""
    at = _after(_BETWEEN, data, len(_BOM) if data.startswith(_BOM) else 0)
    if data[at : at + 1] != b"{":
        if data[at:]:
            yield _fault(data[at:], at, "not one JSON object")
        return
    at = _after(_BETWEEN, data, at + 1)
    while match := _MEMBER.match(data, at):
        end = _end(data, match.end())
        try:
            key = str(orjson.loads(match[1]))
        except orjson.JSONDecodeError as error:
            yield _fault(data[at:], at, f"a key does not parse: {error}")
            return
        yield Member(key, match.end(), len(data) if end is None else end, end is not None)
        if end is None:
            return
        at = _after(_BETWEEN, data, end)
    if data[at : at + 1] != b"}":
        yield _cut(data[at:], at, len(data)) if not data[at:] else _fault(data[at:], at, "a key was due")
    elif (rest := _after(_BETWEEN, data, at + 1)) < len(data):
        yield _fault(data[rest:], rest, "text after the end of the object")


_MEMBER = re.compile(rb'("(?:[^"\\]|\\.)*+")\s*:\s*(?=\S)', re.DOTALL)


def value_of(data: bytes, member: Member) -> Record | Fault:
    """The value of a member, parsed."""
    raw = data[member.begin : member.end]
    if not member.whole:
        return _cut(raw, member.begin, member.end)
    return _parsed(raw, member.begin)


class _Window:
    """The part of a file that is in memory: `data`, of which everything before `at` is done with."""

    def __init__(self, stream: BinaryIO, place: int) -> None:
        stream.seek(place)
        self._stream = stream
        self._begin = place
        self.data = b""
        self.at = 0
        self.barren = 0  # the place before which no sound element was found

    @property
    def place(self) -> int:
        """Where in the file `at` is."""
        return self._begin + self.at

    def more(self) -> bool:
        """Reads on, at least doubling what is left; False at the end of the file."""
        rest = self.data[self.at :]
        chunk = self._stream.read(max(CHUNK, len(rest)))
        self._begin += self.at
        self.data, self.at = rest + chunk, 0
        return bool(chunk)

    def skip(self) -> bytes:
        """Goes over space and commas; the byte that comes then, or nothing at the end of the file."""
        while True:
            self.at = _after(_BETWEEN, self.data, self.at)
            if self.at < len(self.data) or not self.more():
                return self.data[self.at : self.at + 1]

    def end(self) -> int | None:
        """Where in `data` the value at hand ends; None where the file ends first, or the patience."""
        while (end := _end(self.data, self.at)) is None:
            if len(self.data) - self.at > LARGEST or not self.more():
                return None
        return end

    def finish(self) -> int:
        """Goes to the end of the file, and says where that is."""
        self.at = len(self.data)
        while self.more():
            self.at = len(self.data)
        return self.place

    def take(self, end: int) -> Record | Fault:
        """The value at hand, parsed, when it ends at `end`."""
        return _parsed(self.data[self.at : end], self.place)


def _array(window: _Window) -> Generator[Record | Fault, None, bool]:
    """The elements of the array at hand; leaves the window behind its `]`, and says whether there is one."""
    model: Record | None = None  # the last good object
    gap = b""  # what stood between the last two objects, and the opening of the second
    window.skip()
    window.at += 1
    while True:
        data, after = window.data, window.at
        first = window.skip()
        if not first:
            yield _cut(b"", window.place, window.place)
            return False
        if first == b"]":
            window.at += 1
            return True
        opening = _OPENING.match(window.data, window.at)
        before = gap
        if opening and window.data is data:  # else the end of the window cut the gap
            gap = data[after : opening.end()]
        found = opening and gap == before and _guess(window, gap) or _element(window, model)
        if found is None:
            yield _rest(window)
            return False
        yield found
        window.at += found.end - found.begin
        if isinstance(found, Record) and isinstance(found.value, dict):
            model = found


def _element(window: _Window, model: Record | None) -> Record | Fault | None:
    """The element at hand; a fault up to the next sound one where it does not parse; None where nothing ends it."""
    end = window.end()
    found = None if end is None else window.take(end)
    followed = end is not None and bool(_FOLLOWED.match(window.data, end))
    if isinstance(found, Record) and (followed or isinstance(found.value, dict | list)):
        return found
    raw = window.data[window.at : end]
    good = _good(raw)
    if end is None and good == len(raw):
        return None
    sound = _sound(window, model, good, end if followed else None)
    if sound is None:
        return found
    message = found.message if isinstance(found, Fault) else "an element without an end"
    return _fault(window.data[window.at : sound].rstrip(b", \t\r\n"), window.place, message)


def _guess(window: _Window, gap: bytes) -> Record | None:
    end = window.data.find(gap, window.at + 1, window.at + _NEAR)
    if end < 0 or window.data[end - 1 : end] != b"}":
        return None
    found = window.take(end)
    return found if isinstance(found, Record) else None


def _good(raw: bytes) -> int:
    """How many of the bytes are JSON: all of them, if only the end is missing."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return error.start
        text = raw[: error.start].decode()
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if error.pos < len(text):
            return len(text[: error.pos].encode())
    return len(raw)


def _sound(window: _Window, model: Record | None, good: int, end: int | None) -> int | None:
    """The next place behind the good part of a broken element that opens like the last good one and has its keys.

    It is looked for before `end`, where brackets can be trusted, or else as far as patience goes.
    """
    opening = _OPENING.match(model.raw) if model else _OPENING.match(window.data, window.at)
    if not opening or end is None and window.place < window.barren:
        return None
    alike = re.compile(rb"\{\s*" + re.escape(opening[1]) + rb"\s*:")
    while True:
        data = window.data
        for place in islice(alike.finditer(data, window.at + max(1, good), len(data) if end is None else end), _TRIES):
            stop = _end(data, place.start())
            found = _parsed(data[place.start() : stop], 0) if stop else None
            if isinstance(found, Record) and (model is None or found.value.keys() == model.value.keys()):
                return place.start()
        if end is not None:
            return None
        if len(data) - window.at > LARGEST or not window.more():
            window.barren = window.place + len(window.data) - window.at
            return None


def _rest(window: _Window) -> Fault:
    """The fault of an element that nothing ends, up to the end of the file."""
    raw, place = window.data[window.at :], window.place
    window.at = len(window.data)
    if len(raw) <= LARGEST:
        return _cut(raw, place, window.place)
    message = f"an element without an end within {LARGEST >> 20} MiB"
    return Fault("json-broken", message, raw[:KEPT], place, window.finish())


def _lines(stream: BinaryIO, start: int) -> Iterator[Record | Fault]:
    """The lines of JSON Lines; one fault instead where no line is an object and the first is the start of one."""
    early: list[Record | Fault] = []
    lines = _each_line(stream, start)
    for found in lines:
        early.append(found)
        if len(early) == _LINES or isinstance(found, Record) and isinstance(found.value, dict | list):
            break
    else:
        lines = iter(())
    first, last = (early[0], early[-1]) if early else (None, None)
    opens = isinstance(first, Fault) and _end(first.raw + b" ", 0) is None and isinstance(last, Fault)
    if len(early) > 1 and (opens or len(early) == _LINES and all(isinstance(found, Fault) for found in early)):
        raw, begin = early[0].raw, early[0].begin
        yield Fault("json-broken", "neither an array nor JSON Lines", raw, begin, _size(stream))
        return
    yield from early
    yield from lines


def _each_line(stream: BinaryIO, start: int) -> Iterator[Record | Fault]:
    stream.seek(start)
    end = start
    while line := stream.readline(LARGEST):
        raw = line.strip()
        begin = end + len(line) - len(line.lstrip())
        end += len(line)
        if len(line) == LARGEST and not line.endswith(b"\n"):
            while (more := stream.readline(CHUNK)) and not more.endswith(b"\n"):
                end += len(more)
            end += len(more)
            yield Fault("json-broken", f"a line of more than {LARGEST >> 20} MiB", raw[:KEPT], begin, end)
        elif raw:
            found = _parsed(raw, begin)
            cut = isinstance(found, Fault) and not line.endswith(b"\n") and _end(raw + b" ", 0) is None
            yield _cut(raw, begin, end) if cut else found


def _end(data: bytes, at: int) -> int | None:
    """Where the JSON value at `at` ends, by strings and brackets alone; None if that is not in the data."""
    first = data[at : at + 1]
    if first not in (b"{", b"["):
        match = (_STRING if first == b'"' else _SCALAR).match(data, at)
        return match.end() if match else None
    depth = 0
    for part in _PARTS.finditer(data, at):
        mark = part[1]
        if mark in (b"{", b"["):
            depth += 1
        elif mark:
            depth -= 1
            if not depth:
                return part.end()
    return None


def _after(pattern: re.Pattern[bytes], data: bytes, at: int) -> int:
    match = pattern.match(data, at)
    return match.end() if match else at


def _parsed(raw: bytes, begin: int) -> Record | Fault:
    try:
        return Record(orjson.loads(raw), raw, begin, begin + len(raw))
    except orjson.JSONDecodeError as error:
        return _fault(raw, begin, str(error))


def _fault(raw: bytes, begin: int, message: str) -> Fault:
    """A record that does not parse: because of its encoding, if that is what is wrong."""
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return Fault(
            "text-encoding", f"byte {error.start} of it is not UTF-8; {TRIED}", raw[:KEPT], begin, begin + len(raw)
        )
    return Fault("json-broken", message, raw[:KEPT], begin, begin + len(raw))


def _cut(raw: bytes, begin: int, end: int) -> Fault:
    return Fault("json-truncated", "the file ends inside", raw[:KEPT], begin, end)


def _size(stream: BinaryIO) -> int:
    return stream.seek(0, 2)

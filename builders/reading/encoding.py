"""Text files in the encodings that corpora come in, read as UTF-8: what reads lines and JSON knows no other.

Most files are UTF-8, some with a byte order mark. Chinese ones are often GB18030 (or GBK and GB2312, which it holds),
and tables saved on Windows are UTF-16 with a mark. Which it is can be told without reading a file twice: as long as all
bytes are ASCII it makes no difference, and where the first other byte stands, the next 64 KiB are looked at:

- a mark of UTF-16 at the start of the file: that;
- valid UTF-8: that;
- valid GB18030, three quarters of it common characters (rows A1 to D7 of GB2312: signs and the 3,755 hanzi that make up
  nearly all of any text): that. The accents of Latin-1, Shift JIS and most of Big5 are no such pairs of bytes;
- anything else is passed on as it is, and whatever reads it finds the lines or records that are not UTF-8.

Byte spans stay those of the file on disk: `place` leads back from the UTF-8 to there. Bytes that the encoding does not
have are passed on in a form that is no UTF-8 either, so that they cost one record and not the file; and where files of
both encodings were joined into one, the parts that are UTF-8 stay what they are.
"""

import io
import re
from bisect import bisect_right
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, cast

from tarsia.builders.storage import Store

TRIED = "UTF-8, GB18030 and UTF-16 with a mark were tried"

_BUFFER = 1 << 20  # bytes read at a time
_BLOCK = 1 << 16  # bytes that an encoding is told by, and that are turned into UTF-8 at a time
_MOST = 0.75  # of the characters beyond ASCII, in Chinese text
_MARKS = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
_LOST = "\udcff".encode("utf-8", "surrogatepass")  # half a unit of UTF-16, in a form that is no UTF-8
_ASCII = re.compile(rb"[\x00-\x7f]*+")
_UNDIVIDED = re.compile(rb".*[\x00-\x2f]", re.DOTALL)  # up to a byte that stands in no longer character of GB18030


class Text(io.BufferedReader):
    """A file of a corpus as UTF-8, whatever it is in on disk."""

    def __init__(self, source: Store, file: str) -> None:
        self._text = _Text(source, file)
        super().__init__(self._text, _BUFFER)

    @property
    def encoding(self) -> str | None:
        """The encoding on disk, once a byte has been read that tells it; None while all is ASCII."""
        return self._text.encoding

    @property
    def place(self) -> Callable[[int], int]:
        """Where on disk a byte of the UTF-8 that has been read comes from."""
        return self._text.place

    def on_disk(self, begin: int, end: int) -> bytes:
        """The bytes between two places on disk."""
        return self._text.source.read_range(self._text.file, begin, end - begin)


def encoding_of(source: Store, file: str) -> str:
    """The encoding that a file is read in: `utf-8`, `gb18030`, `utf-16-le` or `utf-16-be`."""
    with Text(source, file) as text:
        while text.encoding is None and text.read(_BUFFER):
            pass
        return text.encoding or "utf-8"


class _Block(NamedTuple):
    """Some bytes that were turned into UTF-8: where they stand in it and on disk, and what they were in."""

    at: int
    begin: int
    length: int
    encoding: str


class _Seen(NamedTuple):
    """The block in which a place was looked for last: its UTF-8, and that place in it and on disk."""

    block: _Block | None
    utf8: bytes
    known: int
    there: int


class _Text(io.RawIOBase):
    """The bytes behind `Text`: passed through, or turned into UTF-8 block by block."""

    def __init__(self, source: Store, file: str) -> None:
        super().__init__()
        self.source, self.file = source, file
        self._stream = cast(Any, source.open(file))
        self.encoding: str | None = _MARKS.get(self._stream.read(2))
        self._mark = 2 if self.encoding else 0  # bytes on disk before the text
        self._blocks: list[_Block] = []
        self._seen = _Seen(None, b"", 0, 0)
        self._go(0)

    def _go(self, at: int) -> None:
        """Goes to a place before which nothing was turned."""
        self._stream.seek(self._mark + at)
        self._at = at  # place in the UTF-8
        self._ready = b""  # UTF-8 that waits to be taken
        self._left = b""  # bytes from disk that wait to be turned
        self._blocks.clear()

    @property
    def _turns(self) -> bool:
        return self.encoding not in (None, "utf-8")

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes, though going back in a text that is turned means to turn it again."""
        return True

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()
        super().close()

    def tell(self) -> int:
        """The place in the UTF-8."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Goes to a place in the UTF-8."""
        target = offset + (self._at if whence == io.SEEK_CUR else 0)
        if not self._turns:
            self._go(self._stream.seek(0, io.SEEK_END) if whence == io.SEEK_END else target)
            return self._at
        if whence == io.SEEK_END:
            while self.read(_BLOCK):
                pass
            return self._at
        if target < self._at:
            self._go(0)
        while self._at < target and self.read(min(_BLOCK, target - self._at)):
            pass
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Some bytes of UTF-8."""
        if self.encoding == "utf-8" and not self._ready:
            size = int(self._stream.readinto(buffer))
        else:
            self._ready = self._ready or (self._turned() if self._turns else self._told(len(buffer)))
            size = min(len(buffer), len(self._ready))
            buffer[:size] = self._ready[:size]
            self._ready = self._ready[size:]
        self._at += size
        return size

    def _told(self, size: int) -> bytes:
        """The next bytes, all before them being ASCII; tells the encoding where they are not."""
        data: bytes = self._stream.read(size)
        if data.isascii():
            return data
        data += self._stream.read(_BLOCK)
        match = _ASCII.match(data)
        begin = match.end() if match else 0
        sample = data[begin : begin + _BLOCK]
        if is_utf8(sample) or not _is_chinese(sample):
            self.encoding = "utf-8"
            return data
        self.encoding, self._left = "gb18030", data
        return self._turned()

    def _turned(self) -> bytes:
        """The next block as UTF-8; nothing at the end of the file."""
        cut = self._cut(self._left[:_BLOCK])
        while not cut and (more := self._stream.read(_BLOCK)):
            self._left += more
            cut = self._cut(self._left)
        block = self._left[: cut or None]
        self._left = self._left[len(block) :]
        if not block:
            return b""
        encoding = str(self.encoding)
        if encoding == "gb18030" and is_utf8(block) and not _is_chinese(block):
            encoding = "utf-8"
        last = self._blocks[-1] if self._blocks else None
        begin = last.begin + last.length if last else self._mark + self._at
        self._blocks.append(_Block(self._at, begin, len(block), encoding))
        return _as_utf8(block, encoding)

    def _cut(self, data: bytes) -> int:
        """How many of the bytes can be turned without cutting a character in two."""
        if self.encoding == "gb18030":
            match = _UNDIVIDED.match(data)
            return match.end() if match else 0
        even = len(data) - len(data) % 2
        high = data[even - 1 if self.encoding == "utf-16-le" else even - 2] if even else 0
        return even - 2 if 0xD8 <= high < 0xDC else even

    def place(self, at: int) -> int:
        """Where on disk a byte of the UTF-8 comes from."""
        if not self._blocks:
            return self._mark + at
        number = bisect_right(self._blocks, at, key=lambda block: block.at) - 1
        if number < 0:
            return self._mark + at
        block = self._blocks[number]
        if self._seen.block != block:
            data = self.source.read_range(self.file, block.begin, block.length)
            self._seen = _Seen(block, _as_utf8(data, block.encoding), block.at, block.begin)
        _, utf8, known, there = self._seen
        if at < known:
            known, there = block.at, block.begin
        there += len(_from_utf8(utf8[known - block.at : at - block.at], block.encoding))
        there = min(there, block.begin + block.length)
        self._seen = self._seen._replace(known=at, there=there)
        return there


def _as_utf8(data: bytes, encoding: str) -> bytes:
    if encoding == "utf-8":
        return data
    if encoding == "gb18030":
        return data.decode(encoding, "surrogateescape").encode("utf-8", "surrogateescape")
    even = len(data) - len(data) % 2
    text = data[:even].decode(encoding, "surrogatepass")
    return text.encode("utf-8", "surrogatepass") + (_LOST if even < len(data) else b"")


def _from_utf8(data: bytes, encoding: str) -> bytes:
    """What `_as_utf8` was given; Python's tables of GB18030 lead there and back."""
    if encoding == "utf-8":
        return data
    errors = "surrogateescape" if encoding == "gb18030" else "surrogatepass"
    return data.decode("utf-8", errors).encode(encoding, errors)


def is_utf8(data: bytes) -> bool:
    """Whether it is, but for a last character that may be cut."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return True


def _is_chinese(data: bytes) -> bool:
    """Whether most characters beyond ASCII are common Chinese ones, when it is read as GB18030."""
    beyond = [character for character in data.decode("gb18030", "surrogateescape") if character > "\x7f"]
    return bool(beyond) and sum(character in _common() for character in beyond) >= _MOST * len(beyond)


@cache
def _common() -> frozenset[str]:
    rows = bytes(byte for row in range(0xA1, 0xD8) for cell in range(0xA1, 0xFF) for byte in (row, cell))
    return frozenset(rows.decode("gb2312", "ignore"))

"""Tars as data sets use them: what lies where, without unpacking, and which members belong together.

A sample is all members with one key, which is the beginning of their names. Most writers put them side by side; what is
written by many threads at once comes as it was finished, so members are put together over the whole of one tar (about
1 KB a sample is held, and up to 32 MB of their texts). Media are not read at all: in a plain tar each lies in one piece
and is fetched from there when the shard is written. A tar that was compressed is unpacked first, and gives bytes.

Broken places cost what lies in them and nothing else: reading goes on with the next header.
"""

from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field
from tarfile import BLOCKSIZE, HeaderError, TarInfo
from typing import BinaryIO, NamedTuple

from tarsia.builders.corpora import Fault, Span
from tarsia.builders.reading.jsonfile import LARGEST
from tarsia.builders.reading.unzipped import unzipped
from tarsia.builders.storage import Store

_HELD = 32 << 20  # bytes of text that are kept until their sample is whole; beyond, they are read again
_HEADER = 1 << 20  # bytes of an extended header, at most
_DIGITS = 18  # of a number in it, at most
_ZERO = bytes(BLOCKSIZE)
_PLAIN = (b"0", b"\0", b"7")  # types of members that are files in one piece


class Member(NamedTuple):
    """One file in a tar: its name, where its header begins, and where its content lies."""

    name: str
    begin: int
    offset: int
    size: int

    @property
    def end(self) -> int:
        """Where the next header may begin."""
        return self.offset + self.size + -self.size % BLOCKSIZE


def members(stream: BinaryIO) -> Iterator[Member | Fault]:
    """The files in a tar, in the order in which they lie. Folders are passed over."""
    size, at, begin, closed = stream.seek(0, 2), 0, 0, False
    longer: dict[str, str] = {}  # what extended headers say of the next member
    while at < size:
        stream.seek(at)
        block = stream.read(BLOCKSIZE)
        closed = block == _ZERO and not longer
        if closed:  # the end, or a seam where tars were joined
            at = begin = at + BLOCKSIZE
            continue
        try:
            found = _header(block)
        except HeaderError as error:
            at, code = _next_header(stream, at, size), "tar-truncated" if len(block) < BLOCKSIZE else "tar-broken"
            yield Fault(code, f"no header: {error}", block, begin, at)
            begin, longer, closed = at, {}, True
            continue
        offset, length = at + BLOCKSIZE, int(longer.get("size", found.size))
        name = longer.get("path", found.name)
        if offset + length > size:
            yield Fault("tar-truncated", f"the file ends inside '{name}'", block, begin, size)
            return
        at = offset + length + -length % BLOCKSIZE
        if found.type in (b"x", b"L", b"K"):
            longer |= _extended(found.type, stream.read(min(length, _HEADER)))
            continue
        if found.type in _PLAIN and "GNU.sparse.major" not in longer and "GNU.sparse.map" not in longer:
            yield Member(name, begin, offset, length)
        elif found.type not in (b"5", b"g"):
            yield Fault("tar-link", f"'{name}' is a link or has holes: it has no content of its own", block, begin, at)
        begin, longer = at, {}
    if longer:
        yield Fault("tar-truncated", "the file ends behind an extended header", b"", begin, size)
    elif not closed:
        yield Fault("tar-truncated", "the file ends without the empty block that ends a tar", b"", size, size)


def _header(block: bytes) -> TarInfo:
    found = TarInfo.frombuf(block, "utf-8", "replace")
    if found.size < 0:
        raise HeaderError("a size below zero")
    return found


def _next_header(stream: BinaryIO, at: int, size: int) -> int:
    """Where the next block lies that is a header by its checksum, or the end of the file."""
    while (at := at + BLOCKSIZE) < size:
        stream.seek(at)
        block = stream.read(BLOCKSIZE)
        if block[257:262] == b"ustar":
            try:
                _header(block)
            except HeaderError:
                continue
            return at
    return size


def _extended(kind: bytes, data: bytes) -> dict[str, str]:
    """What an extended header says: lines of length, name and value, or a long name alone."""
    if kind != b"x":
        return {"path" if kind == b"L" else "linkpath": data.rstrip(b"\0").decode(errors="replace")}
    said: dict[str, str] = {}
    while data:
        length = data.partition(b" ")[0]
        if not length.isdigit() or len(length) > _DIGITS or not (line := data[len(length) + 1 : int(length) - 1]):
            break
        name, _, value = line.partition(b"=")
        said[name.decode(errors="replace")] = value.decode(errors="replace")
        data = data[int(length) :]
    size = said.get("size", "0")
    if not size.isdecimal() or len(size) > _DIGITS:
        del said["size"]
    return said


@dataclass
class Bundle:
    """One sample of a tar: its texts, its media, and the span from its first member to its last."""

    key: str
    begin: int
    end: int
    texts: dict[str, bytes] = field(default_factory=dict)
    media: dict[str, bytes | Span] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)


def bundles(
    source: Store, file: str, split: Callable[[str], tuple[str, str] | None], texts: Set[str]
) -> Iterator[Bundle | Fault]:
    """The samples of a tar, by their first members. `split` parts a name into key and ending.

    Members whose ending ends in one of `texts` are read, all others are media.
    """
    with unzipped(source, file) as plain, plain.store.open(plain.file) as stream:
        found: list[Bundle] = []
        open_: dict[str, Bundle] = {}
        held = 0
        for member in members(stream):
            if isinstance(member, Fault):
                yield member
                continue
            parts = split(member.name)
            if parts is None:
                message = f"'{member.name}' belongs to no sample"
                yield Fault("tar-member", message, member.name.encode(errors="replace"), member.begin, member.end)
                continue
            key, ending = parts
            bundle = open_.get(key)
            if bundle is None or ending in bundle.members:  # again: a tar that was joined with another
                open_[key] = bundle = Bundle(key, member.begin, member.end)
                found.append(bundle)
            bundle.members[ending] = member
            bundle.begin, bundle.end = min(bundle.begin, member.begin), max(bundle.end, member.end)
            if _is_text(ending, texts) and held + member.size <= _HELD:
                held += member.size
                bundle.texts[ending] = _content(stream, member)
        for bundle in found:
            for ending, member in bundle.members.items():
                if not _is_text(ending, texts):
                    span = Span(file, member.offset, member.size)
                    bundle.media[ending] = span if plain.store is source else _content(stream, member)
                elif ending not in bundle.texts and member.size <= LARGEST:
                    bundle.texts[ending] = _content(stream, member)
            yield bundle
            bundle.texts, bundle.media = {}, {}
        yield from plain.faults


def _is_text(ending: str, texts: Set[str]) -> bool:
    return ending.rpartition(".")[2] in texts


def _content(stream: BinaryIO, member: Member) -> bytes:
    stream.seek(member.offset)
    return stream.read(member.size)

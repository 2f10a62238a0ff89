"""Tars that are the same bytes every time, and the byte ranges of everything in them, in one pass.

Every header is plain ustar with mode 0644, owner 0, time 0 (webdataset's own writer stamps the clock into a PAX header:
1,536 bytes a member instead of 512, and no two runs agree). Members are sorted, a sample's members are neighbours, and
while bytes go out their checksums and the BLAKE3 of the whole file are taken, so that no index step ever reads a tar
again.
"""

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import xxhash
from blake3 import blake3

from tarsia.builders.storage import Store
from tarsia.builders.tables import to_parquet
from tarsia.schemas.errors import Corrupt
from tarsia.schemas.identity import checksum, digest
from tarsia.schemas.shard import Stored

BLOCK = 512
_ZERO = bytes(BLOCK)
_OWNER = b"0000644\0" + b"0000000\0" * 2  # mode, user, group
_TIME = b"00000000000\0"
_KIND = b"0" + bytes(100) + b"ustar\x0000" + bytes(247)  # a plain file, and all that ustar leaves empty
_BASE = sum(_OWNER) + sum(_TIME) + sum(_KIND) + 8 * ord(" ")  # the checksum counts its own field as blanks
_NAME_AND_SIZE = Struct("100s24x11s").unpack_from
_LARGEST = 8**11 - 1  # bytes that a ustar size field can say: 8 GiB
_GATHERED = 1 << 18  # bytes that are hashed and written at once: piece by piece BLAKE3 takes twice the time


class Member(NamedTuple):
    """One file in a tar: where its content lies, how long it is, its XXH3-64."""

    name: str
    offset: int
    size: int
    checksum: int


class Range(NamedTuple):
    """One sample in a tar, headers and padding included, and its members."""

    offset: int
    length: int
    checksum: int
    members: tuple[Member, ...]


def header(name: str, size: int) -> bytes:
    """The ustar header of a plain file: 512 bytes that depend on name and size alone."""
    raw = name.encode()
    if len(raw) > 100 or size > _LARGEST:
        raise ValueError(f"tar member '{name}' of {size} bytes: ustar holds names of 100 bytes and sizes of 8 GiB")
    octal = b"%011o\0" % size
    total = b"%06o\0 " % (_BASE + sum(raw) + sum(octal))
    return raw.ljust(100, b"\0") + _OWNER + octal + _TIME + total + _KIND


class TarWriter:
    """Writes samples to a file in the order given, and remembers where each lies."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._whole = blake3()
        self._gathered: list[bytes] = []
        self._passed_on = 0
        self.bytes = 0

    def add(self, key: str, members: Sequence[tuple[str, bytes]]) -> Range:
        """Writes one sample: `<key>.<name>` for every member, sorted by name."""
        begin, state, written = self.bytes, xxhash.xxh3_64(), []
        for name, data in sorted(members):
            size = len(data)
            parts = (header(f"{key}.{name}", size), data, _ZERO[: -size % BLOCK])
            written.append(Member(name, self.bytes + BLOCK, size, checksum(data)))
            for part in parts:
                state.update(part)
            self._gathered += parts
            self.bytes += BLOCK + size + -size % BLOCK
        if self.bytes - self._passed_on >= _GATHERED:
            self._pass_on()
        return Range(begin, self.bytes - begin, state.intdigest(), tuple(written))

    def close(self) -> str:
        """Ends the archive; the BLAKE3 of the whole file."""
        self._gathered.append(_ZERO * 2)
        self.bytes += 2 * BLOCK
        self._pass_on()
        self._file.flush()
        return self._whole.hexdigest()

    def _pass_on(self) -> None:
        is_large = self.bytes - self._passed_on > 8 * _GATHERED  # a video, not worth a copy
        for data in self._gathered if is_large else (b"".join(self._gathered),):
            self._file.write(data)
            self._whole.update(data)
        self._gathered, self._passed_on = [], self.bytes


def members(data: bytes | memoryview, key: str, where: str = "") -> dict[str, bytes]:
    """The members of one sample's byte range: their content, by their names without the key."""
    found: dict[str, bytes] = {}
    prefix, at = f"{key}.", 0
    skip, last = len(prefix), len(data) - BLOCK
    while at <= last:
        raw, size = _NAME_AND_SIZE(data, at)
        name = raw.partition(b"\0")[0].decode()
        if not name.startswith(prefix):
            raise Corrupt(f"{where}: expected sample {key}, found '{name}'")
        begin = at + BLOCK
        end = begin + int(size, 8)
        found[name[skip:]] = bytes(data[begin:end])
        at = end + -end % BLOCK
    return found


def publish(
    store: Store, path: str, tar: BinaryIO, tar_digest: str, tar_bytes: int, tables: Iterable[tuple[str, pa.Table]]
) -> tuple[Stored, ...]:
    """Makes a shard visible as `<path>-<digest8>.tar` and its tables beside it; the name digests all of them."""
    made = [(suffix, to_parquet(table)) for suffix, table in tables]
    digests = [tar_digest, *(digest(data) for _, data in made)]
    name = f"{path}-{digest(''.join(digests).encode())[:8]}"
    objects = [Stored(path=f"{name}.tar", bytes=tar_bytes, digest=tar_digest)]
    store.publish(tar, objects[0].path)
    for (suffix, data), whole in zip(made, digests[1:], strict=True):
        objects.append(Stored(path=f"{name}{suffix}", bytes=len(data), digest=whole))
        store.replace(objects[-1].path, data)
    return tuple(objects)

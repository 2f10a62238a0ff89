"""Cache: blocks of stored objects on a local disk, within a size limit, shared by whoever uses the folder.

    blocks/3f/<digest>-000012   4 MiB of an object, named by its BLAKE3 and the block's number
    making/17  locks/17         a block on its way, and who may make it: one of `LOCKS`, by hash of the name
    used                        bytes in blocks/, and the lock of who adds or evicts

Names say the content, so lakes, stages, ranks and runs share a folder without knowing of each other. A block is written
under its lock and renamed when it is whole: nobody sees a part, each block is fetched once a node, and what a killed
process left is overwritten by the next holder of the lock. Bytes are counted before the rename, under one lock, so the
limit holds at every moment; the block longest unread goes first. A reader's open file outlives its eviction. Locks are
the kernel's (flock): they end with their process, and no shared memory has a name that could stay behind.

A block is written past the page cache where the file system can (O_DIRECT): the memory of a node is the trainer's, and
a fresh page for every page of a lake may cost more than the disk. What is read of a block comes through the page cache,
so that memory which nobody wants keeps it for the next epoch.

A block that a power cut spoilt is found by the checksum of the sample read from it, forgotten and fetched again.
"""

import errno
import fcntl
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import xxhash

from tarsia.schemas.errors import UserError
from tarsia.schemas.shard import Stored

BLOCK = 4 << 20  # bytes
LOCKS = 64  # blocks of which as many are made at once
_FULL = {errno.ENOSPC, errno.EDQUOT}
_DIRECT = getattr(os, "O_DIRECT", 0)  # Linux
_REFUSED = {errno.EINVAL, errno.EOPNOTSUPP}  # by a file system that has no such writing
_PAGE = 4096  # bytes: what is written past the page cache begins and ends, in memory and on disk, at a multiple
_WRITTEN = 1 << 20  # bytes that are copied and written at once

Fetch = Callable[[int, int], memoryview]  # offset and length of the object


class Asked(NamedTuple):
    """What ranges ask of one block: which of them ask, and from where to where in the block."""

    number: int
    askers: list[int]
    spans: list[tuple[int, int]]


class Cache:
    """A folder of blocks of at most `limit` bytes."""

    def __init__(self, folder: str, limit: int) -> None:
        self.folder, self.limit = os.path.abspath(folder), limit  # noqa: PTH100
        if limit < BLOCK:
            raise UserError(f"a cache of {limit} bytes holds no block of {BLOCK}: give it more")
        try:
            for name in ("blocks", "making", "locks"):
                Path(self.folder, name).mkdir(parents=True, exist_ok=True)
            with self._locked("used"):
                pass
        except OSError as error:
            raise UserError(f"cannot cache in '{folder}': {error.strerror}; name a folder of a local disk") from error

    def read(self, stored: Stored, ranges: Sequence[tuple[int, int]], fetch: Fetch) -> list[bytes]:
        """Ranges of an object, as far as it reaches; blocks that are not there are fetched, once a node."""
        asked = self.blocks(ranges)
        return assembled(len(ranges), asked, [self.pieces(stored, one, fetch) for one in asked])

    def blocks(self, ranges: Sequence[tuple[int, int]]) -> "list[Asked]":
        """What ranges ask of each block, so that blocks may be fetched beside each other."""
        wanted: dict[int, tuple[list[int], list[tuple[int, int]]]] = {}
        for which, (offset, length) in enumerate(ranges):
            for block in range(offset // BLOCK, (offset + length - 1) // BLOCK + 1):
                askers, spans = wanted.setdefault(block, ([], []))
                begin = block * BLOCK
                askers.append(which)
                spans.append((max(offset - begin, 0), min(offset + length - begin, BLOCK)))
        return [Asked(block, askers, spans) for block, (askers, spans) in sorted(wanted.items())]

    def forget(self, stored: Stored, offset: int, length: int) -> None:
        """Drops the blocks of a range: they are not what the object holds."""
        for block in range(offset // BLOCK, (offset + length - 1) // BLOCK + 1):
            self._path(stored, block).unlink(missing_ok=True)

    def pieces(self, stored: Stored, asked: "Asked", fetch: Fetch) -> list[bytes]:
        """What is asked of a block, which is fetched if it is not there."""
        block, spans = asked.number, asked.spans
        path = self._path(stored, block)
        size = min(BLOCK, stored.bytes - block * BLOCK)
        pieces = _read(path, size, spans)
        if pieces is None:
            slot = f"{xxhash.xxh3_64_intdigest(path.name.encode()) % LOCKS:02d}"
            with self._locked(f"locks/{slot}"):
                pieces = _read(path, size, spans)  # somebody else may have made it meanwhile
                if pieces is None:
                    data = fetch(block * BLOCK, size)
                    pieces = [bytes(data[begin:end]) for begin, end in spans]
                    if len(data) == size:
                        self._keep(path, data, Path(self.folder, "making", slot))
        return pieces

    def _keep(self, path: Path, data: memoryview, making: Path) -> None:
        try:
            _write(making, data)
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            making.unlink(missing_ok=True)
            if error.errno not in _FULL:
                raise UserError(f"cannot cache in '{self.folder}': {error.strerror}") from error
            return  # a full disk costs the cache, not the run
        with self._locked("used") as used:
            total = self._used(used) + len(data)
            if total > self.limit:
                total = self._evict(self.limit - self.limit // 10 - len(data)) + len(data)
            os.pwrite(used, b"%020d" % total, 0)
            making.replace(path)

    def _used(self, used: int) -> int:
        """Bytes in blocks/, as noted; counted where nothing is noted."""
        noted = os.pread(used, 20, 0)
        return int(noted) if noted.isdigit() else self._evict(self.limit)

    def _evict(self, target: int) -> int:
        """Removes the blocks longest unread until at most `target` bytes are left; what is left."""
        blocks = []
        for folder in Path(self.folder, "blocks").iterdir():
            for entry in os.scandir(folder):
                with suppress(FileNotFoundError):
                    blocks.append((entry.stat().st_mtime_ns, entry.stat().st_size, entry.path))
        total = sum(size for _, size, _ in blocks)
        for _, size, path in sorted(blocks):
            if total <= max(target, 0):
                break
            Path(path).unlink(missing_ok=True)
            total -= size
        return total

    def _path(self, stored: Stored, block: int) -> Path:
        return Path(self.folder, "blocks", stored.digest[:2], f"{stored.digest[:32]}-{block:06d}")

    @contextmanager
    def _locked(self, name: str) -> Iterator[int]:
        lock = os.open(f"{self.folder}/{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield lock
        finally:
            os.close(lock)


def assembled(ranges: int, asked: Sequence[Asked], answers: Iterable[Sequence[bytes]]) -> list[bytes]:
    """So many ranges, put together of what their blocks gave."""
    found: list[list[bytes]] = [[] for _ in range(ranges)]
    for one, pieces in zip(asked, answers, strict=True):
        for which, piece in zip(one.askers, pieces, strict=True):
            found[which].append(piece)
    return [pieces[0] if len(pieces) == 1 else b"".join(pieces) for pieces in found]


def _write(path: Path, data: memoryview) -> None:
    """A file of these bytes, past the page cache where the file system can."""
    try:
        _write_through(path, data, _DIRECT)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        _write_through(path, data, 0)


def _write_through(path: Path, data: memoryview, how: int) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | how, 0o666)
    try:
        room = memoryview(mmap.mmap(-1, _WRITTEN))  # begins with a page, as no other memory is sure to
        for offset in range(0, len(data), _WRITTEN):
            part = data[offset : offset + _WRITTEN]
            room[: len(part)] = part
            pages = len(part) + -len(part) % _PAGE
            if os.pwrite(file, room[:pages], offset) < pages:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.ftruncate(file, len(data))  # the last page was written whole
    finally:
        os.close(file)


def _read(path: Path, size: int, spans: Sequence[tuple[int, int]]) -> list[bytes] | None:
    """Pieces of a block, or None where it is not there or not whole. Being read is what makes it young."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        if os.fstat(file).st_size != size:
            return None
        with suppress(OSError):
            os.utime(file)
        return [os.pread(file, end - begin, begin) for begin, end in spans]
    finally:
        os.close(file)

"""Files as they are before compression: those that end in .gz are unpacked into a temporary folder first.

So they can be read from any place, twice, and by range, at the price of disk and not of memory. Bytes of their records
are counted in what came out. A .gz that breaks off gives what it holds up to there, and a fault.
"""

import gzip
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tarsia.builders.corpora import Fault
from tarsia.builders.storage import Store, open_store

_CHUNK = 1 << 20  # bytes


class Plain(NamedTuple):
    """Where the content lies, and what was wrong on the way there."""

    store: Store
    file: str
    faults: tuple[Fault, ...] = ()


@contextmanager
def unzipped(source: Store, file: str) -> Iterator[Plain]:
    """The file itself, or for a .gz its content."""
    if not file.endswith((".gz", ".tgz")):
        yield Plain(source, file)
        return
    with tempfile.TemporaryDirectory(prefix="tarsia-") as folder:
        name = PurePosixPath(file).name.removesuffix(".gz")
        yield Plain(open_store(folder), name, tuple(_unpack(source, file, Path(folder, name))))


def _unpack(source: Store, file: str, target: Path) -> Iterator[Fault]:
    with source.open(file) as packed, gzip.GzipFile(fileobj=packed) as stream, target.open("wb") as out:
        try:
            while chunk := stream.read1(_CHUNK):
                out.write(chunk)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            begin = packed.tell()
            yield Fault("gzip-broken", f"{error}", b"", begin, packed.seek(0, 2))

"""A text file as a dictionary: its lines by a key that stands in each, in 16 bytes a line.

Speech corpora spread what belongs together over several tables: texts, recordings, speakers, segments. Any of them may
have ten million lines. So only a hash of each key and the line's place are held; the line itself is read when it is
asked for, which costs little, since tables that belong together are sorted alike and the next line is the one at hand.
"""

from array import array
from collections.abc import Callable
from types import TracebackType
from typing import BinaryIO

import numpy as np

from tarsia.builders.reading.jsonfile import LARGEST
from tarsia.builders.storage import Store
from tarsia.schemas.errors import NotThere
from tarsia.schemas.identity import checksum


def first_word(line: bytes) -> bytes:
    """What stands before the first space or tab."""
    return line.split(maxsplit=1)[0] if line.strip() else b""


class Lookup:
    """The lines of a file by their keys; of equal keys the first line counts. A file that is not there has none."""

    def __init__(self, source: Store, file: str, key: Callable[[bytes], bytes | None] = first_word) -> None:
        self._key = key
        self._stream: BinaryIO | None = None
        hashes, places = array("Q"), array("q")
        try:
            self._stream = source.open(file)
        except NotThere:
            pass
        else:
            place = 0
            while line := self._stream.readline(LARGEST):
                if own := key(line):
                    hashes.append(checksum(own))
                    places.append(place)
                place += len(line)
        unsorted = np.array(hashes, dtype=np.uint64)
        order = np.argsort(unsorted, kind="stable")
        self._hashes, self._places = unsorted[order], np.array(places, dtype=np.int64)[order]

    def __len__(self) -> int:
        return len(self._hashes)

    def __enter__(self) -> "Lookup":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream:
            self._stream.close()

    def line(self, key: bytes) -> bytes | None:
        """The line of a key, with its end."""
        wanted = np.uint64(checksum(key))
        at = int(np.searchsorted(self._hashes, wanted))
        while self._stream and at < len(self._hashes) and self._hashes[at] == wanted:
            self._stream.seek(self._places[at])
            line = self._stream.readline(LARGEST)
            if self._key(line) == key:
                return line
            at += 1
        return None

    def rest(self, key: str) -> str | None:
        """What stands behind the first word of a key's line."""
        line = self.line(key.encode())
        return None if line is None else " ".join(line.decode(errors="replace").split(maxsplit=1)[1:]).strip()

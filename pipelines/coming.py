"""A corpus on its way into the lake: what every step of ingest learns of it, and what their tasks have in common.

The trie over all records of the corpus, refused ones included, is known as soon as they are sorted: its leaves are the
**pieces** that the corpus comes in.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tarsia.builders.duplicates import Hashes
from tarsia.builders.lake import Lake
from tarsia.builders.records import Run
from tarsia.builders.storage import Entry, Store, open_store
from tarsia.builders.tables import get_table
from tarsia.schemas.corpus import Corpus
from tarsia.schemas.identity import canonical, checksum, digest
from tarsia.schemas.lake import FORMAT, ORDER
from tarsia.schemas.shard import Stored, leaves


@dataclass(frozen=True)
class Step:
    """A task of ingest: something is done for one corpus of a lake, and recorded."""

    lake: str
    corpus: Corpus
    record: str

    @property
    def store(self) -> Store:
        """Of the lake."""
        return open_store(self.lake)

    @property
    def source(self) -> Store:
        """Of the raw data."""
        return open_store(self.corpus.root)


class Piece(NamedTuple):
    """A leaf that is to be built: its rows in the sorted slices, and arrays of what is known of its records."""

    leaf: str
    parts: tuple[Run, ...]
    inputs: list[Any]  # all that the leaf depends on, but for what is refused because it stands elsewhere
    draws: Hashes
    said: Hashes
    asked: Hashes


@dataclass
class Coming:
    """One corpus on its way."""

    corpus: Corpus
    source: str  # digest of what is read
    files: list[Entry]
    work: str  # the folder of the lake for what is left when all is done
    gone: Stored | None = None  # what was taken down
    is_compared: bool = False  # an evaluation set: it is compared with, and ends there
    slices: list[str] = field(default_factory=list)  # paths, without their endings
    identities: dict[str, int] = field(default_factory=dict)
    sorted: list[dict[str, Any]] = field(default_factory=list)  # what `Sort` gave, by slice
    folded: list[str] = field(default_factory=list)  # sorted slices that leaves are built from, without their endings
    pieces: list[Piece] = field(default_factory=list)

    @property
    def shows(self) -> set[str]:
        """The sorts of media that its records have."""
        return {name for part in self.sorted for name in part["shows"]}


def pieces(one: Coming, lake: Lake) -> Iterator[Piece]:
    """The leaves of the trie over all records of a sorted corpus, refused ones included."""
    stamped = [np.frombuffer(lake.store.read(f"{path}.stamps"), dtype=np.uint64) for path in one.folded]
    slices = [array.reshape(4, -1) for array in stamped]
    together = np.concatenate([_stamped(one.gone, lake), *slices], axis=1)
    everyone, stamps, said, asked = together[:, np.argsort(together[0], kind="stable")]
    for leaf in leaves(everyone, one.corpus.cap):
        low, high = everyone[leaf.begin], everyone[leaf.end - 1]
        parts = []
        for path, mine in zip(one.folded, slices, strict=True):
            begin = int(np.searchsorted(mine[0], low, side="left"))
            end = int(np.searchsorted(mine[0], high, side="right"))
            if begin < end:
                parts.append((f"{path}.arrow", begin, end))
        what = one.corpus.of_media()  # stamps hold all else
        rows = slice(leaf.begin, leaf.end)
        inputs = [FORMAT, ORDER, what, leaf.name, digest(np.sort(stamps[rows]).tobytes())]
        yield Piece(leaf.name, tuple(parts), inputs, everyone[rows], said[rows], asked[rows])


def _stamped(gone: Stored | None, lake: Lake) -> Hashes:
    """What was taken down as columns of draw and stamp; it says nothing and asks nothing."""
    rows = get_table(lake.store, gone).to_pylist() if gone else []
    columns = [(row["draw"], checksum(canonical(row)), 0, 0) for row in rows]
    return np.array(columns, dtype=np.uint64).reshape(-1, 4).T

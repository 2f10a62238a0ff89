"""Keys of samples as numbers: thirty million of them take half a gigabyte, and are compared eight bytes at a time.

A key is the 32 hex digits of two numbers of 64 bits: the sample's draw, and what tells it from another of the same
draw. What is spelt otherwise, capitals included, is no key, and becomes two zeros.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tarsia.builders.columns import Words, words
from tarsia.builders.tables import packed
from tarsia.schemas.errors import Corrupt

Bools = npt.NDArray[np.bool_]

_SPELT = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Keys:
    """Some keys: the draw that each begins with, and the rest of it. Two arrays of the same length."""

    draws: npt.NDArray[np.uint64]
    tails: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.draws)

    def __getitem__(self, part: Any) -> "Keys":
        return Keys(self.draws[part], self.tails[part])

    def same(self, others: "Keys") -> Bools:
        """Which of these are what the others are at the same place."""
        same: Bools = (self.draws == others.draws) & (self.tails == others.tails)
        return same

    def rising(self) -> bool:
        """Whether each is greater than the one before it."""
        draws, tails = self.draws, self.tails
        higher = draws[1:] > draws[:-1]
        return bool(higher.all() or (higher | ((draws[1:] == draws[:-1]) & (tails[1:] > tails[:-1]))).all())

    def text(self, number: int) -> str:
        """One of them as it is written."""
        return f"{int(self.draws[number]):016x}{int(self.tails[number]):016x}"


def keys_of(array: pa.Array) -> Keys:
    """A column of keys."""
    return keys_in(words_of(array))


def keys_in(spelt: Words) -> Keys:
    """Keys from two big-endian numbers each, (n, 2)."""
    return Keys(spelt[:, 0].astype(np.uint64), spelt[:, 1].astype(np.uint64))


def words_of(array: pa.Array) -> Words:
    """A column of keys, UUIDs or text, as two big-endian numbers each, (n, 2)."""
    if array.type == pa.uuid():
        return words(array.storage.fill_null(bytes(16)) if array.null_count else array.storage)
    try:
        return words(packed(array, 16))
    except Corrupt:
        texts = array.to_pylist()
        return words(packed(pa.array([key if _SPELT.fullmatch(key or "") else "" for key in texts], pa.string()), 16))

"""Who a sample is, and every chance decision about it: hashes of identity and purpose, nothing else.

A sample's **key** is 32 hex digits: XXH3-128 of its corpus and its identity. The first 16 digits, read as an unsigned
64-bit number, are its **draw**: a point on a circle of 2**64 steps, where shards are sorted and shares are arcs. Any
other coin (is this question spoken? by whose voice?) is a second draw, mixed from the first with a purpose, so that no
random state, worker count or file order ever enters, and 22 million of them take a second in numpy.

Three hashes, each for one thing:
- XXH3-128 for keys and XXH3-64 for checksums (fast, not adversarial: they name and they notice broken bytes);
- BLAKE3 for digests of content (objects, media, settings, records), where equal must mean equal;
- the finaliser of splitmix64 (Steele, Lea & Flood 2014) for second draws, because it is four lines in any language.

`tests/test_order.py` holds golden values: changing anything here is an ORDER change and needs a changelog entry.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import orjson
import xxhash
from blake3 import blake3

CIRCLE = 1 << 64  # steps of the draw circle
COMPOSED = r"(#[0-9a-f]{12})?(#\d+)?$"  # what identity adds to ids that several records have, as a regular expression
_MASK = CIRCLE - 1
_GOLDEN = 0x9E3779B97F4A7C15

Draws = npt.NDArray[np.uint64]
T = TypeVar("T")


def key_of(corpus: str, identity: str) -> str:
    """The key of a sample: 32 hex digits, the same wherever and whenever it is computed."""
    return xxhash.xxh3_128_hexdigest(f"tarsia\0{corpus}\0{identity}".encode())


def draw_of(key: str) -> int:
    """The place of a key on the circle, 0 <= draw < 2**64: its first 16 hex digits."""
    return int(key[:16], 16)


def start(seed: int) -> int:
    """Where the circle begins for a recipe's seed: every share of that seed is an arc from here."""
    return xxhash.xxh3_64_intdigest(f"tarsia\0start\0{seed}".encode())


def redraw(draw: int, purpose: str, ordinal: int = 0) -> int:
    """A second, independent draw for a purpose; `ordinal` tells turns or copies of one sample apart."""
    return _mix(_mix(draw ^ _purpose(purpose)) + ordinal * _GOLDEN & _MASK)


def pick(choices: Sequence[T], key: str, purpose: str) -> T:
    """One of several, by the draw of a key for a purpose; each as likely as the others."""
    return choices[redraw(draw_of(key), purpose) * len(choices) // CIRCLE]


def redraws(draws: Draws, purpose: str, ordinals: Draws | int = 0) -> Draws:
    """`redraw` over arrays: uint64 in, uint64 out, the same values."""
    with np.errstate(over="ignore"):
        first = _mix_array(draws ^ np.uint64(_purpose(purpose)))
        steps: Draws = np.asarray(ordinals, dtype=np.uint64) * np.uint64(_GOLDEN)
        return _mix_array(first + steps)


def _purpose(purpose: str) -> int:
    return xxhash.xxh3_64_intdigest(f"tarsia\0{purpose}".encode())


def _mix(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _MASK
    return x ^ x >> 31


def _mix_array(x: Draws) -> Draws:
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes, whatever file they came from."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def digest(data: bytes) -> str:
    """BLAKE3 of some content, 64 hex digits. Names of objects carry the first 8."""
    return blake3(data).hexdigest()


def digest_of(value: Any) -> str:
    """The digest of a JSON-like value, through its canonical bytes."""
    return digest(canonical(value))


def checksum(data: bytes | memoryview) -> int:
    """XXH3-64 of a byte range: what a reader verifies on every read."""
    return xxhash.xxh3_64_intdigest(data)

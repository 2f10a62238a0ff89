"""Which images look alike: a 64-bit perceptual hash (pHash, by the library ImageHash), and all pairs within 4 bits.

A picture that was encoded anew, resized or turned grey keeps its hash but for a few bits; two pictures of photographs
are about 32 bits apart. `docs/decisions/13-alike.md` has the figures that the threshold was chosen by.

An image without structure (one colour, a ramp) has a hash that says nothing: its DCT has no terms to speak of. Such an
image stands for itself alone, by its digest.

All pairs are found without comparing all with all. Cut into 6 blocks, two hashes that differ in 4 bits at most agree in
2 blocks or more: for each of the 15 choices of 2 blocks the hashes are sorted by them, and only runs of equals are
compared. Nothing within the threshold is missed. The cost is 15 sorts and, of n hashes, about n² / 2²² comparisons.
"""

import io
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tarsia.schemas.errors import MissingExtra

BITS = 4  # of 64 in which two images that are alike differ at most
_SIDE = 128  # pixels that are enough for a hash of 32 x 32; JPEG decodes to no less, an eighth at the smallest
_PLAIN = 8  # ones fewer or more than half: the hash of an image without structure
_WITH_ALPHA = ("P", "LA", "PA", "RGBA")
_BLOCKS = BITS + 2
_EDGES = [64 * block // _BLOCKS for block in range(_BLOCKS + 1)]
_MASKS = [(1 << high) - (1 << low) for low, high in pairwise(_EDGES)]


def hash_of(image: bytes, digest: str) -> int:
    """The 64 bits of an image. Raises what Pillow raises where it cannot be decoded."""
    hashing = _library()
    with Image.open(io.BytesIO(image)) as opened:
        opened.draft("L", (_SIDE, _SIDE))
        bits = hashing.phash(_on_white(opened) if opened.mode in _WITH_ALPHA else opened).hash
    if abs(int(bits.sum()) - 32) > _PLAIN:
        return int(digest[:16], 16)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _on_white(image: Image.Image) -> Image.Image:
    """What shows through is taken for white; colours that nobody sees would count else."""
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))


def _library() -> Any:
    try:
        import imagehash
    except ModuleNotFoundError as error:
        raise MissingExtra("imagehash", "near") from error
    return imagehash


def are_alike(left: int, right: int) -> bool:
    """Whether two hashes are within the threshold."""
    return (left ^ right).bit_count() <= BITS


def pairs_alike(hashes: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """All pairs of different, sorted hashes that are within the threshold, as two arrays of their numbers."""
    found = [np.empty(0, np.int64)]
    for masks in combinations(_MASKS, _BLOCKS - BITS):
        part = hashes & np.uint64(sum(masks))
        order = np.argsort(part, kind="stable")
        part, sorted_ = part[order], hashes[order]
        here, step = np.arange(len(hashes)), 1
        while len(here):
            here = here[: np.searchsorted(here, len(hashes) - step)]
            here = here[part[here] == part[here + step]]
            near = here[_within(sorted_[here] ^ sorted_[here + step])]
            left, right = order[near], order[near + step]
            found.append(np.minimum(left, right) * len(hashes) + np.maximum(left, right))
            step += 1
    pairs = np.unique(np.concatenate(found))
    return pairs // max(1, len(hashes)), pairs % max(1, len(hashes))


def _within(different: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Where no more than `BITS` bits are set: the lowest is taken away so many times."""
    for _ in range(BITS):
        different = different & (different - np.uint64(1))  # of zero stays zero
    few: npt.NDArray[np.bool_] = different == 0
    return few

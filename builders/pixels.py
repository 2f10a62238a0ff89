"""Pictures as the vision encoder sees them: squares of 448 pixels, cut from image bytes as `tokens.py` counts them.

An image is stretched to the grid of tiles whose shape is nearest, cut row by row, and followed by the whole image in
one square where it has several tiles (InternVL's dynamic preprocessing). The frames of a video are not tiled: their
shorter side becomes 448 pixels and the middle is kept, as the CLIP processor does with which VITA prepares them. Both
are bicubic, Pillow's default, and exact: no reduced decoding of large JPEGs, whose pixels differ.

Squares stay 8-bit, a quarter of the bytes to move to a device; `MEAN` and `STD` are those of ImageNet, which InternViT
was trained with, and are applied on the device (`normalised` in `manifests/dataset.py`).
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tarsia.builders.images import rgb
from tarsia.builders.tokens import TILE, grid
from tarsia.schemas.errors import Refused

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of red, green and blue from 0 to 1, over ImageNet
BLANK = 124  # the grey nearest to MEAN: what a square shows that cannot be decoded

Squares = NDArray[np.uint8]  # (squares, 448, 448, 3): rows from the top, red green blue


def image_tiles(data: bytes, size: tuple[int, int], *, most: int, thumbnail: bool) -> Squares:
    """The tiles of an image, then its thumbnail: as many as `tiles` counts for `size`, the width and height on record.

    Raises `Refused` where the bytes are no whole image.
    """
    cols, rows = grid(*size, most)
    with _decoding():
        image = rgb(Image.open(io.BytesIO(data)))
        whole = image.resize((cols * TILE, rows * TILE), Image.Resampling.BICUBIC)
        squares = np.empty((cols * rows + (thumbnail and cols * rows > 1), TILE, TILE, 3), np.uint8)
        for number in range(cols * rows):
            top, left = (TILE * at for at in divmod(number, cols))
            squares[number] = np.asarray(whole.crop((left, top, left + TILE, top + TILE)))
        if len(squares) > cols * rows:
            squares[-1] = np.asarray(image.resize((TILE, TILE), Image.Resampling.BICUBIC))
    return squares


def frame_square(data: bytes) -> NDArray[np.uint8]:
    """The one square of a video frame, (448, 448, 3). Raises `Refused` where the bytes are no whole image."""
    with _decoding():
        image = rgb(Image.open(io.BytesIO(data)))
        short = min(image.size)
        width, height = (TILE * side // short for side in image.size)
        left, top = (width - TILE) // 2, (height - TILE) // 2
        near = image.resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(near.crop((left, top, left + TILE, top + TILE)))


@contextmanager
def _decoding() -> Iterator[None]:
    """Pillow's decoders raise what broken bytes lead them to."""
    try:
        yield
    except (MemoryError, AssertionError):
        raise
    except Exception as error:
        raise Refused("media-unreadable", f"{type(error).__name__}: {error}") from error

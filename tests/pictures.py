"""Pictures with structure, as a perceptual hash needs them."""

import io

import numpy as np
from PIL import Image


def picture(number: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """A picture of soft blots, another for another number."""
    blots = np.random.default_rng(number).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(blots).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, form: str = "JPEG", **options: int) -> bytes:
    """The bytes of an image file."""
    data = io.BytesIO()
    image.save(data, form, **({"quality": 90} | options if form == "JPEG" else options))
    return data.getvalue()

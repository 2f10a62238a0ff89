"""Squares of pixels: as many as were counted, as Pillow cuts them, in the colours that a person sees."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tarsia.builders.images import read_image
from tarsia.builders.pixels import frame_square, image_tiles
from tarsia.builders.tokens import grid, tiles
from tarsia.schemas.errors import Refused


def stored(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def photo(width, height):
    """Every pixel another colour than its neighbours."""
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([across * 3 % 256, down * 5 % 256, (across ^ down) % 256], -1).astype(np.uint8))


def colour(data, **rule):
    """The colour in the middle of the only square."""
    size = read_image(data, "it")[1:3]
    squares = image_tiles(data, size, most=1, thumbnail=True, **rule)
    assert squares.shape == (1, 448, 448, 3)
    return tuple(squares[0, 224, 224].tolist())


@settings(max_examples=25)
@given(st.integers(1, 120), st.integers(1, 120), st.integers(1, 12), st.booleans())
def test_there_are_as_many_squares_as_the_planner_counts(width, height, most, thumbnail):
    data = stored(Image.new("RGB", (width, height), "teal"))
    squares = image_tiles(data, (width, height), most=most, thumbnail=thumbnail)
    assert squares.shape == (tiles(width, height, most=most, thumbnail=thumbnail), 448, 448, 3)
    assert squares.dtype == np.uint8
    assert (squares == np.array([0, 128, 128], np.uint8)).all()


@pytest.mark.parametrize("size", [(640, 480), (300, 700), (448, 448), (1300, 90)])
def test_squares_are_what_pillow_cuts_row_by_row_and_the_thumbnail_is_last(size):
    data = stored(photo(*size), "JPEG", quality=90)
    image, (cols, rows) = Image.open(io.BytesIO(data)), grid(*size, 12)
    whole = image.resize((cols * 448, rows * 448), Image.Resampling.BICUBIC)
    corners = [(col * 448, row * 448) for row in range(rows) for col in range(cols)]
    cut = [whole.crop((left, top, left + 448, top + 448)) for left, top in corners]
    cut += [image.resize((448, 448), Image.Resampling.BICUBIC)] * (len(cut) > 1)
    assert np.array_equal(image_tiles(data, size, most=12, thumbnail=True), np.stack([np.asarray(one) for one in cut]))


def test_a_frame_is_the_middle_of_the_picture_its_shorter_side_filling_the_square():
    wide = Image.new("RGB", (800, 448), "red")
    wide.paste("blue", (176, 0, 624, 448))
    assert (frame_square(stored(wide)) == np.array([0, 0, 255], np.uint8)).all()
    tall = frame_square(stored(photo(30, 64)))
    near = photo(30, 64).resize((448, 955), Image.Resampling.BICUBIC).crop((0, 253, 448, 701))
    assert np.array_equal(tall, np.asarray(near))


def palette(transparent=None):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    if transparent is not None:
        image.info["transparency"] = transparent
    return image


def deep(value):
    return Image.fromarray(np.full((8, 8), value, np.uint16))


def moving():
    first, second = (Image.new("RGB", (8, 8), name) for name in ("lime", "red"))
    return stored(first, "GIF", save_all=True, append_images=[second])


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (stored(Image.new("L", (8, 8), 77)), (77, 77, 77)),
        (stored(Image.new("1", (8, 8), 1)), (255, 255, 255)),
        (stored(palette()), (0, 0, 255)),
        (stored(palette(transparent=1), transparency=1), (255, 255, 255)),
        (stored(Image.new("RGBA", (8, 8), (255, 0, 0, 0))), (255, 255, 255)),
        (stored(Image.new("RGBA", (8, 8), (255, 0, 0, 255))), (255, 0, 0)),
        (stored(Image.new("RGBA", (8, 8), (0, 0, 0, 51))), (204, 204, 204)),
        (stored(Image.new("LA", (8, 8), (0, 0))), (255, 255, 255)),
        (stored(deep(0x8000)), (128, 128, 128)),
        (stored(deep(0xFFFF)), (255, 255, 255)),
        (stored(deep(0x01FF)), (1, 1, 1)),
        (stored(deep(0x8000), "TIFF"), (128, 128, 128)),
        (stored(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95), (254, 0, 0)),
        (stored(Image.new("CMYK", (8, 8), (0, 0, 0, 255)), "TIFF"), (0, 0, 0)),
        (moving(), (0, 255, 0)),
        (stored(Image.new("RGB", (8, 8), "red"), "BMP"), (255, 0, 0)),
        (stored(Image.new("RGBA", (8, 8), (255, 0, 0, 0)), "WEBP", lossless=True), (255, 255, 255)),
    ],
)  # fmt: skip
def test_every_kind_of_image_is_the_colour_that_a_person_sees(data, seen):
    assert colour(data) == pytest.approx(seen, abs=1)


@pytest.mark.parametrize("cut", [0.3, 0.9])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_an_image_that_breaks_off_is_refused(form, cut):
    data = stored(photo(200, 200), form)
    broken = data[: int(len(data) * cut)]
    with pytest.raises(Refused, match="media-unreadable"):
        image_tiles(broken, (200, 200), most=1, thumbnail=True)
    with pytest.raises(Refused, match="media-unreadable"):
        frame_square(broken)


def test_the_size_on_record_decides_even_where_an_image_turns_itself():
    """TIFF files that say how they are held are turned by Pillow; the grid was counted before."""
    turned = stored(photo(90, 30), "TIFF", tiffinfo={274: 6})
    size = read_image(turned, "it")[1:3]
    squares = image_tiles(turned, size, most=12, thumbnail=True)
    assert len(squares) == tiles(*size, most=12, thumbnail=True)

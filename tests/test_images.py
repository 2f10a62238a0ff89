import io
import struct
import zlib

import pytest
from PIL import Image

from tarsia.builders.images import read_image
from tarsia.schemas.errors import Refused


def picture(kind, size=(64, 48), **options):
    file = io.BytesIO()
    Image.effect_noise(size, 50).convert("RGB").save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "extension"),
    [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("GIF", "gif"), ("BMP", "bmp"), ("TIFF", "tif")],
)
def test_format_and_size_are_read(kind, extension):
    assert read_image(picture(kind), "a")[:3] == (extension, 64, 48)


def test_progressive_and_grey_jpegs_are_read():
    assert read_image(picture("JPEG", progressive=True, optimize=True), "a") == ("jpg", 64, 48)
    file = io.BytesIO()
    Image.new("L", (33, 44)).save(file, "JPEG")
    assert read_image(file.getvalue(), "a")[:3] == ("jpg", 33, 44)


def test_an_exif_thumbnail_is_not_taken_for_the_image_and_orientation_is_not_applied():
    thumbnail = picture("JPEG", (16, 12))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    data = picture("JPEG", (640, 480), exif=exif, comment=thumbnail)
    assert read_image(data, "a")[:3] == ("jpg", 640, 480)
    assert read_image(picture("JPEG", exif=exif), "a") == ("jpg", 64, 48)


def test_a_truncated_jpeg_is_refused_even_with_a_whole_thumbnail_in_it():
    data = picture("JPEG", (640, 480), comment=picture("JPEG", (16, 12)))
    with pytest.raises(Refused, match=r"image-truncated: photos/a\.jpg: the JPEG has no end"):
        read_image(data[: len(data) // 2], "photos/a.jpg")


def test_bytes_after_the_end_do_no_harm():
    assert read_image(picture("JPEG") + b"\0" * 5000, "a")[:3] == ("jpg", 64, 48)
    assert read_image(picture("PNG") + b"\0" * 5000, "a")[:3] == ("png", 64, 48)


def test_padding_between_jpeg_segments_is_skipped():
    data = picture("JPEG")
    assert read_image(data[:2] + b"\xff\xff\xff" + data[2:], "a")[:3] == ("jpg", 64, 48)


@pytest.mark.parametrize("size", [3, 10, 40])
def test_a_jpeg_that_ends_in_its_header_is_truncated(size):
    with pytest.raises(Refused, match="image-truncated"):
        read_image(picture("JPEG")[:size], "a")


@pytest.mark.parametrize("data", [b"\xff\xd8\xff\xd9" * 9, b"\xff\xd8" + b"\0" * 90, b"\xff\xd8\xff\xe0\0\0" * 9])
def test_a_jpeg_without_a_frame_is_unknown(data):
    with pytest.raises(Refused, match="image-unknown"):
        read_image(data, "a")


def test_a_truncated_png_is_refused():
    with pytest.raises(Refused, match="image-truncated"):
        read_image(picture("PNG")[:-1], "a")


def test_what_is_no_image_is_refused():
    with pytest.raises(Refused, match="image-empty"):
        read_image(b"", "a")
    with pytest.raises(Refused, match="image-unknown"):
        read_image(b"<html>404</html>", "a")
    with pytest.raises(Refused, match="image-unknown"):
        read_image(picture("WEBP")[:30], "a")


def test_strips_longer_than_twelve_to_one_are_refused():
    assert read_image(picture("PNG", (120, 10)), "a")[:3] == ("png", 120, 10)
    assert read_image(picture("PNG", (10, 120)), "a")[:3] == ("png", 10, 120)
    with pytest.raises(Refused, match="image-ratio: a: 121 x 10 is longer than 12:1"):
        read_image(picture("PNG", (121, 10)), "a")
    with pytest.raises(Refused, match="image-ratio"):
        read_image(picture("JPEG", (10, 121)), "a")


def png_that_claims(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_decompression_bombs_are_refused_and_large_scans_are_not():
    assert read_image(png_that_claims(13_370, 13_380), "a")[:3] == ("png", 13_370, 13_380)
    with pytest.raises(Refused, match="image-huge"):
        read_image(png_that_claims(13_380, 13_380), "a")
    gif = bytearray(picture("GIF"))
    gif[6:10] = struct.pack("<HH", 10_000, 10_000)  # Pillow warns
    assert read_image(bytes(gif), "a")[:3] == ("gif", 10_000, 10_000)
    gif[6:10] = struct.pack("<HH", 20_000, 20_000)  # Pillow raises
    with pytest.raises(Refused, match="image-huge"):
        read_image(bytes(gif), "a")


def test_an_image_of_no_pixels_is_unknown():
    with pytest.raises(Refused, match="image-unknown"):
        read_image(png_that_claims(0, 10), "a")

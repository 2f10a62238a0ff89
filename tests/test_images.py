import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from tarsia.builders.images import read_image, store_image
from tarsia.schemas.corpus import Images
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
    assert read_image(picture("JPEG", progressive=True, optimize=True), "a") == ("jpg", 64, 48, (), 1)
    file = io.BytesIO()
    Image.new("L", (33, 44)).save(file, "JPEG")
    assert read_image(file.getvalue(), "a") == ("jpg", 33, 44, (), 1)


def test_an_exif_thumbnail_is_not_taken_for_the_image_and_orientation_is_not_applied():
    thumbnail = picture("JPEG", (16, 12))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    data = picture("JPEG", (640, 480), exif=exif, comment=thumbnail)
    assert read_image(data, "a")[:3] == ("jpg", 640, 480)
    assert read_image(picture("JPEG", exif=exif), "a") == ("jpg", 64, 48, ("turned",), 6)


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


# --- traits: one made file of each sort -----------------------------------------------------------------------------


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def scene(size=(64, 48)):
    """Red above, blue below, with a green square in the upper left corner: every turn of it looks different."""
    image = Image.new("RGB", size, "blue")
    image.paste("red", (0, 0, size[0], size[1] // 2))
    image.paste("lime", (0, 0, 16, 16))
    return image


def turned(number):
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def deep_grey():
    return Image.fromarray(np.linspace(0, 65_535, 64 * 48).reshape(48, 64).astype(np.uint16))


def deep_png(colour, channels):
    """A PNG of 16 bits in each channel, which Pillow cannot write: a ramp."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    ramp = np.linspace(0, 65_535, 48 * 64 * channels).reshape(48, 64 * channels).astype(">u2")
    lines = b"".join(b"\0" + line.tobytes() for line in ramp)
    header = struct.pack(">IIBBBBB", 64, 48, 16, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def see_through(mode="RGBA"):
    image = scene().convert("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    return image.convert(mode)


def several(kind, **options):
    return saved(scene(), kind, save_all=True, append_images=[ImageOps.invert(scene())], **options)


SORTS = {
    "rgb jpeg": (lambda: saved(scene(), "JPEG"), ()),
    "grey jpeg": (lambda: saved(scene().convert("L"), "JPEG"), ()),
    "progressive jpeg": (lambda: saved(scene(), "JPEG", progressive=True), ()),
    "cmyk jpeg": (lambda: saved(scene().convert("CMYK"), "JPEG"), ("CMYK",)),
    "turned jpeg": (lambda: saved(scene(), "JPEG", exif=turned(6)), ("turned",)),
    "mirrored png": (lambda: saved(scene(), "PNG", exif=turned(2)), ("turned",)),
    "turned webp": (lambda: saved(scene(), "WEBP", exif=turned(8)), ("turned",)),
    "grey png of 16 bits": (lambda: saved(deep_grey(), "PNG"), ("16 bits grey",)),
    "grey tiff of 16 bits": (lambda: saved(deep_grey(), "TIFF"), ("16 bits grey",)),
    "rgb png of 16 bits": (lambda: deep_png(2, 3), ("16 bits",)),
    "rgba png of 16 bits": (lambda: deep_png(6, 4), ("16 bits", "transparent")),
    "palette png": (lambda: saved(scene().quantize(8), "PNG"), ("palette",)),
    "palette png with a clear colour": (
        lambda: saved(scene().quantize(8), "PNG", transparency=0),
        ("palette", "transparent"),
    ),
    "transparent png": (lambda: saved(see_through(), "PNG"), ("transparent",)),
    "transparent grey png": (lambda: saved(see_through("LA"), "PNG"), ("transparent",)),
    "transparent webp": (lambda: saved(see_through(), "WEBP", lossless=True, exact=True), ("transparent",)),
    "single bits": (lambda: saved(scene().convert("1"), "PNG"), ()),
    "gif": (lambda: saved(scene().quantize(8), "GIF"), ("palette",)),
    "animated gif": (lambda: several("GIF"), ("palette", "several pictures")),
    "animated png": (lambda: several("PNG"), ("several pictures",)),
    "animated webp": (lambda: several("WEBP", lossless=True), ("several pictures",)),
    "tiff of two pages": (lambda: several("TIFF"), ("several pictures",)),
    "cmyk tiff": (lambda: saved(scene().convert("CMYK"), "TIFF"), ("CMYK",)),
    "bmp": (lambda: saved(scene(), "BMP"), ()),
}


@pytest.mark.parametrize("sort", SORTS)
def test_the_header_tells_what_a_trainer_would_stumble_over(sort):
    make, traits = SORTS[sort]
    header = read_image(make(), "a")
    assert set(header.traits) == set(traits)
    assert (header.width, header.height) == (64, 48)


@pytest.mark.parametrize("sort", SORTS)
def test_without_a_rule_every_sort_is_stored_byte_for_byte_or_refused(sort):
    data = SORTS[sort][0]()
    if "16 bits grey" in SORTS[sort][1]:
        with pytest.raises(Refused, match=r"image-depth: a: 16 bits of grey, of which loaders make white"):
            store_image(data, Images(deep=True), "a")
        return
    header, stored = store_image(data, Images(deep=True), "a")
    assert (stored.data, stored.header, stored.changes) == (data, header, ())


def as_seen(data):
    """What a person sees: the first picture, upright, on white paper."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        if image.mode == "I;16":
            return Image.fromarray((np.asarray(image) // 256).astype(np.uint8)).convert("RGB")
        upright = ImageOps.exif_transpose(image).convert("RGBA")
        paper = Image.new("RGBA", upright.size, "white")
        return Image.alpha_composite(paper, upright).convert("RGB")


def differ(one, other):
    return np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).mean()


@pytest.mark.parametrize("sort", SORTS)
def test_by_the_rules_every_sort_comes_out_of_convert_as_a_person_sees_it(sort):
    make, traits = SORTS[sort]
    data = make()
    _, stored = store_image(data, Images(deep=True, rgb=True, upright=True), "a")
    with Image.open(io.BytesIO(stored.data)) as image:
        assert image.size == (stored.header.width, stored.header.height) == as_seen(data).size
        assert differ(image.convert("RGB"), as_seen(data)) < 4
    assert set(stored.header.traits) == set()
    assert stored.changes == ("made upright",) * ("turned" in traits) + ("made RGB",) * bool(set(traits) - {"turned"})
    assert store_image(data, Images(rgb=True, upright=True), "b")[1] == stored  # the same bytes each time
    if not traits:
        assert stored.data == data


def test_what_is_changed_without_loss_is_the_same_to_the_pixel():
    for sort in ("palette png", "transparent png", "animated gif", "grey png of 16 bits"):
        data = SORTS[sort][0]()
        _, stored = store_image(data, Images(rgb=True), "a")
        assert stored.header.extension == "png"
        with Image.open(io.BytesIO(stored.data)) as image:
            assert differ(image, as_seen(data)) == 0


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("subsampling", [0, 2])
def test_an_upright_jpeg_keeps_nearly_all_that_it_had(orientation, subsampling):
    picture_ = Image.effect_noise((96, 64), 40).convert("RGB")
    data = saved(picture_, "JPEG", quality=70, subsampling=subsampling, exif=turned(orientation))
    header, stored = store_image(data, Images(upright=True), "a")
    assert (header.width, header.height, header.orientation) == (96, 64, orientation)
    assert (stored.header.extension, stored.header.orientation) == ("jpg", 1)
    with Image.open(io.BytesIO(stored.data)) as image:
        assert differ(image, as_seen(data)) < 0.6  # a second JPEG of quality 70 would be off by 3 and more
        assert "exif" not in image.info


def test_longer_images_are_shrunk_and_others_left_alone():
    data = saved(scene((600, 150)), "JPEG", quality=90)
    header, stored = store_image(data, Images(longest=300), "a")
    assert (header.width, stored.header.width, stored.header.height, stored.changes) == (600, 300, 75, ("shrunk",))
    assert store_image(data, Images(longest=600), "a")[1].data == data
    palette = saved(scene((600, 150)).quantize(8), "PNG")
    with Image.open(io.BytesIO(store_image(palette, Images(longest=300), "a")[1].data)) as image:
        assert (image.mode, image.size) == ("RGB", (300, 75))
        assert differ(image, scene((600, 150)).resize((300, 75), Image.Resampling.LANCZOS)) < 1


def test_a_colour_profile_stays_with_its_colours():
    profile = b"not read by anybody here" * 9
    data = saved(scene((600, 150)), "JPEG", icc_profile=profile)
    with Image.open(io.BytesIO(store_image(data, Images(longest=300), "a")[1].data)) as image:
        assert image.info["icc_profile"] == profile
    data = saved(scene().convert("CMYK"), "JPEG", icc_profile=profile)
    with Image.open(io.BytesIO(store_image(data, Images(rgb=True), "a")[1].data)) as image:
        assert "icc_profile" not in image.info


@pytest.mark.parametrize("mode", ["I", "F"])
def test_numbers_without_a_range_are_no_picture(mode):
    data = saved(Image.new(mode, (64, 48), 7), "TIFF")
    with pytest.raises(Refused, match="image-depth: a: numbers without a range"):
        read_image(data, "a")


@pytest.mark.parametrize(("marker", "bits"), [(0xC3, 8), (0xC5, 8), (0xC0, 12)])
def test_jpegs_that_no_loader_decodes_are_refused_by_their_header(marker, bits):
    data = bytearray(picture("JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 1], data[at + 4] = marker, bits
    with pytest.raises(Refused, match="image-depth: a: a JPEG of a sort"):
        read_image(bytes(data), "a")


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_orientation_is_found_among_other_tags_in_either_order_of_bytes(order):
    tags = [(0x010F, 2, 2, 0x4100), (0x0112, 3, 1, 8), (0x011A, 5, 1, 0)]
    entries = b"".join(struct.pack(f"{order}HHIHH", *tag, 0) for tag in tags)
    tiff = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags)) + entries + bytes(4)
    segment = b"Exif\0\0" + tiff
    data = picture("JPEG")
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(segment)) + segment + data[2:]
    with Image.open(io.BytesIO(data)) as image:
        assert image.getexif()[0x0112] == read_image(data, "a").orientation == 8


def test_broken_exif_is_an_image_upright():
    data = picture("JPEG")
    segment = b"Exif\0\0II*\0" + os.urandom(40)
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(segment)) + segment + data[2:]
    header = read_image(data, "a")
    assert (header.width, header.height) == (64, 48)
    assert 1 <= header.orientation <= 8


# --- pixels ---------------------------------------------------------------------------------------------------------

LARGE = (320, 240)


def deep(data):
    return store_image(data, Images(deep=True), "a")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 4}])
def test_a_scan_that_breaks_off_is_found_by_decoding_alone(options):
    data = picture("JPEG", LARGE, **options)
    broken = data[: len(data) // 2] + b"\xff\xd9"
    assert store_image(broken, Images(), "a")[1].data == broken
    with pytest.raises(Refused, match="image-truncated: a: the JPEG's scan breaks off"):
        deep(broken)
    assert deep(data)[1].data == data


def test_what_stands_behind_a_whole_picture_is_no_fault_of_it():
    assert deep(picture("JPEG", LARGE) + b"\0" * 999)[1].changes == ()
    assert deep(picture("PNG", LARGE) + b"\0" * 999)[1].changes == ()


@pytest.mark.parametrize("options", [{"kind": "PNG"}, {"kind": "TIFF", "compression": "tiff_adobe_deflate"}])
def test_broken_data_are_found_by_decoding(options):
    waves = np.sin(np.arange(240)[:, None] * np.arange(320) / 900) * 127 + 128
    data = bytearray(saved(Image.fromarray(waves.astype(np.uint8)), **options))
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(range(190, 254))
    with pytest.raises(Refused, match="image-corrupt"):
        deep(bytes(data))


@pytest.mark.parametrize("kind", ["GIF", "BMP", "WEBP"])
def test_pictures_cut_short_are_found_by_decoding(kind):
    data = picture(kind, LARGE)
    with pytest.raises(Refused, match="image-"):
        deep(data[: len(data) // 2])


def test_pixels_that_a_png_only_claims_are_missed_by_decoding():
    with pytest.raises(Refused, match=r"image-(truncated|corrupt)"):
        deep(png_that_claims(300, 200))


def test_a_bomb_is_refused_before_a_pixel_is_decoded():
    with pytest.raises(Refused, match="image-huge"):
        deep(png_that_claims(20_000, 20_000))

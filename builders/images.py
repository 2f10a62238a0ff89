"""Images: what their first bytes tell, whether their pixels are all there, and the few changes a catalog may ask for.

**Headers** are read always: format, size, whether the file is whole, and what a trainer might stumble over (`traits`).
JPEG and PNG, which are nearly everything, are read here: a walk over JPEG's markers takes 1.5 µs, a tenth of Pillow's
time. Other formats go through Pillow, which opens lazily too.

**Pixels** are decoded where the catalog says `images: {deep: true}`. Pillow, which trainers decode with, finds broken
data, but fills in with grey what a JPEG's scan does not hold; FFmpeg's decoder is asked about that.

**Changes**: images are stored byte for byte, and sizes are those of the stored pixels: an EXIF orientation is not
applied, as VITA's loaders do not apply it either. Only rules of the catalog (`upright`, `rgb`, `longest`) write images
anew: a JPEG with the quantisation tables it had, so that little is lost, everything else as PNG, which loses nothing.
`docs/media.md` has a table of what becomes of each sort of image.
"""

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import av
import numpy as np
from PIL import Image, ImageOps, JpegImagePlugin

from tarsia.schemas.corpus import Images
from tarsia.schemas.errors import Refused

RATIO = 12  # VITA's own check: sides from 1:12 to 12:1
PIXELS = 178_956_970  # beyond this Pillow calls an image a decompression bomb; decoded, it takes four bytes for each

_OTHERS = {"WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif", "AVIF": "avif", "JPEG2000": "jp2"}
_ORIENTATION = 0x0112  # EXIF's tag: 1 is upright, 2 to 8 are turned or mirrored
_SHORT = 3  # EXIF's type of it

CMYK, DEEP, DEEP_GREY, PALETTE = "CMYK", "16 bits", "16 bits grey", "palette"
TRANSPARENT, SEVERAL, TURNED = "transparent", "several pictures", "turned"
_NOT_RGB = frozenset({CMYK, DEEP, DEEP_GREY, PALETTE, TRANSPARENT, SEVERAL})  # what the rule `rgb` changes


class ImageHeader(NamedTuple):
    """What the first bytes tell: the extension that a member of this format bears, and the size in pixels.

    `traits`: what makes it other than plain RGB or grey, upright. `orientation`: as EXIF counts it, from 1.
    """

    extension: str
    width: int
    height: int
    traits: tuple[str, ...] = ()
    orientation: int = 1


class StoredImage(NamedTuple):
    """An image as it is stored, and what was done to it: `made upright`, `made RGB`, `shrunk`; mostly nothing."""

    data: bytes
    header: ImageHeader
    changes: tuple[str, ...]


def read_image(data: bytes, where: str) -> ImageHeader:
    """The header of an image that can be used, or `Refused`."""
    if not data:
        raise Refused("image-empty", f"{where}: no bytes")
    if data.startswith(b"\xff\xd8"):
        header = _jpeg(data, where)
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        header = _png(data, where)
    else:
        header = _other(data, where)
    width, height = header.width, header.height
    if width * height > PIXELS:
        raise Refused("image-huge", f"{where}: {width} x {height} pixels")
    if not width or not height:
        raise Refused("image-unknown", f"{where}: {width} x {height} pixels")
    if max(width, height) > RATIO * min(width, height):
        raise Refused("image-ratio", f"{where}: {width} x {height} is longer than {RATIO}:1")
    return header


def store_image(data: bytes, rules: Images, where: str) -> tuple[ImageHeader, StoredImage]:
    """The header of an image, and the image as the rules of its corpus want it stored; or `Refused`."""
    header = read_image(data, where)
    if DEEP_GREY in header.traits and not rules.rgb:
        raise Refused("image-depth", f"{where}: 16 bits of grey, of which loaders make white; the rule rgb makes it 8")
    if rules.deep:
        check_pixels(data, header, where)
    changes = tuple(_due(header, rules))
    return header, _changed(data, header, changes, rules, where) if changes else StoredImage(data, header, ())


# --- headers --------------------------------------------------------------------------------------------------------


def _jpeg(data: bytes, where: str) -> ImageHeader:
    """Walks the segments up to the frame header; the image must end with an EOI, which nothing after it can fake."""
    at, size, orientation = 2, len(data), 1
    while at + 9 <= size:
        if data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif marker in _FRAMES:
            if data.rfind(b"\xff\xd9", at) < 0:
                raise Refused("image-truncated", f"{where}: the JPEG has no end")
            if marker not in _READABLE or data[at + 4] != 8:
                raise Refused("image-depth", f"{where}: a JPEG of a sort that image libraries do not decode")
            traits = [CMYK] * (data[at + 9 : at + 10] == b"\4") + [TURNED] * (orientation != 1)
            width, height = data[at + 7] << 8 | data[at + 8], data[at + 5] << 8 | data[at + 6]
            return ImageHeader("jpg", width, height, tuple(traits), orientation)
        elif marker in _BARE:
            at += 2
        elif marker in _TOO_LATE:
            break
        else:
            length = data[at + 2] << 8 | data[at + 3]
            if marker == 0xE1 and data.startswith(b"Exif\0\0", at + 4):
                orientation = _orientation(data[at + 10 : at + 2 + length])
            at += 2 + length
    else:
        raise Refused("image-truncated", f"{where}: the JPEG ends before its size is told")
    raise Refused("image-unknown", f"{where}: a JPEG without a frame header")


_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # less Huffman tables, an extension, arithmetic conditioning
_READABLE = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}  # the rest is lossless or hierarchical, or both
_BARE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_TOO_LATE = {0xD9, 0xDA}  # the end, the scan


def _orientation(tiff: bytes) -> int:
    """The orientation that EXIF data tell; upright where they are broken. Pillow takes ten times as long."""
    order = "<" if tiff.startswith(b"II") else ">"
    try:
        (first,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, first)
        for entry in range(count):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, first + 2 + 12 * entry)
            if tag == _ORIENTATION:
                return _as_orientation(value) if kind == _SHORT else 1
    except struct.error:
        pass
    return 1


def _as_orientation(said: Any) -> int:
    return said if isinstance(said, int) and 1 <= said <= 8 else 1


def _png(data: bytes, where: str) -> ImageHeader:
    if len(data) < 33 or data.rfind(b"IEND\xaeB`\x82") < 0:
        raise Refused("image-truncated", f"{where}: the PNG has no end")
    kind, width, height, depth, colour = struct.unpack_from(">4sIIBB", data, 12)
    if kind != b"IHDR":
        raise Refused("image-unknown", f"{where}: a PNG without a header")
    at, chunks, orientation = 33, set(), 1
    while at + 12 <= len(data):  # up to the picture
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IDAT":
            break
        if kind == b"eXIf":
            orientation = _orientation(data[at + 8 : at + 8 + length])
        chunks.add(kind)
        at += 12 + length
    traits = [DEEP_GREY if colour == 0 else DEEP] * (depth == 16) + [PALETTE] * (colour == 3)
    traits += [TRANSPARENT] * (colour in (4, 6) or b"tRNS" in chunks) + [SEVERAL] * (b"acTL" in chunks)
    return ImageHeader("png", width, height, (*traits, *[TURNED] * (orientation != 1)), orientation)


def _other(data: bytes, where: str) -> ImageHeader:
    with _opened(data, where, list(_OTHERS)) as image:
        mode = image.mode
        if mode in ("I", "F"):
            raise Refused("image-depth", f"{where}: numbers without a range ({mode}), not a picture")
        traits = [CMYK] * (mode == "CMYK") + [DEEP_GREY] * mode.startswith("I;16") + [PALETTE] * (mode in ("P", "PA"))
        traits += [TRANSPARENT] * image.has_transparency_data + [SEVERAL] * bool(getattr(image, "is_animated", False))
        # Pillow turns TIFF itself, and so do those who load with it
        orientation = 1 if image.format == "TIFF" else _as_orientation(image.getexif().get(_ORIENTATION))
        traits += [TURNED] * (orientation != 1)
        return ImageHeader(_OTHERS[str(image.format)], image.width, image.height, tuple(traits), orientation)


@contextmanager
def _opened(data: bytes, where: str, formats: list[str] | None = None) -> Iterator[Image.Image]:
    """An image, opened by Pillow with nothing decoded."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=formats) as image:
            yield image
    except Refused:
        raise
    except Image.DecompressionBombError as error:
        raise Refused("image-huge", f"{where}: {error}") from None
    except Exception as error:  # Pillow's plugins raise whatever broken bytes lead them to
        raise Refused("image-unknown", f"{where}: not an image ({type(error).__name__})") from None


# --- pixels ---------------------------------------------------------------------------------------------------------


def check_pixels(data: bytes, header: ImageHeader, where: str) -> None:
    """Decodes an image (of several pictures the first) and refuses it if anything of it is missing."""
    size = _decoded(data, where)
    if size != (header.width, header.height):
        raise Refused("image-corrupt", f"{where}: {size[0]} x {size[1]}, though its header says otherwise")
    if header.extension == "jpg" and not _is_whole(data):
        raise Refused("image-truncated", f"{where}: the JPEG's scan breaks off before its end")


def _decoded(data: bytes, where: str) -> tuple[int, int]:
    """The size that an image turns out to have; its pixels are given up before anything else is decoded."""
    with _opened(data, where) as image:
        return _load(image, where).size


def _load(image: Image.Image, where: str) -> Image.Image:
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:
        code = "image-truncated" if "truncated" in str(error) else "image-corrupt"
        raise Refused(code, f"{where}: it cannot be decoded: {str(error)[:200] or type(error).__name__}") from None
    return image


def _is_whole(jpeg: bytes) -> bool:
    """Whether the scans of a JPEG hold all of its blocks. What FFmpeg has no decoder for is not judged."""
    codec = av.CodecContext.create("mjpeg", "r")
    codec.options = {"err_detect": "explode"}
    codec.thread_count = 1
    try:
        codec.decode(av.Packet(jpeg))
    except av.InvalidDataError:
        return False
    except av.FFmpegError:
        return True
    return True


# --- changes --------------------------------------------------------------------------------------------------------


def _due(header: ImageHeader, rules: Images) -> Iterator[str]:
    if rules.upright and header.orientation != 1:
        yield "made upright"
    if rules.rgb and not _NOT_RGB.isdisjoint(header.traits):
        yield "made RGB"
    if rules.longest and max(header.width, header.height) > rules.longest:
        yield "shrunk"


def _changed(data: bytes, header: ImageHeader, changes: tuple[str, ...], rules: Images, where: str) -> StoredImage:
    with _opened(data, where) as opened:
        image = _load(opened, where)
        profile = None if image.mode == "CMYK" and "made RGB" in changes else image.info.get("icc_profile")
        how = _like(opened, header, changes)
        if "made upright" in changes:
            image = ImageOps.exif_transpose(image)
        if "made RGB" in changes:
            image = rgb(image)
        if "shrunk" in changes and rules.longest:
            image = _smooth(image)
            image.thumbnail((rules.longest, rules.longest), Image.Resampling.LANCZOS, reducing_gap=None)
        file = io.BytesIO()
        image.save(file, exif=b"", icc_profile=profile, **how)
    stored = file.getvalue()
    return StoredImage(stored, read_image(stored, where), changes)


def _like(image: Image.Image, header: ImageHeader, changes: tuple[str, ...]) -> dict[str, Any]:
    """How an image is written so that little of it is lost: a JPEG in the steps that it had."""
    if header.extension != "jpg":
        return {"format": "PNG"}
    if not isinstance(image, JpegImagePlugin.JpegImageFile) or header.traits.count(CMYK):
        return {"format": "JPEG", "quality": 95, "subsampling": "4:4:4"}
    across = header.orientation >= 5 and "made upright" in changes  # rows become columns
    tables = {number: _turned(table) if across else table for number, table in image.quantization.items()}
    sampling = "4:2:0" if JpegImagePlugin.get_sampling(image) == 2 else "4:4:4"
    return {"format": "JPEG", "qtables": tables, "subsampling": sampling}


def _turned(table: list[int]) -> list[int]:
    return [table[8 * column + row] for row in range(8) for column in range(8)]


def rgb(image: Image.Image) -> Image.Image:
    """8 bits of red, green and blue, of several pictures the first; what is transparent shows white."""
    if image.mode.startswith("I"):
        grey = np.asarray(image)
        deep = image.mode != "I" or int(grey.max()) > 0xFF  # mode I is 32 bits wide and holds 8 of them or 16
        image = Image.fromarray((grey >> 8 if deep else grey).clip(0, 0xFF).astype(np.uint8))
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    seen = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")


def _smooth(image: Image.Image) -> Image.Image:
    """An image whose pixels can be mixed: palettes and single bits cannot."""
    if image.mode in ("P", "PA"):
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    return image.convert("L") if image.mode == "1" else image

"""ICDAR ground truth: one text file an image, a line for each piece of text with its four corners.

The form of the Robust Reading Competitions (https://rrc.cvc.uab.es), best known from Incidental Scene Text (Karatzas
and others, 2015): a thousand street scenes from Google Glass for training, five hundred for testing. East and many
others train on pairs in the same form:

    ch4_test_images/img_155.jpg
    Challenge4_Test_Task1_GT/gt_img_155.txt:  461,594,506,578,505,603,462,617,Start
                                              438,625,505,605,505,634,445,652,###

The files begin with a byte order mark and end their lines with CR LF, or not. All behind the eighth comma is the text,
commas included; `###` could not be read. MLT's files have the script before the text (`…,Latin,Hello`); RCTW's have a
flag for difficult text, and quotes (`…,0,"路口"`). Coordinates may be fractions.

No image is named: `gt_img_155.txt`, or `img_155.txt`, belongs to the image `img_155` beside it or anywhere in the
corpus. Of several, such as those of the training and the test set, the one counts whose folder's name is most like that
of the labels; if that cannot be told, the record is refused as `media-ambiguous`.
"""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.boxes import about_text, box
from tarsia.builders.reading.fields import fields
from tarsia.builders.reading.pictures import from_media, named
from tarsia.builders.reading.textfile import lines
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import Box, Draft

RECORD = "one image with all the text in it"
FILES = ("**/gt_*.txt",)

_LINE = re.compile(r"\s*((?:-?\d+(?:\.\d+)?\s*,\s*){8})(.*)", re.DOTALL)
_SCRIPT = re.compile("(?:Arabic|Bangla|Chinese|Hindi|Japanese|Korean|Latin|Mixed|None|Symbols),(.*)", re.DOTALL)
_FLAG = re.compile('([01]),"(.*)"', re.DOTALL)


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The one record of a file: its lines, and the images that they can be about."""
    stem = PurePosixPath(file).stem
    name = stem.removeprefix("gt_")
    said: list[str] = []
    end = 0
    for line in lines(source, file):
        if isinstance(line, Fault):
            yield line  # an image is not to be taught with a part of its text
            return
        said.append(line.text)
        end = line.end
    images = named(source, name, file) or named(source, stem, file)
    yield Raw(name, {"id": name, "images": list(images), "lines": said}, 0, end)


def draft(record: Any, at: At) -> Draft:
    """A question about the text in the image, and what can be read as its answer."""
    record = fields(record)
    images, said = record.get("images"), record.get("lines")
    if not isinstance(images, list) or not isinstance(said, list):
        raise Refused("record-shape", "images and lines: lists were due")
    if len(images) != 1:
        found = f"{len(images)} are: {', '.join(map(str, images[:3]))}" if images else "none is"
        raise Refused("media-ambiguous" if images else "media-missing", f"the image goes by the labels' name; {found}")
    boxes = tuple(_box(line, number) for number, line in enumerate(said, 1))
    path = str(images[0])
    return about_text(boxes, from_media(path, PurePosixPath(path).name, at), at)


def _box(line: Any, number: int) -> Box:
    match = _LINE.fullmatch(line.replace("\ufeff", "")) if isinstance(line, str) else None
    if not match:
        raise Refused("record-shape", f"line {number}: eight numbers and a text were due")
    points = [float(part) for part in match[1].rstrip(" ,").split(",")]
    said, readable = match[2], True
    if script := _SCRIPT.fullmatch(said):
        said = script[1]
    elif flag := _FLAG.fullmatch(said):
        readable, said = flag[1] == "0", flag[2]
    return box(said, points, number, readable=readable)

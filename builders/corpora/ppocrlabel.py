r"""PaddleOCR's labels for finding text, and those of its tool PPOCRLabel: an image a line, with all its boxes as JSON.

PaddlePaddle's OCR kit (2020) trains its detectors on such files; people draw the boxes with PPOCRLabel, which writes
`Label.txt` into the folder of the images. Image and boxes are parted by a tab (https://github.com/PFCCLab/PPOCRLabel):

    mix/1717464495_0_100.png⇥[{"transcription": "继续与橙橙对话。", "points": [[19, 6], …], "difficult": false}, …]
    icdar_c4_train_imgs/img_61.jpg⇥[{"transcription": "###", "points": [[427, 293], …]}, …]

The tool counts paths from the parent of the folder in which its file lies; the kit counts them from wherever its
configuration says. Both are found by looking. `###` and `difficult` mark what is not to be read, and `待识别` is what
the tool writes until somebody has.
"""

from collections.abc import Iterator
from typing import Any

import orjson

from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.boxes import about_text, box
from tarsia.builders.reading.fields import fields, text
from tarsia.builders.reading.jsonfile import KEPT
from tarsia.builders.reading.pictures import Paths, from_media
from tarsia.builders.reading.textfile import lines
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import Box, Draft

RECORD = "one image with all the text in it"
FILES = ("**/Label.txt", "**/*label*.txt")


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The lines, each with the place of its image; the image is its id."""
    paths = Paths(source, file)
    for line in lines(source, file):
        if isinstance(line, Fault):
            yield line
            continue
        image, tab, boxes = line.text.partition("\t")
        try:
            parsed = orjson.loads(boxes) if tab else None
        except orjson.JSONDecodeError as error:
            yield Fault("json-broken", f"the boxes: {error}", line.text.encode()[:KEPT], line.begin, line.end)
            continue
        record = {"image": image, "found": paths.find(image) if tab else image, "boxes": parsed}
        yield Raw(image, record, line.begin, line.end)


def draft(record: Any, at: At) -> Draft:
    """A question about the text in the image, and what can be read as its answer."""
    record = fields(record)
    given = record.get("boxes")
    if not isinstance(given, list):
        raise Refused("record-shape", "an image, a tab and a list of boxes were due")
    boxes = tuple(_box(entry, number) for number, entry in enumerate(given))
    return about_text(boxes, from_media(text(record, "found"), text(record, "image"), at), at)


def _box(entry: Any, number: int) -> Box:
    entry = fields(entry)
    said = text(entry, "transcription")
    readable = not entry.get("difficult") and said.strip() != "待识别"
    return box(said, entry.get("points"), number, readable=readable)

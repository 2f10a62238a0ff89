"""ICDAR2019-LSVT: Chinese street views with every piece of text outlined and written down.

Baidu collected them with phones for the competition on Large-scale Street View Text (Sun and others, 2019): 30,000
fully labelled training images, in train_full_images_0 and train_full_images_1, at https://rrc.cvc.uab.es/?ch=16. The
labels are one JSON object, a list of outlines for each image:

    {"gt_0": [{"transcription": "路口", "points": [[390, 902], [1856, 902], [1869, 1225], [390, 1242]],
               "illegibility": false}, …], "gt_1": […]}

It does not say in which folder an image lies, so the folders are listed once. Text that cannot be read is marked
`illegibility`, or written `###`. What is asked about the rest, and in which order it is read, stands in
`builders/reading/boxes.py`.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.boxes import about_text, box
from tarsia.builders.reading.fields import fields, text
from tarsia.builders.reading.jsonfile import keyed
from tarsia.builders.reading.pictures import from_media
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import Box, Draft

RECORD = "one image with all the text in it"
FILES = ("**/train_full_labels.json",)


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The images that the labels name, each with its boxes."""
    images: dict[str, str] = {}
    for entry in source.list():
        path = PurePosixPath(entry.path)
        if path.parent.name.startswith("train_full_images_") and path.suffix == ".jpg":
            images.setdefault(path.stem, entry.path)
    first = PurePosixPath(file).parent / "train_full_images_0"
    for found in keyed(source, file):
        if isinstance(found, Fault):
            yield found
            continue
        name, boxes = found
        record = {"id": name, "image": images.get(name, f"{first}/{name}.jpg"), "boxes": boxes.value}
        yield Raw(name or None, record, boxes.begin, boxes.end)


def draft(record: Any, at: At) -> Draft:
    """A question about the text in the image, and what can be read as its answer."""
    record = fields(record)
    given, path = record.get("boxes"), text(record, "image")
    if not isinstance(given, list):
        raise Refused("record-shape", "boxes: a list was due")
    boxes = tuple(_box(entry, number) for number, entry in enumerate(given))
    return about_text(boxes, from_media(path, PurePosixPath(path).name, at), at)


def _box(entry: Any, number: int) -> Box:
    entry = fields(entry)
    return box(text(entry, "transcription"), entry.get("points"), number, readable=not entry.get("illegibility"))

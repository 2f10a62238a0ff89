"""MMOCR: OpenMMLab's forms for images with boxes, for cut-outs with a text, and for receipts.

The kit (Kuang and others, 2021) converts all corpora of its trade into its own annotations, which are handed on in
this form; small ones of each are in https://github.com/open-mmlab/mmocr, `tests/data`:

    text spotting  {"metainfo": {…}, "data_list": [{"img_path": "imgs/test/img_10.jpg", "height": 720, "width": 1280,
                    "instances": [{"polygon": [261, 138, 284, 140, …], "ignore": false, "text": "…"}, …]}, …]}
    recognition    {"metainfo": {…}, "data_list": [{"img_path": "1223731.jpg", "instances": [{"text": "GRAND"}]}, …]}
                   and before version 1: {"filename": "1223731.jpg", "text": "GRAND"} or 1223731.jpg GRAND
    WildReceipt    {"file_name": "image_files/…/….jpeg", "height": 1200, "width": 1600,
                    "annotations": [{"box": [550.0, 190.0, 937.0, 190.0, …], "text": "SAFEWAY", "label": 1}, …]}

Annotations for detection alone have outlines without text, and are refused. The corners of receipts go from the bottom
left against the clock, and are turned round. Their labels (store name, total …) are not used. Paths may start in a
repository that is not here; what leads to an image is found by looking, and the rest of the path left out.
"""

from collections.abc import Iterator
from typing import Any

from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.boxes import about_crop, about_text, box
from tarsia.builders.reading.fields import fields, first_of, text
from tarsia.builders.reading.jsonfile import Record, listed
from tarsia.builders.reading.pictures import Paths, from_media
from tarsia.builders.reading.textfile import Line, lines
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import Box, Draft

RECORD = "one image with all the text in it, or one cut-out and its text"
FILES = ("**/*.json", "**/*.jsonl", "**/*label*.txt")

_IMAGES = ("img_path", "file_name", "filename")


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The elements of the list, the lines of JSON, or the lines of text; the image is the id."""
    paths = Paths(source, file)
    for found in _plain(source, file) if _is_plain(source, file) else listed(source, file, "data_list"):
        if isinstance(found, Fault):
            yield found
            continue
        record = found.value
        image = first_of(record, _IMAGES) if isinstance(record, dict) else None
        if isinstance(image, str) and image:
            yield Raw(image, {**record, "found": paths.find(image)}, found.begin, found.end)
        else:
            yield Raw(None, record, found.begin, found.end)


def _is_plain(source: Store, file: str) -> bool:
    if not file.endswith(".txt"):
        return False
    first = next(lines(source, file), None)
    return first is not None and not (isinstance(first, Line) and first.text.lstrip().startswith("{"))


def _plain(source: Store, file: str) -> Iterator[Record | Fault]:
    for line in lines(source, file):
        if isinstance(line, Line):
            image, _, said = line.text.strip().partition(" ")
            yield Record({"filename": image, "text": said}, b"", line.begin, line.end)
        else:
            yield line


def draft(record: Any, at: At) -> Draft:
    """A question about the text in the image, and what can be read as its answer."""
    record = fields(record)
    image = text(record, *_IMAGES)
    image = from_media(text({"found": image, **record}, "found"), image, at)
    if isinstance(given := record.get("annotations"), list):
        return about_text(tuple(_receipt(entry, number) for number, entry in enumerate(given)), image, at)
    given = record.get("instances")
    if not isinstance(given, list):
        return about_crop(text(record, "text"), image, at)
    marked = [fields(entry) for entry in given]
    if marked and not any("text" in entry for entry in marked):
        raise Refused("ocr-nothing", f"{len(marked)} outlines and no text: annotations for detection alone")
    if len(marked) == 1 and not {"polygon", "bbox"} & set(marked[0]):
        return about_crop(text(marked[0], "text"), image, at)
    return about_text(tuple(_box(entry, number) for number, entry in enumerate(marked)), image, at)


def _box(entry: dict[str, Any], number: int) -> Box:
    said = text(entry, "text") if "text" in entry else ""
    return box(said, first_of(entry, ("polygon", "bbox")), number, readable=not entry.get("ignore"))


def _receipt(entry: Any, number: int) -> Box:
    entry = fields(entry)
    marked = box(text(entry, "text"), entry.get("box"), number)
    return marked.model_copy(update={"points": marked.points[::-1]})

"""AnyWord-3M: pictures from the web with the text in them outlined, three million of them, Chinese and English.

Tuo and others gathered them to teach AnyText to write in pictures (2023): from Wukong and LAION, and from the
competitions for street text, labelled by PP-OCR where people had not, captioned by BLIP-2; at
https://modelscope.cn/datasets/iic/AnyWord-3M. Each part is a folder of images and one JSON object:

    {"name": "laion_sub", "data_root": "/data/vdb/…/imgs", "data_list": [
        {"img_name": "ref1.jpg", "caption": "", "annotations": [
            {"polygon": [[100, 26], [659, 19], [660, 149], [101, 156]], "text": "無有海", "language": "Chinese",
             "valid": true}, …]}, …]}

`data_root` is a folder on the authors' machine and means nothing here: names are taken from the corpus's media folder
on. `valid: false` marks text that cannot be read, or whose label is not to be trusted.

In a corpus of kind `caption` the caption answers a question about the picture, where there is one; captions are often
empty. Otherwise, and in a corpus of kind `qa` always, the talk is about the text in the picture. Boxes are kept anyway.
"""

from collections.abc import Iterator
from typing import Any

from tarsia.builders.chat import neutralise
from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.boxes import about_text, box
from tarsia.builders.reading.fields import clean, fields, read_listed, text
from tarsia.builders.reading.language import language_of
from tarsia.builders.reading.templates import choose
from tarsia.builders.reading.turns import exchange
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import IMAGE, Box, Draft, Kind

RECORD = "one image with all the text in it, and its caption"
FILES = ("**/data*.json",)


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The images of the list, by their names."""
    return read_listed(source, file, "data_list", key="img_name")


def draft(record: Any, at: At) -> Draft:
    """The caption, or the text in the image."""
    record = fields(record)
    image = clean(text(record, "img_name"))
    given = record.get("annotations")
    if not isinstance(given, list):
        raise Refused("record-shape", "annotations: a list was due")
    boxes = tuple(_box(entry, number) for number, entry in enumerate(given))
    caption = record.get("caption")
    if at.corpus.kind is Kind.CAPTION and isinstance(caption, str) and caption.strip():
        question = choose("describe-image", language_of(at.corpus.language, caption), at)
        turns = exchange(f"{IMAGE}\n{question}", neutralise(caption.strip(), keep=False))
        return Draft(turns=turns, images=(image,), boxes=boxes)
    return about_text(boxes, image, at)


def _box(entry: Any, number: int) -> Box:
    entry = fields(entry)
    return box(text(entry, "text"), entry.get("polygon"), number, readable=entry.get("valid") is not False)

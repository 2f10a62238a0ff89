"""COCO captions: photographs of everyday scenes with five sentences each, by people who saw nothing else.

Chen and others collected them for MS-COCO (2015); 118,287 training images carry 591,753 captions. The annotations are
`captions_train2017.json` in annotations_trainval2017.zip at https://cocodataset.org, the photographs in train2017.zip.
The file is one JSON object whose lists belong together by the id of the image:

    {"info": {…}, "licenses": […],
     "images": [{"id": 125870, "file_name": "000000125870.jpg", "height": 427, "width": 640, …}, …],
     "annotations": [{"id": 88366, "image_id": 125870, "caption": "An airport filled with …"}, …]}

A caption is only a record together with its image's name, which may stand anywhere before or after it. So the bytes of
the file (92 MB for train2017) are held whole, and the two lists are walked in them element by element.
"""

from collections.abc import Iterator
from typing import Any

from tarsia.builders.chat import neutralise
from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.fields import clean, fields, own_id, text
from tarsia.builders.reading.jsonfile import elements, members
from tarsia.builders.reading.language import language_of
from tarsia.builders.reading.templates import choose
from tarsia.builders.reading.turns import exchange
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import IMAGE, Draft

RECORD = "one caption, joined with the name of its image"
FILES = ("**/captions_*.json",)


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The annotations, each with the `file_name` of its image."""
    data = source.read(file)
    lists: dict[str, int] = {}
    whole = True
    for member in members(data):
        if isinstance(member, Fault):
            yield member
            whole = False
        elif data[member.begin : member.begin + 1] == b"[":
            lists[member.key] = member.begin
            whole = whole and member.whole
    if "annotations" not in lists and whole:
        yield Fault("record-shape", "annotations: the file has no such list", b"", 0, len(data))
    names: dict[str, Any] = {}
    for image in elements(data, lists["images"]) if "images" in lists else ():
        if isinstance(image, Fault):
            yield image
        elif own := own_id(image.value):
            names[own] = image.value.get("file_name")
    for found in elements(data, lists["annotations"]) if "annotations" in lists else ():
        if isinstance(found, Fault):
            yield found
        else:
            name = names.get(own_id(found.value, "image_id") or "")
            record = {**found.value, "file_name": name} if isinstance(found.value, dict) else found.value
            yield Raw(own_id(record), record, found.begin, found.end)


def draft(record: Any, at: At) -> Draft:
    """A question about the image, and the caption as its answer."""
    record = fields(record)
    caption = text(record, "caption").strip()
    if not caption:
        raise Refused("answer-empty", "the caption says nothing")
    if not record.get("file_name"):
        raise Refused("record-shape", f"file_name: no image has the id {str(record.get('image_id'))[:40]}")
    question = choose("describe-image", language_of(at.corpus.language, caption), at)
    turns = exchange(f"{IMAGE}\n{question}", neutralise(caption, keep=False))
    return Draft(turns=turns, images=(clean(text(record, "file_name")),))

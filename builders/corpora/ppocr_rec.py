r"""PaddleOCR's labels for reading text: a cut-out of one word or line of an image, a tab, and what is written on it.

The form that its recognisers train on, and that PPOCRLabel exports next to its boxes (`rec_gt.txt`, 2020):

    crop_img/wire_10002_crop_0.jpg⇥2P24

Paths are counted from the folder of the file, or from where the kit's configuration says; they are found by looking.
Cut-outs are small, a few thousand pixels. `###` could not be read. A line that names several cut-outs for one text, as
the kit allows for choosing one at random, is refused.
"""

from collections.abc import Iterator
from typing import Any

from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.boxes import about_crop
from tarsia.builders.reading.fields import fields, text
from tarsia.builders.reading.pictures import Paths, from_media
from tarsia.builders.reading.textfile import lines
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import Draft

RECORD = "one cut-out and its text"
FILES = ("**/rec_gt*.txt",)


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The lines, each with the place of its cut-out, whose path is its id."""
    paths = Paths(source, file)
    for line in lines(source, file):
        if isinstance(line, Fault):
            yield line
            continue
        image, tab, said = line.text.partition("\t")
        record: dict[str, Any] = {"image": image, "found": paths.find(image) if tab else image}
        yield Raw(image, {**record, "text": said if tab else None}, line.begin, line.end)


def draft(record: Any, at: At) -> Draft:
    """A question about the text on the cut-out, and the text."""
    record = fields(record)
    if record.get("text") is None or text(record, "image").startswith("["):
        raise Refused("record-shape", "one path, a tab and a text were due")
    return about_crop(text(record, "text"), from_media(text(record, "found"), text(record, "image"), at), at)

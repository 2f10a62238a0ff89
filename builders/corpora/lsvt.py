"""ICDAR2019-LSVT: Chinese street views with every piece of text outlined and written down.

Baidu collected them with phones for the competition on Large-scale Street View Text (Sun and others, 2019): 30,000
fully labelled training images, in train_full_images_0 and train_full_images_1, at https://rrc.cvc.uab.es/?ch=16. The
labels are one JSON object, a list of outlines for each image:

    {"gt_0": [{"transcription": "路口", "points": [[390, 902], [1856, 902], [1869, 1225], [390, 1242]],
               "illegibility": false}, …], "gt_1": […]}

It does not say in which folder an image lies, so the folders are listed once. Text that cannot be read is marked
`illegibility`, or written `###`.

The answer is the readable text in **reading order**. Boxes whose middles are less than half the height of the first of
them apart form a line; lines go from top to bottom, a line from left to right with spaces between its boxes. Where most
boxes stand upright (1.5 times as high as wide, and more than one character), the page is set in columns: the same rule
turned, with columns from right to left.
"""

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from tarsia.builders.chat import neutralise
from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.fields import clean, fields, text
from tarsia.builders.reading.jsonfile import members, value_of
from tarsia.builders.reading.language import language_of
from tarsia.builders.reading.templates import choose
from tarsia.builders.reading.turns import exchange
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import IMAGE, Box, Draft

RECORD = "one image with all the text in it"
FILES = ("**/train_full_labels.json",)


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The images that the labels name, each with its boxes. The file (some 50 MB) is held whole."""
    images: dict[str, str] = {}
    for entry in source.list():
        path = PurePosixPath(entry.path)
        if path.parent.name.startswith("train_full_images_") and path.suffix == ".jpg":
            images.setdefault(path.stem, entry.path)
    first = PurePosixPath(file).parent / "train_full_images_0"
    data = source.read(file)
    for member in members(data):
        if isinstance(member, Fault):
            yield member
        elif isinstance(found := value_of(data, member), Fault):
            yield found
        else:
            name = member.key
            record = {"id": name, "image": images.get(name, f"{first}/{name}.jpg"), "boxes": found.value}
            yield Raw(name or None, record, member.begin, member.end)


def draft(record: Any, at: At) -> Draft:
    """A question about the text in the image, and what can be read as its answer."""
    record = fields(record)
    given = record.get("boxes")
    if not isinstance(given, list):
        raise Refused("record-shape", "boxes: a list was due")
    boxes = tuple(_box(entry, number) for number, entry in enumerate(given))
    answer = reading_order([box for box in boxes if box.readable])
    if not answer:
        raise Refused("ocr-nothing", f"no text of {len(boxes)} can be read")
    question = choose("read-text", language_of(at.corpus.language, answer), at)
    image = clean(text(record, "image")).removeprefix(f"{at.corpus.media.strip('/')}/")
    turns = exchange(f"{IMAGE}\n{question}", neutralise(answer, keep=False))
    return Draft(turns=turns, images=(image,), boxes=boxes)


def _box(entry: Any, number: int) -> Box:
    entry = fields(entry)
    said, points = text(entry, "transcription"), entry.get("points")
    if not isinstance(points, list) or len(points) < 3 or not all(_is_point(point) for point in points):
        raise Refused("record-shape", f"points of box {number}: three or more pairs of numbers were due")
    readable = not entry.get("illegibility") and said.strip() not in ("", "###")
    return Box(text=said, points=tuple((point[0], point[1]) for point in points), readable=readable)


def _is_point(point: Any) -> bool:
    numbers = point if isinstance(point, list) and len(point) == 2 else [None]
    return all(isinstance(number, int | float) and abs(number) < _FAR for number in numbers)


_FAR = 1e6  # pixels; no image is so large


def reading_order(boxes: Sequence[Box]) -> str:
    """The text of some boxes as a person reads it, line by line."""
    upright = sum(len(box.text.strip()) > 1 and _height(box) >= 1.5 * _width(box) for box in boxes)
    columns = 2 * upright > len(boxes)
    lines: list[list[_Place]] = []
    for place in sorted(_column(box) if columns else _line(box) for box in boxes):
        if not lines or place.across - lines[-1][0].across >= lines[-1][0].size / 2:
            lines.append([])
        lines[-1].append(place)
    ordered = [sorted(line, key=lambda place: (place.along, place)) for line in lines]
    return "\n".join(" ".join(place.text for place in line) for line in ordered)


class _Place(NamedTuple):
    """A box on its way down the page (across the lines) and in its line, and its size across the line."""

    across: float
    along: float
    size: float
    text: str


def _line(box: Box) -> _Place:
    middle = (min(y for _, y in box.points) + max(y for _, y in box.points)) / 2
    return _Place(middle, min(x for x, _ in box.points), _height(box), box.text.strip())


def _column(box: Box) -> _Place:
    middle = (min(x for x, _ in box.points) + max(x for x, _ in box.points)) / 2
    return _Place(-middle, min(y for _, y in box.points), _width(box), box.text.strip())


def _width(box: Box) -> float:
    return max(x for x, _ in box.points) - min(x for x, _ in box.points)


def _height(box: Box) -> float:
    return max(y for _, y in box.points) - min(y for _, y in box.points)

"""Text in images, marked piece by piece: what is asked about it, and how it is answered.

A **box** is one piece of text with its outline in pixels. All boxes are kept with the sample; those that can be read
become a conversation, in one of four forms by the draw of the record's key (or in the one that the catalog names as
`template`; questions of the corpus's own are answered like `read-text`):

- `read-text`: all text as a person reads it, line by line, what stands side by side with a space between;
- `list-text`: the same pieces in the same order, each on a line of its own (when there are two or more);
- `locate-text`: where one piece stands, drawn among those whose text occurs once;
- `text-in-box`: what is written at the place of one piece.

A **place** is the upright box around a piece, `[left, top, right, bottom]` in thousandths of the image's width and
height from the top left corner, from 0 to 1000. Those are InternVL's numbers, whose tiles VITA has; Qwen-VL's are the
same in other brackets. Their tags (`<box>`, `<|box_start|>`) are left out, because for VITA's vocabulary they are
plain letters, or control tokens that nothing else uses. A place needs the size of the image, which is known when the
image is opened: until then the words `<box>` stand where it is written, and the draft says whose place it is.

**Reading order**: boxes whose middles are less than half the height of the first of them apart form a line; lines go
from top to bottom, a line from left to right. Where most boxes stand upright (1.5 times as high as wide, and more than
one character), the page is set in columns: the same rule turned, with columns from right to left.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from tarsia.builders.chat import neutralise
from tarsia.builders.corpora import At
from tarsia.builders.reading.language import language_of
from tarsia.builders.reading.templates import ABOUT_BOXES, choose
from tarsia.builders.reading.turns import exchange
from tarsia.schemas.errors import Refused
from tarsia.schemas.identity import pick
from tarsia.schemas.sample import IMAGE, Box, Draft, Turn

PLACE = "<box>"  # stands in a draft where the place of its box will be written
UNREAD = ("", "###")  # what is written where nobody could read

_FAR = 1e6  # pixels; no image is so large
_LONG = 60  # characters of a piece that is still asked for by its words


def box(said: str, outline: Any, number: int, *, readable: bool = True) -> Box:
    """One piece of text. `outline`: three or more points; or their numbers in a row, of which four span a rectangle."""
    points = outline if isinstance(outline, list) else []
    if points and not any(isinstance(point, list) for point in points):
        points = [points[at : at + 2] for at in range(0, len(points), 2)]
        if len(points) == 2 and all(_is_point(point) for point in points):
            (left, top), (right, bottom) = points
            points = [[left, top], [right, top], [right, bottom], [left, bottom]]
    if len(points) < 3 or not all(_is_point(point) for point in points):
        raise Refused("record-shape", f"points of box {number}: three or more pairs of numbers were due")
    pairs = tuple((point[0], point[1]) for point in points)
    return Box(text=said, points=pairs, readable=readable and said.strip() not in UNREAD)


def _is_point(point: Any) -> bool:
    numbers = point if isinstance(point, list) and len(point) == 2 else [None]
    return all(isinstance(number, int | float) and abs(number) < _FAR for number in numbers)


def about_text(boxes: tuple[Box, ...], image: str, at: At) -> Draft:
    """A question about the text in an image, and its answer."""
    readable = [number for number, box in enumerate(boxes) if box.readable]
    if not readable:
        raise Refused("ocr-nothing", f"no text of {len(boxes)} can be read")
    said = [boxes[number] for number in readable]
    placeable = [number for number in readable if PLACE not in boxes[number].text]
    times = Counter(box.text.strip() for box in said)
    wanted = {
        "locate-text": [number for number in placeable if _is_telling(boxes[number].text.strip(), times)],
        "text-in-box": placeable,
    }
    form = _form(at, ["read-text", *["list-text"] * (len(said) > 1), *(name for name in wanted if wanted[name])])
    question = choose(form, language_of(at.corpus.language, " ".join(box.text for box in said)), at)
    place = pick(wanted[form], at.key, "ocr-wanted") if form in wanted else None
    if place is None:
        answer = "\n".join((" " if form == "read-text" else "\n").join(line) for line in reading_lines(said))
    else:
        words = boxes[place].text.strip()
        question = question.replace("{box}", PLACE).replace("{text}", words)
        answer = PLACE if form == "locate-text" else words
    turns = exchange(f"{IMAGE}\n{neutralise(question, keep=False)}", neutralise(answer, keep=False))
    return Draft(turns=turns, images=(image,), boxes=boxes, place=place)


def _form(at: At, possible: Sequence[str]) -> str:
    """What is asked: what the catalog names, or one of what is possible."""
    named = at.corpus.template
    if named is None:
        return pick(possible, at.key, "ocr-form")
    if not isinstance(named, str):
        return "read-text"
    if named in ABOUT_BOXES and named not in possible:
        raise Refused("template-unfit", f"'{named}' needs a text that stands alone, and there is none")
    return named if named in possible else "read-text"


def placed(draft: Draft, width: int, height: int) -> tuple[Turn, ...]:
    """The turns of a draft, with the place that it speaks of written out. Width and height of its image in pixels."""
    if draft.place is None:
        return draft.turns
    wanted = draft.boxes[draft.place]
    if not _is_within(wanted, width, height):
        raise Refused("ocr-outside", f"the box of {wanted.text[:40]!r} lies outside the image of {width} x {height}")
    where = str(thousandths(wanted, width, height))
    return tuple(turn.model_copy(update={"text": turn.text.replace(PLACE, where)}) for turn in draft.turns)


def _is_within(box: Box, width: float, height: float) -> bool:
    """Whether any of it does."""
    across, down = [x for x, _ in box.points], [y for _, y in box.points]
    return min(across) < width and max(across) > 0 and min(down) < height and max(down) > 0


def about_crop(said: str, image: str, at: At) -> Draft:
    """A question about the text on a cut-out of an image, which is one piece of text, and that text."""
    said = said.strip()
    if said in UNREAD:
        raise Refused("ocr-nothing", "no text is given, or it could not be read")
    question = choose("read-text", language_of(at.corpus.language, said), at)
    return Draft(turns=exchange(f"{IMAGE}\n{question}", neutralise(said, keep=False)), images=(image,))


def _is_telling(words: str, times: Counter[str]) -> bool:
    """Whether words say which piece is meant."""
    return times[words] == 1 and len(words) <= _LONG


def thousandths(box: Box, width: float, height: float) -> list[int]:
    """Left, top, right and bottom of a box in thousandths of the image."""
    across = [min(1000, max(0, round(1000 * x / width))) for x, _ in box.points]
    down = [min(1000, max(0, round(1000 * y / height))) for _, y in box.points]
    return [min(across), min(down), max(across), max(down)]


def reading_order(boxes: Sequence[Box]) -> str:
    """The text of some boxes as a person reads it, line by line."""
    return "\n".join(" ".join(line) for line in reading_lines(boxes))


def reading_lines(boxes: Sequence[Box]) -> list[list[str]]:
    """The texts of some boxes in reading order, those of each line together."""
    upright = sum(len(box.text.strip()) > 1 and _height(box) >= 1.5 * _width(box) for box in boxes)
    columns = 2 * upright > len(boxes)
    lines: list[list[_Place]] = []
    for place in sorted(_column(box) if columns else _line(box) for box in boxes):
        if not lines or place.across - lines[-1][0].across >= lines[-1][0].size / 2:
            lines.append([])
        lines[-1].append(place)
    ordered = [sorted(line, key=lambda place: (place.along, place)) for line in lines]
    return [[place.text for place in line] for line in ordered]


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

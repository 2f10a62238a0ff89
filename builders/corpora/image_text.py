"""Images with their captions beside them: `00000001.jpg` and `00000001.txt`.

What downloaders, annotators and trainers of diffusion models write when there is no index. Taiyi's Chinese examples
(https://github.com/IDEA-CCNL/Fengshenbang-LM) are an instance:

    part_0/00000001.jpg
    part_0/00000001.txt     牛津高阶英汉双解词典 (第6版)

Each text file is one record, whole. Images without a text beside them are no records.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from tarsia.builders.chat import neutralise
from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.fields import clean, fields, text
from tarsia.builders.reading.jsonfile import KEPT
from tarsia.builders.reading.language import language_of
from tarsia.builders.reading.templates import choose
from tarsia.builders.reading.turns import exchange
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import IMAGE, Draft

RECORD = "one text file, with the image of the same name"
FILES = ("**/*.txt",)

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".JPG", ".JPEG", ".PNG", ".gif", ".bmp")  # the first that is there


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The one record of the file."""
    data = source.read(file)
    try:
        caption = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        yield Fault("text-encoding", f"byte {error.start} is not UTF-8", data[:KEPT], 0, len(data))
        return
    paths = [str(PurePosixPath(file).with_suffix(suffix)) for suffix in _SUFFIXES]
    image = next((path for path in paths if source.entry(path)), paths[0])
    yield Raw(PurePosixPath(file).stem or None, {"image": image, "caption": caption}, 0, len(data))


def draft(record: Any, at: At) -> Draft:
    """A question about the image, and the caption as its answer."""
    record = fields(record)
    caption = text(record, "caption").strip()
    if not caption:
        raise Refused("answer-empty", "the caption says nothing")
    question = choose("describe-image", language_of(at.corpus.language, caption), at)
    turns = exchange(f"{IMAGE}\n{question}", neutralise(caption, keep=False))
    return Draft(turns=turns, images=(clean(text(record, "image")),))

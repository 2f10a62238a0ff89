r"""SynthDoG and Donut: pages of text drawn by a program, and document images labelled in the same form.

Kim and others made the generator SynthDoG to teach their reader Donut to read (2022): Wikipedia text on paper textures
over photographs, half a million pages in each of English, Chinese, Japanese and Korean (naver-clova-ix/synthdog-en
and so on, on the Hugging Face hub; the generator is in https://github.com/clovaai/donut). Each folder of a split holds
its images and a `metadata.jsonl`, whose `ground_truth` is JSON inside a JSON string:

    {"file_name": "image_1.jpg", "ground_truth": "{\"gt_parse\": {\"text_sequence\": \"…\"}}"}

The answer is that text as it stands: in Chinese the generator leaves spaces inside words. Labels that are forms and
not text (receipts of CORD, say) are refused.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import orjson

from tarsia.builders.chat import neutralise
from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.fields import clean, fields, read_json, text
from tarsia.builders.reading.language import language_of
from tarsia.builders.reading.parts import json_parts
from tarsia.builders.reading.templates import choose
from tarsia.builders.reading.turns import exchange
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import IMAGE, Draft

RECORD = "one page with the text on it"
FILES = ("**/metadata.jsonl",)

split = json_parts


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The lines of the metadata; an image's name is its id."""
    return read_json(source, file, key="file_name")


def draft(record: Any, at: At) -> Draft:
    """A question about the text on the page, and the text as its answer. Images lie beside the metadata."""
    record = fields(record)
    label = record.get("ground_truth")
    if isinstance(label, str):
        try:
            label = orjson.loads(label)
        except ValueError as error:
            raise Refused("json-broken", f"ground_truth: {error}") from error
    parsed = label.get("gt_parse") if isinstance(label, dict) else None
    said = parsed.get("text_sequence") if isinstance(parsed, dict) else None
    if not isinstance(said, str):
        raise Refused("record-shape", "ground_truth.gt_parse.text_sequence: text was due")
    answer = said.strip()
    if not answer:
        raise Refused("ocr-nothing", "the page has no text")
    question = choose("read-text", language_of(at.corpus.language, answer), at)
    image = PurePosixPath(at.file).parent / clean(text(record, "file_name"))
    return Draft(turns=exchange(f"{IMAGE}\n{question}", neutralise(answer, keep=False)), images=(str(image),))

"""Common Voice: sentences read aloud by volunteers in more than a hundred languages, and checked by others.

Mozilla has collected it since 2017 (Ardila and others, 2020; https://commonvoice.mozilla.org, CC0). Each language has
a folder with its clips and one table for each state of checking:

    cv-corpus-17.0/zh-CN/validated.tsv:  client_id  path  sentence_id  sentence  sentence_domain  up_votes  …  segment
    cv-corpus-17.0/zh-CN/clips/common_voice_zh-CN_18531536.mp3

Tables had eight columns first and have thirteen now; their names are what counts. `train`, `dev` and `test` repeat a
part of `validated`, so only that is read unless the catalog says otherwise. A table may hold nothing but its header.
Cells are not quoted, except that some releases write a sentence with quotation marks in it as CSV would. The language
of a clip is the catalog's: which corpus is English or Chinese is not for a `locale` to say.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.delimited import table
from tarsia.builders.reading.fields import clean, fields, own_id, text
from tarsia.builders.reading.parts import table_parts
from tarsia.builders.reading.speech import speech
from tarsia.builders.storage import Store
from tarsia.schemas.sample import Draft

RECORD = "one clip and the sentence that is read in it"
FILES = ("**/validated.tsv",)

split = table_parts


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The rows of the table; a clip's name is its id."""
    for row in table(source, file, delimiter="\t", quoted=False):
        yield row if isinstance(row, Fault) else Raw(own_id(row[0], "path"), *row)


def draft(record: Any, at: At) -> Draft:
    """The clip and its sentence. Clips lie beside the table; early releases leave out their ending."""
    record = fields(record)
    name, said = clean(text(record, "path")), text(record, "sentence").strip()
    if len(said) > 1 and said[0] == said[-1] == '"' and '"' not in said[1:-1].replace('""', ""):
        said = said[1:-1].replace('""', '"')
    clip = PurePosixPath(at.file).parent / "clips" / (name if PurePosixPath(name).suffix else f"{name}.mp3")
    return speech(said, str(clip), at, record.get("client_id"))

r"""Video conversations and captions: LLaVA's form with a `video` instead of an `image`.

Video-ChatGPT's authors carried LLaVA's records over to clips (Maaz and others, 2023); VideoChat, LLaVA-Video,
ShareGemini and Mantis write theirs the same way. Caption sets such as WebVid give one sentence a clip instead, and
NExT-GPT keeps them as JSON. All of them are arrays or JSON Lines:

    {"id": "v_k_ZXmr8pmrs", "video": "v_k_ZXmr8pmrs.mp4",
     "conversations": [{"from": "human", "value": "<video>\nWhat is happening?"}, {"from": "gpt", "value": "…"}]}
    {"id": 12949985, "video_name": "00169473.mp4", "caption": "Roses on the garden in the afternoon"}

or tables, as WebVid's own, whose clips lie under the `page_dir` of the page that they came from:

    videoid,name,page_idx,page_dir,duration,contentUrl
    9429470,Cat climbing on tree,2621,002601_002650,PT00H00M15S,https://…                002601_002650/9429470.mp4

Many conversations never say `<video>`: they get it in front of the first question. A caption becomes the answer to a
question drawn from the templates. A record that only names an `output_video` shows a clip that a model should make:
there is nothing to look at, and it is refused.
"""

from collections.abc import Iterator
from typing import Any

from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.delimited import table
from tarsia.builders.reading.fields import clean, fields, first_of, own_id, paths, read_json, text
from tarsia.builders.reading.language import language_of
from tarsia.builders.reading.parts import json_parts
from tarsia.builders.reading.templates import choose
from tarsia.builders.reading.turns import TURNS, about_media
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import VIDEO, Draft

RECORD = "one conversation about a clip, or one caption of it"
FILES = ("**/*.json", "**/*.jsonl", "**/*.csv")

split = json_parts


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The elements of the array, or the lines, or the rows of a table."""
    if not file.endswith(".csv"):
        yield from read_json(source, file)
        return
    for row in table(source, file, delimiter=",", quoted=True):
        yield row if isinstance(row, Fault) else Raw(own_id(row[0]) or own_id(row[0], "videoid"), *row)


def draft(record: Any, at: At) -> Draft:
    """The conversation, with one `<video>` for the clip."""
    record = fields(record)
    videos = paths(record, "video", "videos", "video_name", "input_video", "video_path", "path") or _page(record)
    if not videos:
        raise Refused("record-shape", "video: no clip is named")
    said = first_of(record, TURNS)
    if said is None:
        caption = text(record, "caption", "name", "text").strip()
        question = choose("describe-video", language_of(at.corpus.language, caption), at)
        said = [{"from": "human", "value": question}, {"from": "gpt", "value": caption}]
    return about_media(
        said, VIDEO, images=paths(record, "image", "images"), videos=videos, audios=paths(record, "audio", "audios")
    )


def _page(record: dict[str, Any]) -> tuple[str, ...]:
    """The clip of a row of WebVid's table."""
    folder, own = record.get("page_dir"), own_id(record, "videoid")
    return (clean(f"{folder}/{own}.mp4"),) if isinstance(folder, str) and folder and own else ()

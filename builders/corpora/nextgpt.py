r"""NExT-GPT: captions of pictures, clips and sounds, each as it was found, as a question, and as an order to make one.

Wu and others wired encoders and generators to one language model (2023) and prepared CC3M, WebVid and AudioCaps for it
in three files each (https://github.com/NExT-GPT/NExT-GPT, `data/`). All are arrays about the same media:

    cc3m.json                {"caption": "players wait for a conversion", "id": "001319946", "image_name": "….jpg"}
    cc3m_comprehension.json  {"input_image": "….jpg", "conversations": [{"from": "human", "value": "<image>\n…"}, …]}
    cc3m_generation.json     {"output_image": "….jpg", "image_captions": "…", "conversations": […, "Sure! <image>"]}

Captions get a question from the templates. The third kind is refused as `media-as-answer`: a model of this family
answers with text and speech, and there is nothing in such a record to look at. To take one of the first two files is
enough, since they say the same. Embeddings that records name (`*_embeddings`) are not needed.
"""

from collections.abc import Iterator
from typing import Any

from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.fields import fields, first_of, paths, read_json, text
from tarsia.builders.reading.language import language_of
from tarsia.builders.reading.parts import json_parts
from tarsia.builders.reading.templates import choose
from tarsia.builders.reading.turns import TURNS, about_media
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import IMAGE, VIDEO, Draft

RECORD = "one caption of a picture or clip, or one conversation about it"
FILES = ("**/*.json",)

split = json_parts


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The elements of the array."""
    return read_json(source, file)


def draft(record: Any, at: At) -> Draft:
    """The conversation about what is given; what is to be made is refused."""
    record = fields(record)
    for key in ("output_image", "output_video", "output_audio"):
        if record.get(key):
            raise Refused("media-as-answer", f"{key}: a model should make it; there is nothing to look at")
    images = paths(record, "input_image", "image_name")
    videos = paths(record, "input_video", "video_name")
    audios = paths(record, "input_audio", "audio_name")
    if not images and not videos and not audios:
        raise Refused("record-shape", "input_image, image_name, input_video …: no picture, clip or sound is named")
    said = first_of(record, TURNS)
    if said is None:
        caption = text(record, "caption").strip()
        about = "describe-video" if videos else "describe-image"
        if audios and not images and not videos:
            raise Refused("record-shape", "conversations: a sound needs a question")
        question = choose(about, language_of(at.corpus.language, caption), at)
        said = [{"from": "human", "value": question}, {"from": "gpt", "value": caption}]
    return about_media(said, VIDEO if videos else IMAGE, images=images, videos=videos, audios=audios)

r"""VITA's own training files, as VITA-1.0 and 1.5 read them: LLaVA's form with the name of a set and with audio.

Fu and others describe it in https://github.com/VITA-MLLM/VITA (2024); their data are not public, but who has trained a
VITA has files like this, one array a data set:

    {"set": "sharegpt4", "id": "000000000164", "image": "coco/images/train2017/000000000164.jpg",
     "conversations": [{"from": "human", "value": "<image>\n<audio>\n"}, {"from": "gpt", "value": "This is a …"}],
     "audio": ["new_value_dict_0717/output_wavs/f61cf238b7872b4903e1fc15dcb5a50c.wav"]}

`set` names a folder of VITA's configuration, from which images and videos are counted: in a catalog that is the media
folder, or, where a file speaks of several sets, the folder that `sets` gives each of them (`FolderDict`, there). Audio
is looked for in its folder `audio`, as VITA does. States (☞☟☜) are added by loaders, so any in an answer are text.

`inserted_id` marks the answer to speech that was not meant for the model: such records belong in a corpus of kind
`noise`, which takes no others. Records that VITA's packer has put together (their `id` is a list) have lost what tells
samples apart, and answers with `end_tag: false` are broken off on purpose: both are refused.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.fields import fields, first_of, paths, read_json
from tarsia.builders.reading.parts import json_parts
from tarsia.builders.reading.turns import TURNS, about_media
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import IMAGE, Draft, Kind

RECORD = "one conversation"
FILES = ("**/*.json",)

split = json_parts


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The elements of the array."""
    return read_json(source, file)


def draft(record: Any, at: At) -> Draft:
    """The conversation with its media."""
    record = fields(record)
    if isinstance(record.get("id"), list) and len(record["id"]) != 1:
        raise Refused("record-packed", f"{len(record['id'])} samples in one; the file before packing is needed")
    if record.get("end_tag") is False:
        raise Refused("answer-unfinished", "end_tag: the last answer is meant to have no end")
    images, videos = paths(record, "image"), paths(record, "video")
    folders = _folders(record.get("set"), len(images) + len(videos), at.corpus.sets)
    found = [f"{folder}{path}" for folder, path in zip(folders, images + videos, strict=True)]
    conversation = about_media(
        first_of(record, TURNS),
        IMAGE,
        images=tuple(found[: len(images)]),
        videos=tuple(found[len(images) :]),
        audios=tuple(f"audio/{path}" for path in paths(record, "audio")),
    )
    _check_noise(record.get("inserted_id"), conversation, at.corpus.kind)
    return conversation


def _folders(named: Any, count: int, sets: Mapping[str, str]) -> list[str]:
    """What stands before the path of each image and video: nothing, or the folders of their sets."""
    if not sets or not count:
        return [""] * count
    names = named if isinstance(named, list) else [named] * count
    if len(names) != count:
        raise Refused("record-shape", f"set: {len(names)} for {count} images and videos")
    for name in names:
        if not isinstance(name, str) or name not in sets:
            raise Refused("set-unknown", f"set: {str(name)[:40]!r} is none of {', '.join(sets)}")
    return [f"{sets[name].rstrip('/')}/" if sets[name].strip("/") else "" for name in names]


def _check_noise(marked: Any, conversation: Draft, kind: Kind) -> None:
    """A corpus of noise has marked answers and nothing else, each alone; every other corpus has none."""
    if marked is not None and kind is not Kind.NOISE:
        raise Refused("noise-marked", "inserted_id: the speech is not meant for the model; kind: noise takes it")
    if kind is Kind.NOISE and (marked is None or not conversation.audios):
        raise Refused("noise-unmarked", "no inserted_id, or no audio: the question is meant for the model")
    if kind is Kind.NOISE and len(conversation.turns) != 2:
        raise Refused("noise-marked", "inserted_id: only one of several answers is marked")

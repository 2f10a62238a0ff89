"""Catalog: the YAML page that lists the corpora, where their raw data lie and what they are.

corpora:
  coco_en:
    format: coco            # a file of builders/corpora, or package.module of your own
    kind: caption           # caption | qa | asr | tts | noise
    language: en            # en | zh | zh+en (then told per sample by its script)
    licence: CC BY 2.0
    root: raw/coco          # a folder or s3:// address; relative to the catalog
    files: annotations/*.json
    media: train2017        # where media paths of the records start, relative to the root
    strip: /home/me/data/   # what stands before media paths in the records and leads nowhere here
    tags: [image]
    cap: 4096               # records per shard before it splits; never change it lightly
"""

from typing import Literal

from pydantic import Field, field_validator

from tarsia.schemas.model import Model
from tarsia.schemas.sample import Kind

CAP = 4096  # records per shard: about 150 MB of 50 KB images, since leaves are two thirds full on average


class Corpus(Model):
    """One entry of the catalog. Shards depend on its name, format, kind, language and records."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=64)
    format: str
    kind: Kind
    language: Literal["en", "zh", "zh+en"]
    licence: str
    root: str
    files: tuple[str, ...] = ()
    media: str = ""
    strip: str = ""
    tags: tuple[str, ...] = ()
    cap: int = Field(default=CAP, ge=1)

    @field_validator("files", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


class Catalog(Model):
    """The corpora of a lake, by name."""

    corpora: tuple[Corpus, ...]

"""Catalog: the YAML page that lists the corpora, where their raw data lie and what they are.

corpora:
  coco_en:
    format: coco            # a file of builders/corpora, or package.module of your own
    kind: caption           # caption | qa | asr | tts | noise
    language: en            # en | zh | zh+en (then told per sample by its script)
    licence: CC BY 2.0
    root: raw/coco          # a folder or s3:// address, relative to the catalog; or of: [chats], what it is made of
    files: annotations/*.json
    media: train2017        # where media paths of the records start, relative to the root
    strip: /home/me/data/   # what stands before media paths in the records and leads nowhere here
    sets: {coco: train2017} # vita: the folder of each `set` of the records, below the media folder
    tags: [image]
    cap: 4096               # records per shard before it splits; never change it lightly
    template: {en: [What is this?]}             # questions of one's own, for records without one; or a built-in set
    filters: {answer_chars: 1..4000, width: 224..}          # what is not within is refused as `filtered`
    images: {deep: true, upright: true, rgb: true, longest: 4096}    # none of these: the bytes of the corpus
    videos: {original: true}                    # the video itself is stored beside its frames
    dedup: exact            # exact | near: what equals a sample before it is refused; not said: counted and kept
exclude:                    # evaluation sets, entries of the same form: whatever equals one of theirs is refused
  mmbench: {format: llava, kind: qa, language: en, licence: Apache 2.0, root: eval/mmbench, files: test.json}
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, FiniteFloat, field_validator, model_validator

from tarsia.schemas.model import Model
from tarsia.schemas.sample import PLACEHOLDER, Kind

CAP = 4096  # records per shard: about 150 MB of 50 KB images, since leaves are two thirds full on average

_NUMBER = r"-?\d+(?:\.\d+)?"
_BOUNDS = re.compile(rf"({_NUMBER})?\.\.({_NUMBER})?")
_FIELD = re.compile(r"\{\w*\}")


def bounds(said: str) -> tuple[float, float] | None:
    """The least and the greatest number that `1..8`, `224..` or `..4` lets pass, both included; None if it is none.

    >>> bounds("224..")
    (224.0, inf)
    """
    match = _BOUNDS.fullmatch(said)
    if not match or said == "..":
        return None
    return float(match[1] or "-inf"), float(match[2] or "inf")


def _said(given: object) -> object:
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    return f"{given}..{given}" if is_number else given


def _possible(said: str) -> str:
    found = bounds(said)
    if found is None:
        raise ValueError(f"'{said}' is no range; write 1..8, 224.. or ..4")
    if found[0] > found[1]:
        raise ValueError(f"no number is within {said}")
    return said


def _from(least: int) -> AfterValidator:
    """Refuses a range that no fact can lie in, since facts are counted from `least`."""

    def check(said: str) -> str:
        if (bounds(said) or (0, 0))[1] < least:
            raise ValueError(f"nothing is within {said}: it is at least {least}")
        return said

    return AfterValidator(check)


_Range = Annotated[str, BeforeValidator(_said), AfterValidator(_possible)]

#: `1..8`, `224..`, `..4`, or one number, which is a range of its own.
Bounds = Annotated[_Range, _from(0)]
Counted = Annotated[_Range, _from(1)]  # what every sample has at least one of
Value = str | bool | int | FiniteFloat

ON_MEDIA = {"width", "height", "ratio", "seconds"}  # the filters that need media to be opened


class Filters(Model):
    """What a record must be to become a sample; each filter must let it pass. Ranges include both ends.

    Of the texts, placeholders do not count; of media, the sizes are those that are stored.
    """

    questions: Counted | None = None  # human turns
    question_chars: Bounds | None = None  # characters of every question
    answer_chars: Counted | None = None  # characters of every answer
    language: Literal["en", "zh"] | None = None
    contains: tuple[str, ...] = ()  # one of these stands in the conversation
    lacks: tuple[str, ...] = ()  # none of these does
    width: Counted | None = None  # pixels of every image and video
    height: Counted | None = None
    ratio: Counted | None = None  # longer side over shorter, of every image and video
    seconds: Bounds | None = None  # of every audio and video
    record: Mapping[str, Value | tuple[Value, ...]] = {}  # fields of the raw record: equal, one of several, or a range

    @field_validator("contains", "lacks", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("contains", "lacks")
    @classmethod
    def _something(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        if not all(words):
            raise ValueError("an empty text stands everywhere")
        return words

    @field_validator("record")
    @classmethod
    def _paths(cls, wanted: Mapping[str, Any]) -> Mapping[str, Any]:
        for path, value in wanted.items():
            if not all(path.split(".")):
                raise ValueError(f"'{path}' is no path; write a key, or keys with dots between them")
            if value == ():
                raise ValueError(f"{path}: nothing is one of no values")
            for one in value if isinstance(value, tuple) else (value,):
                if isinstance(one, str) and bounds(one):
                    _possible(one)
        return wanted


class Images(Model):
    """What is done with images beyond looking at their headers. A changed image is a JPEG if it was one, else a PNG."""

    deep: bool = False  # decode each one, and refuse what breaks
    upright: bool = False  # turn what a camera has stored on its side
    rgb: bool = False  # 8 bits of red, green and blue, on white; the first picture of several
    longest: int | None = Field(default=None, ge=28)  # pixels of the longer side; larger ones are shrunk


class Videos(Model):
    """What is stored of videos beyond frames."""

    original: bool = False  # the file itself


class Corpus(Model):
    """One entry of the catalog. Shards depend on its name, format, kind, language, rules and records."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=64)
    format: str
    kind: Kind
    language: Literal["en", "zh", "zh+en"]
    licence: str
    root: str
    of: tuple[str, ...] = ()  # corpora of the lake that it is made of, instead of a root
    files: tuple[str, ...] = ()
    media: str = ""
    strip: str = ""
    sets: Mapping[str, str] = {}
    tags: tuple[str, ...] = ()
    cap: int = Field(default=CAP, ge=1)
    template: str | Mapping[str, tuple[str, ...]] | None = None
    filters: Filters = Filters()
    images: Images = Images()
    videos: Videos = Videos()
    dedup: Literal["exact", "near"] | None = None

    @field_validator("files", "of", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _rootless(cls, entry: Any) -> Any:
        return {"root": "", **entry} if isinstance(entry, dict) and entry.get("of") else entry

    @model_validator(mode="after")
    def _somewhere(self) -> "Corpus":
        if not self.root and not self.of:
            raise ValueError("root: a folder or an address; or 'of', where it is made of other corpora")
        if self.of and (self.files or self.media or self.strip):
            raise ValueError("of: what is made of other corpora has no files and no media of its own")
        return self

    @field_validator("template", mode="before")
    @classmethod
    def _questions(cls, given: object) -> object:
        if isinstance(given, Mapping):
            return {language: (said,) if isinstance(said, str) else said for language, said in given.items()}
        return given

    @model_validator(mode="after")
    def _possible_together(self) -> "Corpus":
        """Questions of one's own can be asked in every language of the corpus; filters let some record pass."""
        if self.filters.language and self.filters.language not in self.language:
            raise ValueError(f"filters.language: the corpus speaks {self.language}, never {self.filters.language}")
        if not isinstance(self.template, Mapping):
            return self
        for language in self.language.split("+"):
            if language not in self.template:
                raise ValueError(f"template: no questions for '{language}', which the corpus speaks")
        for language, said in self.template.items():
            if language not in ("en", "zh"):
                raise ValueError(f"template: no language '{language}'. Known: en, zh")
            if not said or not all(question.strip() for question in said):
                raise ValueError(f"template.{language}: a question says nothing")
            if len(set(said)) < len(said):
                raise ValueError(f"template.{language}: a question is given twice")
            for question in said:
                if found := PLACEHOLDER.search(question) or _FIELD.search(question):
                    raise ValueError(f"template.{language}: '{found[0]}' is added where it is due; ask in plain words")
        return self

    def of_media(self) -> dict[str, Any]:
        """What the samples of a corpus depend on besides its records: nothing else makes a shard be written anew."""
        fields = self.model_dump(
            mode="json",
            include={"name": True, "kind": True, "language": True, "images": True, "videos": True, "filters": ON_MEDIA},
            exclude_defaults=True,
        )
        return {name: value for name, value in fields.items() if value}


class Catalog(Model):
    """The corpora of a lake, in the order of the page: of equal samples the one of the earlier corpus stays."""

    corpora: tuple[Corpus, ...]
    exclude: tuple[Corpus, ...] = ()  # evaluation sets: read, never ingested

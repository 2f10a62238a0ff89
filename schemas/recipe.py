"""Recipe: one page of YAML for a model's whole curriculum. Each stage asks for amounts of kinds.

    model: vita-1.5
    seed: 1
    context: {tokens: 6000, tokenizer: qwen2.5, tiles: 12, thumbnail: true, frames: {fps: 1, min: 4, max: 16}}
    stages:
      "2.2": {title: audio SFT, train: [llm], spoken: 50%, take: {caption: 4%, qa: 20%}}
      "3.1": {title: codec, train: [codec], form: waves, pack: {seconds: 600}, take: {tts: 3000h}}
      "4":
        title: audio SFT
        train: [llm]
        pack: {tokens: 2048}
        take:
          - {kind: qa, modality: audio, amount: 200%}
          - {kind: tts, tag: emilia, amount: 20% from 30%, cap: 100K samples}
          - {kind: tts, amount: 5%}

`take` names amounts of kinds, or lists **takes**, each narrowed as it likes. Takes are tried in order, and a sample
belongs to the first that admits it, so that the last line means all *other* text-to-speech. `docs/recipes.md` explains
every key.
"""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_serializer, model_validator

from tarsia.schemas.corpus import Corpus
from tarsia.schemas.identity import digest_of
from tarsia.schemas.model import Model
from tarsia.schemas.sample import MADE, PLACEHOLDER, Kind

DIGITS = 12  # decimals of an amount, at most
_DECIMAL = rf"\d+(?:\.\d{{1,{DIGITS}}})?"
_AMOUNT = re.compile(
    rf"({_DECIMAL})\s*(?:(%)(?:\s+from\s+({_DECIMAL})\s*%)?|(h)|([KMB]?)\s*(samples|questions|tokens))"
)
_SCALES = {"B": 10**9, "M": 10**6, "K": 10**3, "": 1}


class Amount(Model):
    """How much of what there is: `20%`, `20% from 30%`, `200%`, `3000h`, `474K samples`, `2B tokens`."""

    number: Fraction
    unit: Literal["%", "h", "samples", "questions", "tokens"]
    start: Fraction = Fraction(0)  # of a share: the percentage that it begins after

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        match = _AMOUNT.fullmatch(str(value).strip())
        if not match:
            raise ValueError(
                f"'{value}' is no amount; write a share like 20%, 20% from 30% or 200%, hours like 3000h, "
                "or a number like 474K samples, 1M questions, 2B tokens"
            )
        share, start, hours, scale, counted = match.groups()[1:]
        number = Fraction(match[1]) * _SCALES[scale or ""]
        if counted and number.denominator != 1:
            raise ValueError(f"'{value}' is not a whole number of {counted}")
        if start and number + Fraction(start) > 100:
            raise ValueError(f"'{value}' reaches {_decimal(number + Fraction(start))}%, a range ends at 100%")
        return {"number": number, "unit": share or hours or counted, "start": Fraction(start or 0)}

    @model_serializer
    def _text(self) -> str:
        return str(self)

    def __str__(self) -> str:
        if self.unit in ("%", "h"):
            return f"{_decimal(self.number)}{self.unit}" + (f" from {_decimal(self.start)}%" if self.start else "")
        scale = next(name for name, size in _SCALES.items() if self.number % size == 0) if self.number else ""
        return f"{self.number / _SCALES[scale]}{scale} {self.unit}"

    def of(self, count: int) -> int:
        """How many samples a share of `count` is: `round(share × count)`, half to even; of a range, the difference."""
        return round((self.start + self.number) / 100 * count) - self.skipped(count)

    def skipped(self, count: int) -> int:
        """How many of `count` samples come before a range."""
        return round(self.start / 100 * count)


def _decimal(number: Fraction) -> str:
    whole, rest = divmod(number * 10**DIGITS, 10**DIGITS)
    decimals = f"{int(rest):0{DIGITS}d}".rstrip("0")
    return f"{whole}.{decimals}" if decimals else f"{whole}"


class Frames(Model):
    """Which frames of a video the model sees: `fps` a second, but at least `min` and at most `max`."""

    fps: Literal[1, 3] = 1
    min: int = Field(default=4, ge=1)
    max: int = Field(default=16, ge=1)


AudioRule = Literal["vita", "glm4voice"]
States = Literal["tokens", "numbers", "labels", "none"]
PromptPolicy = Literal["context", "sample", "none"]


class Context(Model):
    """How a context is laid out, and what lengths depend on. Two plans are comparable only when these agree."""

    tokens: int = Field(ge=256)  # of one context, system prompt included
    tokenizer: str = "qwen2.5"  # or the path of a tokenizer.json or of a .tiktoken file
    words: str | None = None  # of a .tiktoken file: the pattern that cuts text into words, Qwen2.5's if not said
    tiles: int = Field(default=12, ge=1)  # of 448 pixels, at most, an image
    sample_tiles: int | None = Field(default=None, ge=1)  # at most of all images of a sample, thumbnails included
    thumbnail: bool = True
    frames: Frames = Frames()
    audio: AudioRule = "vita"  # how many tokens a sound is
    states: States = "tokens"  # what says whether the answered question was spoken, written or noise
    prompt: PromptPolicy = "context"  # a system prompt for each context, for each sample, or none
    positions: Literal["chat", "reset"] = "chat"  # ids that run through a context, or begin anew with each sample
    interleave: tuple[Annotated[int, Field(ge=1)], ...] = ()  # answers of text and sound: so many of each in turn
    request: dict[Literal["en", "zh"], str] = {}  # by language: what a recording to be recognised is asked, in words
    guide: int = Field(default=0, ge=0)  # trainable tokens before the first sound of each sample

    @field_validator("request")
    @classmethod
    def _words(cls, request: dict[str, str]) -> dict[str, str]:
        for said in request.values():
            if not said.strip() or said != said.strip() or PLACEHOLDER.search(said) or "<|" in said:
                raise ValueError(f"'{said}' must be words, without placeholders or blanks around them")
        return request

    @model_validator(mode="after")
    def _fits_together(self) -> "Context":
        if self.words is not None and not self.tokenizer.endswith(".tiktoken"):
            raise ValueError(f"words belongs to a .tiktoken file; the tokenizer is {self.tokenizer}")
        if self.interleave and self.audio != "glm4voice":
            raise ValueError("interleave cuts sound into runs of codes; it needs audio: glm4voice")
        if len(self.interleave) % 2:
            raise ValueError(f"interleave: {list(self.interleave)} needs pairs, tokens of text and of sound in turn")
        if any(sound <= SOUND_MARKS for sound in self.interleave[1::2]):
            raise ValueError(f"interleave: {list(self.interleave)}: a run of sound includes its {SOUND_MARKS} markers")
        return self


SOUND_MARKS = 2  # tokens that open and close each run of sound in VITA-Audio's answers


def _one_or_many(value: object) -> object:
    return (value,) if isinstance(value, str) else value


_MODALITIES = ("text", "image", "video", "audio", "image+video", "image+audio", "video+audio", "image+video+audio")


class Take(Model):
    """An amount of a kind; of several names under one key, any will do."""

    kind: Kind
    corpus: tuple[str, ...] = ()
    language: tuple[Literal["en", "zh"], ...] = ()
    modality: tuple[str, ...] = ()
    tag: tuple[str, ...] = ()
    amount: Amount
    cap: Amount | None = None  # samples of each corpus, at most

    _listed = field_validator("corpus", "language", "modality", "tag", mode="before")(_one_or_many)

    @field_validator("modality")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in _MODALITIES:
                raise ValueError(f"no modality '{name}'. Known: {', '.join(_MODALITIES)}")
        return names

    @model_validator(mode="after")
    def _capped(self) -> "Take":
        if self.cap and (self.cap.unit != "samples" or self.amount.unit != "%"):
            raise ValueError(f"cap: {self.cap} must be samples, like 100K samples, and the amount a share")
        return self

    def __str__(self) -> str:
        narrowed = [
            f"{name} {' or '.join(names)}"
            for name in ("corpus", "language", "modality", "tag")
            if (names := getattr(self, name))
        ]
        return f"{self.kind.value}" + (f" ({', '.join(narrowed)})" if narrowed else "")

    def covers(self, other: "Take") -> bool:
        """Whether every sample that another take admits is admitted here."""
        narrowings = [(getattr(self, name), getattr(other, name)) for name in ("corpus", "language", "modality", "tag")]
        return self.kind is other.kind and all(not mine or (its and {*its} <= {*mine}) for mine, its in narrowings)

    def wants(self, corpus: Corpus) -> bool:
        """Whether samples of a corpus may be admitted."""
        return (
            corpus.kind is self.kind
            and (not self.corpus or corpus.name in self.corpus)
            and (not self.tag or not {*self.tag}.isdisjoint(corpus.tags))
        )

    def admits(self, language: str, modality: str) -> bool:
        """Whether a sample of such a corpus is asked for."""
        return (not self.language or language in self.language) and (not self.modality or modality in self.modality)


MOST_SAMPLES = 1000  # of one batch: a slot has three digits

Alone = Literal["caption", "qa", "asr", "tts", "noise", "text", "image", "video", "audio"]


class Pack(Model):
    """How contexts are shared: packed up to so many tokens; or, with `seconds`, batches of samples that last alike.

    Each sample of a batch is a row of its own, under its own system prompt. A batch lasts
    as long as its longest sample, as often as it has samples: that is what an encoder is given, padding included.
    """

    tokens: int | None = Field(default=None, ge=256)  # of one context of this stage, if not the recipe's
    tiles: int | None = Field(default=None, ge=1)  # tiles and frames of one context, at most
    alone: tuple[Alone, ...] = ("video", "noise")  # kinds and media that share with nobody
    seconds: float | None = Field(default=None, gt=0, le=86_400)  # of sound in one batch, padding included, at most
    samples: int = Field(default=MOST_SAMPLES, ge=1, le=MOST_SAMPLES)  # of one batch, at most

    _listed = field_validator("alone", mode="before")(_one_or_many)

    @model_validator(mode="after")
    def _one_or_the_other(self) -> "Pack":
        for name in ("tiles", "alone") if self.seconds else ("samples",):
            if name in self.model_fields_set and getattr(self, name) != type(self).model_fields[name].default:
                what = "batches by seconds have no" if self.seconds else "only batches by seconds have"
                raise ValueError(f"{name}: {what} such key")
        return self


SHAPES = ("{}", "[]")  # of what is taken: amounts by kind, or a list of takes


def _shape(value: Any) -> str:
    return "{}" if isinstance(value, dict) else "[]"


Form = Literal["chat", "ctc", "waves", "pairs"]
Modules = Annotated[tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], ...], Field(min_length=1)]


class Step(Model):
    """One of several passes over the same batches of a stage: what it trains, and on which arrays."""

    title: str
    train: Modules
    form: Form = "chat"


class Stage(Model):
    """What one stage trains, and on how much of what."""

    title: str
    train: Modules
    form: Form = "chat"  # which arrays samples become: conversations, or features, waves, pairs of an utterance
    steps: dict[Annotated[str, Field(pattern=r"^[a-z0-9]+$")], Step] = {}  # in their order; each has a form of its own
    guide: int | None = Field(default=None, ge=0)  # trainable tokens before sound, if not the recipe's
    take: Annotated[
        Annotated[tuple[Take, ...], Tag("[]"), Field(min_length=1)]
        | Annotated[dict[Kind, Amount], Tag("{}"), Field(min_length=1)],
        Discriminator(_shape),
    ]
    spoken: Amount | None = None  # share of all human turns of the stage
    pack: Pack | None = Pack()  # none, written `false`: one sample a context (speech stages)

    @field_validator("pack", mode="before")
    @classmethod
    def _yes_or_no(cls, value: object) -> object:
        return Pack() if value is True else None if value is False else value

    @model_validator(mode="after")
    def _possible(self) -> "Stage":
        if len(set(self.train)) < len(self.train):
            raise ValueError(f"train: {list(self.train)} names a module twice")
        if self.spoken and (self.spoken.unit != "%" or self.spoken.start or self.spoken.number > 100):
            raise ValueError(f"spoken: {self.spoken} must be a share, like 50%")
        for number, take in enumerate(self.takes):
            if before := next((one for one in self.takes[:number] if one.covers(take)), None):
                raise ValueError(f"take {take} comes after {before}, which leaves nothing; put the narrower one first")
        if self.spoken and self.pack and self.pack.seconds:
            raise ValueError("spoken: some questions stay written, and batches by seconds hold nothing but sound")
        trained = {module for step in self.steps.values() for module in step.train}
        if self.steps and (trained != {*self.train} or self.form != "chat"):
            raise ValueError(
                f"steps: they train {sorted(trained)}, the stage {sorted(self.train)}; these are the same modules, "
                "and the form is that of each step"
            )
        if self.spoken and any(take.amount.unit == "tokens" for take in self.takes):
            raise ValueError("spoken: what is heard changes the number of tokens; take samples or a share instead")
        return self

    @property
    def takes(self) -> tuple[Take, ...]:
        """What the stage asks for, in the order in which samples are admitted; amounts of kinds by their names."""
        if isinstance(self.take, dict):
            return tuple(Take(kind=kind, amount=amount) for kind, amount in sorted(self.take.items()))
        return self.take

    @property
    def listens(self) -> bool:
        """Whether voices may have to speak for it: half of its questions, or samples that are to be made."""
        return self.spoken is not None or any(take.kind in MADE for take in self.takes)

    def wants(self, corpus: Corpus) -> bool:
        """Whether any take may admit samples of a corpus."""
        return any(take.wants(corpus) for take in self.takes)

    def admitted(self, corpus: Corpus) -> Iterator[tuple[int, Take]]:
        """The takes, by their number, that may admit samples of a corpus."""
        return ((number, take) for number, take in enumerate(self.takes) if take.wants(corpus))


class Recipe(Model):
    """The curriculum of one model."""

    model: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    seed: int = Field(ge=0)
    context: Context
    modules: tuple[str, ...] = ()  # what the model consists of; where said, stages train these and no others
    stages: dict[str, Stage] = Field(min_length=1)

    @model_validator(mode="after")
    def _names(self) -> "Recipe":
        for name, stage in self.stages.items():
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
                raise ValueError(f"stage '{name}': use letters, digits, '.', '_' and '-'")
            for module in stage.train if self.modules else ():
                if module not in self.modules:
                    near = get_close_matches(module, self.modules, n=1)
                    hint = f"; did you mean '{near[0]}'?" if near else "."
                    known = ", ".join(self.modules)
                    raise ValueError(f"stage '{name}': no module '{module}' to train{hint} Known: {known}")
        return self

    def context_of(self, stage: str) -> Context:
        """The settings of one stage: the recipe's, with the stage's own budget and guide tokens where it has them.

        The samples of a batch by seconds are rows, none of which can share a system prompt with another.
        """
        own, pack = dict[str, Any](), self.stages[stage].pack
        if pack and pack.tokens:
            own["tokens"] = pack.tokens
        if pack and pack.seconds and self.context.prompt == "context":
            own["prompt"] = "sample"
        if self.stages[stage].guide is not None:
            own["guide"] = self.stages[stage].guide
        return self.context.model_copy(update=own) if own else self.context

    def alone(self, stage: str) -> "Recipe":
        """The recipe with one stage only: what that stage's manifest depends on."""
        stages, context = {stage: self.stages[stage]}, self.context_of(stage)
        return self.model_copy(update={"modules": (), "context": context, "stages": stages})

    @property
    def digest(self) -> str:
        """The identity of the recipe."""
        return digest_of(self.model_dump(mode="json"))

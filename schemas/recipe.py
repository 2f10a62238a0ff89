"""Recipe: one page of YAML for a model's whole curriculum. Each stage asks for amounts of kinds.

    model: vita-1.5
    seed: 1
    context: {tokens: 6000, tokenizer: qwen2.5, tiles: 12, thumbnail: true, frames: {fps: 1, min: 4, max: 16}}
    stages:
      "2.2": {title: audio SFT, train: [llm], spoken: 50%, take: {caption: 4%, qa: 20%}}
      "3.1": {title: codec, train: [codec], pack: false, take: {tts: 3000h}}

An amount is a share of each corpus of the kind (`20%`, counted in samples) or hours of its audio (`3000h`, divided over
the corpora of the kind by what each has).
"""

import re
from fractions import Fraction
from typing import Any, Literal

from pydantic import Field, model_serializer, model_validator

from tarsia.schemas.identity import digest_of
from tarsia.schemas.model import Model
from tarsia.schemas.sample import Kind

DIGITS = 12  # decimals of an amount, at most
_AMOUNT = re.compile(rf"(\d+(?:\.\d{{1,{DIGITS}}})?)\s*(%|h)")


class Amount(Model):
    """How much of a kind: `20%` or `3000h`."""

    number: Fraction
    unit: Literal["%", "h"]

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return value
        match = _AMOUNT.fullmatch(str(value).strip())
        if not match:
            raise ValueError(f"'{value}' is no amount; write a share like 20% or hours like 3000h")
        number, unit = Fraction(match[1]), match[2]
        if unit == "%" and number > 100:
            raise ValueError(f"'{value}' is more than all there is")
        return {"number": number, "unit": unit}

    @model_serializer
    def _text(self) -> str:
        return str(self)

    def __str__(self) -> str:
        whole, rest = divmod(self.number * 10**DIGITS, 10**DIGITS)
        decimals = f"{int(rest):0{DIGITS}d}".rstrip("0")
        return f"{whole}.{decimals}{self.unit}" if decimals else f"{whole}{self.unit}"

    def of(self, count: int) -> int:
        """The exact number of samples that a share of `count` samples is: `round(share × count)`, half to even."""
        return round(self.number / 100 * count)


class Frames(Model):
    """Which frames of a video the model sees: `fps` a second, but at least `min` and at most `max`."""

    fps: Literal[1, 3] = 1
    min: int = Field(default=4, ge=1)
    max: int = Field(default=16, ge=1)


class Context(Model):
    """What lengths depend on. Two plans are comparable only when these agree."""

    tokens: int = Field(ge=256)  # of one context, system prompt included
    tokenizer: str = "qwen2.5"
    tiles: int = Field(default=12, ge=1)  # of 448 pixels, at most, an image
    thumbnail: bool = True
    frames: Frames = Frames()


class Stage(Model):
    """What one stage trains, and on how much of what."""

    title: str
    train: tuple[str, ...] = Field(min_length=1)
    take: dict[Kind, Amount] = Field(min_length=1)
    spoken: Amount | None = None  # share of all human turns of the stage
    pack: bool = True  # false: one sample a context (speech stages)

    @model_validator(mode="after")
    def _spoken_is_a_share(self) -> "Stage":
        if self.spoken and self.spoken.unit != "%":
            raise ValueError(f"spoken: {self.spoken} must be a share, like 50%")
        return self


class Recipe(Model):
    """The curriculum of one model."""

    model: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    seed: int = Field(ge=0)
    context: Context
    stages: dict[str, Stage] = Field(min_length=1)

    @model_validator(mode="after")
    def _names(self) -> "Recipe":
        for name in self.stages:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
                raise ValueError(f"stage '{name}': use letters, digits, '.', '_' and '-'")
        return self

    @property
    def digest(self) -> str:
        """The identity of the recipe."""
        return digest_of(self.model_dump(mode="json"))

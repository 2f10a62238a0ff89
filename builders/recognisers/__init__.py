"""Recognisers that listen to what a voice has said: one file, one recogniser. The file's name is its registration.

A recogniser is a module with `open_ears(check, pause) -> Ears`, which says what is wrong with the settings before all
work, and `version() -> str`. Its ears are used by many threads at once.
"""

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from typing import NamedTuple, Protocol, cast

from tarsia.builders.voices import Wave
from tarsia.schemas.errors import BadVoices, UnknownName
from tarsia.schemas.voice import Check


class Transcript(NamedTuple):
    """What was heard of a clip, and the share of its text that was not heard, or heard beside it."""

    heard: str
    missed: float


class Ears(Protocol):
    """A recogniser at work."""

    def hear(self, wave: Wave, language: str) -> str:
        """What is said in `en` or `zh`; `Unwell` when the recogniser is away, which says nothing of the speech."""


class Recogniser(Protocol):
    """What the module of a recogniser offers."""

    def open_ears(self, check: Check, *, pause: Callable[[int], float]) -> Ears:
        """Ears as the settings want them, or `BadVoices`. `pause`: seconds between one attempt and the next."""

    def version(self) -> str:
        """What of the recogniser its judgement depends on."""


def recognisers() -> list[str]:
    """The recognisers that come with Tarsia."""
    return sorted(module.name for module in iter_modules(__path__))


def find(name: str) -> Recogniser:
    """The module of a recogniser; `package.module` imports someone else's."""
    if "." not in name and name not in recognisers():
        raise UnknownName("recogniser", name, recognisers(), "check")
    module = import_module(name if "." in name else f"{__name__}.{name}")
    if not hasattr(module, "open_ears"):
        raise BadVoices(f"check: the module '{name}' has no 'open_ears'")
    return cast(Recogniser, module)

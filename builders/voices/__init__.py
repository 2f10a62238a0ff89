"""Engines that speak: one file, one engine. The file's name is its registration.

An embedded engine is a module with `speak(spoken, *, language, options) -> Wave` and `version() -> str`; the version is
part of every clip's identity, so a new engine never passes for an old one. An engine that is a server has `request`,
`say`, `patience` and `probe` instead (`builders.fleet.Served`); `tarsia speak` drives embedded engines only, so far.
"""

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import NamedTuple, Protocol, cast

import numpy as np
import numpy.typing as npt

from tarsia.schemas.errors import BadVoices, UnknownName


class Wave(NamedTuple):
    """Mono speech: int16 samples at `rate` Hz."""

    samples: npt.NDArray[np.int16]
    rate: int


class Engine(Protocol):
    """What a module of this folder offers."""

    def speak(self, spoken: str, *, language: str, options: Mapping[str, str]) -> Wave:
        """Speech of a text in `en` or `zh`."""

    def version(self) -> str:
        """What of the engine its sound depends on."""


def engines() -> list[str]:
    """The engines that come with Tarsia."""
    return sorted(module.name for module in iter_modules(__path__))


def find(name: str, where: str = "") -> Engine:
    """The engine of a name; `package.module` imports someone else's."""
    if "." not in name and name not in engines():
        raise UnknownName("engine", name, engines(), where)
    engine = import_module(name if "." in name else f"{__name__}.{name}")
    if not hasattr(engine, "speak"):
        raise BadVoices(f"{where}{': ' if where else ''}engine '{name}' is a server's client, driven by builders.fleet")
    return cast(Engine, engine)

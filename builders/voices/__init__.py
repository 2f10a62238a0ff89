"""Engines that speak: one file, one engine. The file's name is its registration.

An embedded engine is a module with `speak(spoken, *, language, options) -> Wave` and `version() -> str`; the version is
part of every clip's identity, so a new engine never passes for an old one. An engine that is a server has `request`,
`say`, `patience` and `probe` instead of `speak` (`builders.fleet.Served`); its pool says at which endpoints it is.
"""

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from tarsia.schemas.errors import BadVoices, UnknownName


class Wave(NamedTuple):
    """Mono speech: int16 samples at `rate` Hz."""

    samples: npt.NDArray[np.int16]
    rate: int


class Engine(Protocol):
    """What the module of an embedded engine offers."""

    def speak(self, spoken: str, *, language: str, options: Mapping[str, str]) -> Wave:
        """Speech of a text in `en` or `zh`."""

    def version(self) -> str:
        """What of the engine its sound depends on."""


def engines() -> list[str]:
    """The engines that come with Tarsia."""
    return sorted(module.name for module in iter_modules(__path__))


def find(name: str, where: str = "") -> ModuleType:
    """The module of an engine; `package.module` imports someone else's."""
    if "." not in name and name not in engines():
        raise UnknownName("engine", name, engines(), where)
    engine = import_module(name if "." in name else f"{__name__}.{name}")
    if not (hasattr(engine, "speak") or is_served(engine)):
        raise BadVoices(f"{where}{': ' if where else ''}the module '{name}' has neither 'speak' nor 'request'")
    return engine


def is_served(engine: ModuleType) -> bool:
    """Whether an engine is a server, that is asked over the network."""
    return hasattr(engine, "request")

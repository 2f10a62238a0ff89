"""Everything that can go wrong, and what a person is told: what, where, next.

TarsiaError
├── UserError            someone's mistake; the command line prints the message and exits with 2
│   ├── BadCatalog       a catalog that cannot be read or does not say what is needed
│   ├── BadRecipe        a recipe that cannot be read, or asks for the impossible
│   ├── BadVoices        a pool of voices that cannot be read
│   ├── UnknownName      a format, engine, corpus, stage … that is not there; lists the known ones
│   ├── MissingExtra     an optional package is not installed; names the pip line
│   ├── NotThere         a lake, snapshot, manifest or object that should exist and does not
│   ├── Outside          a path that leaves its root
│   ├── Drift            a manifest is there already and says something else; lists what differs
│   └── Pending          a stage whose spoken questions have no verdict yet
├── StorageFault         the store refused or broke; carries the address; trying again may help
├── Exists               a conditional create found the name taken (callers expect it)
├── Corrupt              stored bytes are not what their record says; exit code 1
└── Refused              one record cannot become a sample: a quarantine row, never a stop
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class TarsiaError(Exception):
    """The root: catch this and nothing of Tarsia escapes. Crosses process borders whole."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.args, self.__dict__)


def _rebuilt(kind: type[TarsiaError], args: tuple[Any, ...], fields: dict[str, Any]) -> TarsiaError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(fields)
    return error


class UserError(TarsiaError, ValueError):
    """A mistake that the person at the keyboard can mend. The message says what, where and what next."""


class BadCatalog(UserError):
    """The catalog cannot be used as it is."""


class BadRecipe(UserError):
    """The recipe cannot be used as it is."""


class BadVoices(UserError):
    """The voices cannot be used as they are."""


class BadCodes(UserError):
    """What is given for codes of a codec is none."""


class UnknownName(UserError):
    """Something was named that does not exist; the message lists what does."""

    def __init__(self, what: str, name: str, known: Iterable[str], where: str = "", otherwise: str = "") -> None:
        names = sorted(known)
        near = get_close_matches(name, names, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else "."
        place = f"{where}: " if where else ""
        super().__init__(f"{place}no {what} '{name}'{hint} Known: {', '.join(names) or 'none'}{otherwise}")


class MissingExtra(UserError):
    """An optional package is needed here and is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"this needs the package '{package}': pip install 'tarsia[{extra}]'")


class NotThere(UserError):
    """A lake, snapshot, manifest or object is not where it was looked for."""


class Outside(UserError):
    """A path leads out of the folder or bucket it belongs to."""


class Drift(UserError):
    """A manifest stands where another was about to be written."""


class Pending(UserError):
    """A stage asks for speech that has not been decided yet."""


class StorageFault(TarsiaError):
    """The store could not do it; nothing half-written is visible."""


class Exists(TarsiaError):
    """A conditional create lost: the name is taken."""


class Corrupt(TarsiaError):
    """Stored bytes disagree with their record: checksum, digest, count or order."""


class Refused(TarsiaError):
    """One record cannot become a sample; it becomes a quarantine row with this code and message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message

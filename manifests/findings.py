"""What an audit writes down: how much it looked at, and what did not agree."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from tarsia.schemas.errors import TarsiaError
from tarsia.schemas.model import Model

_SAID = 3  # of the places that are not as they should be


class Finding(Model):
    """One disagreement: where, and what."""

    where: str
    what: str


class Recounted(Model):
    """A stage, as it was recounted."""

    stage: str  # model/stage
    samples: int  # selected, each once
    contexts: int
    longest: int  # tokens of its longest context
    room: int | None  # tokens that a context may have; none of batches by seconds


class Shared(Model):
    """How many samples two stages have in common."""

    stage: str
    other: str
    samples: int
    nested: bool  # whether these are all that one of them has


class Audit(Model):
    """What was looked at, and what did not agree."""

    checks: int
    findings: tuple[Finding, ...]
    stages: tuple[Recounted, ...] = ()
    shared: tuple[Shared, ...] = ()


class Book:
    """Collects checks and findings."""

    def __init__(self) -> None:
        self.checks = 0
        self.findings: list[Finding] = []

    def check(self, where: str, ok: bool, what: str) -> None:
        """Notes one check."""
        self.checks += 1
        if not ok:
            self.findings.append(Finding(where=where, what=what))

    def equal(self, where: str, name: str, claimed: Any, found: Any) -> None:
        """Notes that two figures should be the same; seconds to a microsecond in a million."""
        same = claimed == found
        if isinstance(claimed, float) and isinstance(found, float | int):
            same = abs(claimed - found) <= 1e-6 * max(1.0, abs(claimed))
        self.check(where, same, f"{name}: recorded {claimed}, found {found}")

    def none(self, where: str, what: str, wrong: npt.NDArray[np.bool_], say: Callable[[int], Any]) -> None:
        """Notes that no place is wrong; the first that are, are said."""
        places = np.flatnonzero(wrong)
        first = "; ".join(str(say(place)) for place in places[:_SAID].tolist())
        more = f" and {len(places) - _SAID:,} more" if len(places) > _SAID else ""
        self.check(where, not len(places), f"{what}: {first}{more}")

    @contextmanager
    def reading(self, where: str) -> Iterator[None]:
        """Whatever stored data make a check stumble over is a finding too: an audit always ends with a report."""
        try:
            yield
        except TarsiaError as error:
            self.check(where, False, str(error))
        except Exception as error:
            self.check(where, False, f"cannot be checked: {type(error).__name__}: {error}")

"""What `wetext` makes of a piece of text: the one file that asks it.

Its grammars come with it. Importing it costs 0.3 CPU-seconds, and 50 MB of memory; a piece, 0.3 ms.
"""

from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from threading import Lock
from typing import Any

from tarsia.schemas.errors import MissingExtra


def version() -> str:
    """Another version may say other words."""
    try:
        return f"wetext-{installed('wetext')}"
    except PackageNotFoundError:
        return "no-wetext"


@cache
def wetext() -> dict[str, Any]:
    """Its readers of each language; `MissingExtra` where it is not installed."""
    try:
        from wetext import Normalizer
    except ImportError as absent:
        raise MissingExtra("wetext", "speech") from absent
    return {language: Normalizer(lang=language, operator="tn") for language in ("en", "zh")}


_ALONE = Lock()  # its automata are shared, and promise nothing to threads


@lru_cache(maxsize=1 << 14)
def read(text: str, language: str) -> str:
    """What wetext makes of a piece of text; as it was where wetext stumbles (it cannot read `5+`)."""
    with _ALONE:
        try:
            return str(wetext()[language].normalize(text))
        except (AssertionError, RuntimeError):
            return text


def simplified(text: str) -> str:
    """Traditional characters made simple, as recognisers may write either."""
    with _ALONE:
        return str(_simplifier().normalize(text)) if text else text


@cache
def _simplifier() -> Any:
    wetext()
    from wetext import Normalizer

    return Normalizer(lang="zh", operator="tn", traditional_to_simple=True)

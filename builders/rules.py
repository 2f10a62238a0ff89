"""How a language's own rules of reading are written: what is found, and what is said instead."""

import re
from collections.abc import Callable, Iterable

Said = str | Callable[[re.Match[str]], str]
Rule = tuple[re.Pattern[str], Said]


def rule(pattern: str, said: Said) -> Rule:
    """One rule; `said` is a template of `re.sub`, or makes the words out of what was found."""
    return re.compile(pattern), said


def read_by(rules: Iterable[Rule], text: str) -> str:
    """The text after each rule in its turn."""
    for pattern, said in rules:
        text = pattern.sub(said, text)
    return text

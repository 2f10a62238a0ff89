"""Where sentences end: as VITA-1.5 cuts a text before it is spoken, and which of them state something.

At run time VITA's speech decoder is given a text in pieces, cut at the next stop or comma once five characters are
there. What it learns to speak from should be cut alike (`clauses`). Noise is made of sentences that nobody would take
for a question or a request (`statements`).
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from tarsia.builders.speech import HANZI, parts, unspeakable
from tarsia.schemas.sample import PLACEHOLDER

LEAST = 5  # characters of a piece: VITA's own number
WORDS_LEAST, WORDS_MOST = 4, 25  # of a statement in English
HANZI_LEAST, HANZI_MOST = 6, 40  # and in Chinese

_CUT = re.compile(r"[，。？！、\n]|[,.?!]+[\"”’)]*(?=\s|$)")
_STOP = re.compile(r"[。！？…]+[”’」』）]*|[.!?]+[\"”’)]*(?=\s|$)|\n+")
_WORD = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*")


def clauses(text: str) -> list[str]:
    """A text in pieces as VITA-1.5 speaks it; together they are the text, but for space at their ends."""
    ends, begin = list[int](), 0
    for mark in _CUT.finditer(text):
        piece = text[begin : mark.end()].strip()
        if len(piece) >= LEAST and (HANZI.search(piece) or len(_WORD.findall(piece)) > 1):
            ends.append(begin := mark.end())
    if ends and len(text[begin:].strip()) < LEAST:
        ends.pop()  # what is left over belongs to the piece before it
    pieces = (text[begin:end].strip() for begin, end in zip([0, *ends], [*ends, len(text)], strict=True))
    return [piece for piece in pieces if piece]


class Statement(NamedTuple):
    """A sentence that states something, and how the text goes on after it."""

    said: str
    rest: str


def statements(text: str, language: str) -> Iterator[Statement]:
    """The sentences of a text that state something, can be spoken, and are not its last."""
    if PLACEHOLDER.search(text):
        return
    begin = 0
    for stop in _STOP.finditer(text):
        said, rest = text[begin : stop.end()].strip(), text[stop.end() :].strip()
        begin = stop.end()
        if rest and _states(said, language) and unspeakable(said, language) is None and not parts(said)[1]:
            yield Statement(said, rest)


def _states(said: str, language: str) -> bool:
    """Whether a sentence is a statement that is meant for nobody, as far as its words tell."""
    if language == "zh":
        stands = said.endswith("。") and HANZI_LEAST <= len(HANZI.findall(said)) <= HANZI_MOST
        return stands and not _TO_ZH.search(said)
    words = _WORD.findall(said)
    stands = said.endswith(".") and said[0].isupper() and WORDS_LEAST <= len(words) <= WORDS_MOST
    return stands and not _TO_EN.search(said) and words[0].lower() not in _OPENINGS


_TO_ZH = re.compile("[你您我咱吗呢吧？?！!]|请|让我|抱歉|对不起|作为一个|当然|以下|如下|^(?:好的|是的|不是|没有|答案)")
_TO_EN = re.compile(
    r"[?!:;]|\b(?:you|your|yours|i|me|my|we|us|our|please|sorry|let's|i'm|i'd|i'll)\b|"
    r"\b(?:as an ai|sure|certainly|following)\b",
    re.IGNORECASE,
)
_VERBS = (
    "add answer ask avoid be bring build buy call check choose click come consider cook copy cut do don't "
    "draw eat enter explain fill find follow get give go help here hold keep learn leave list listen look "
    "make mix move never no note open pay pick place play practice press provide put read remember remove "
    "repeat replace run save say see select send set show sit sleep speak start stay step stop store take "
    "talk tell think try turn use visit wait walk wash watch wear write yes"
)
_OPENINGS = frozenset(_VERBS.split())

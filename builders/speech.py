"""Which questions can be spoken at all, and what a voice is given to say.

A question is spoken if a person could have asked it aloud: a line or two of plain Chinese or English. Whatever needs
eyes (code, formulas, tables, options, links) stays text, each with its reason. Image and video placeholders are not
said; the answer's form ("Answer with the letter.") would be lost, so a question that ends so stays text too.
"""

import re

from tarsia.schemas.sample import AUDIO, PLACEHOLDER

HANZI = re.compile(r"[㐀-鿿豈-﫿]")
_WORDS = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*")
_REASONS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("blank", re.compile(r"_{2,}|\.{4,}|…{2,}")),
    ("neutralised", re.compile("\u2060")),  # a control token of the corpus's own
    ("code", re.compile(r"```|`|\bdef \w+\(|\breturn\b.*;|[{}]|=>|==|</?\w+>|\(\)")),
    ("link", re.compile(r"https?://|www\.|\b[\w.]+@[\w.]+\.\w+|(?:^|\s)/\w+/\w+")),
    ("formula", re.compile(r"\$|\\[a-zA-Z]+|\w[\^_]\{?\w|[∑∫√≤≥≠±×÷∈∀∃]")),
    ("options", re.compile(r"(?:^|\s)\(?[A-D][.):、．]\s?\S.*(?:^|\s)\(?[B-E][.):、．]", re.DOTALL)),
    (
        "answer form",
        re.compile(r"(?i)\banswer (?:with|using|in) (?:the|a|an|one) (?:letter|option|single|word)|只回答选项"),
    ),
    ("digits", re.compile(r"\d{13,}")),
)
_STOPS = tuple(",.?!:;，。？！：；、…")
_ITEM = re.compile(r"\s*(?:[-*•|]|\d+[.)、])\s")
SPOKEN_RULES = "1"  # of `spoken_form`: a change makes other words, which are spoken anew
HANZI_MOST, WORDS_MOST, LETTERS_MOST = 60, 40, 260  # about 20 seconds of speech


def unspeakable(text: str, language: str) -> str | None:
    """Why a question stays text, or None when a voice may ask it."""
    said = plain(text)
    if AUDIO in text:
        return "audio already"
    if not said:
        return "nothing to say"
    lines = said.splitlines()
    if len(lines) > 2 or "\t" in said or any(_ITEM.match(line) for line in lines):
        return "several lines"
    for reason, pattern in _REASONS:
        if pattern.search(said):
            return reason
    hanzi, words = len(HANZI.findall(said)), _WORDS.findall(said)
    letters = sum(map(len, words))
    if hanzi > HANZI_MOST or len(words) > WORDS_MOST or letters > LETTERS_MOST:
        return "too long"
    if language == "zh" and hanzi < 2:
        return "language"
    if language == "en" and (hanzi or len(words) < 2):
        return "language"
    strange = sum(
        not (char.isalnum() or char.isspace() or char in ",.?!:;'’\"“”‘()-%&，。？！：；、（）《》·—") for char in said
    )
    return "symbols" if strange * 5 > len(said) else None


def plain(text: str) -> str:
    """A question without its placeholders."""
    return PLACEHOLDER.sub("", text).strip()


def spoken_form(text: str, language: str) -> str:
    """What the voice is given: the question on one line, a stop between lines, no quotation marks or brackets."""
    del language
    lines = [_UNSAID.sub(" ", line).strip() for line in plain(text).splitlines()]
    full = [
        line if line.endswith(_STOPS) else line + ("。" if HANZI.search(line) else ".") for line in lines[:-1] if line
    ]
    return _LOOSE.sub("", " ".join(" ".join([*full, lines[-1]]).split()))


_UNSAID = re.compile(r"[\"“”‘()（）《》]")
_LOOSE = re.compile(r"(?<=[㐀-鿿，。？！：；、])\s+(?=[㐀-鿿，。？！：；、])")

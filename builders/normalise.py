"""Written text as it is said, in Mandarin or English: no digit and no sign is left for a voice to guess at.

Engines read "GPT-4", "$5-10" or "1990s" each in a way of its own, and some drop what they do not know. So the text that
names a clip, that a voice is given and that a recogniser is measured by is in words already. Our own rules come first,
for all that `wetext` was measured to read wrongly (tests/normalise.tsv has the cases); `wetext` reads the rest. What
neither understood is read digit by digit. The result is a fixed point: normalised again it stays as it is.
"""

import re
import unicodedata

from tarsia.builders import english, mandarin, spelling
from tarsia.builders.rules import read_by

RULES = 1  # of ours; another number where they speak any text differently


def rules() -> str:
    """What the words of a text depend on: our rules and the version of wetext."""
    return f"{RULES}-{spelling.version()}"


def normalise(text: str, language: str) -> str:
    """The text as it is said in `en` or `zh`, on one line; `MissingExtra` where wetext is not installed."""
    spelling.wetext()
    for _ in range(_PASSES):
        text, before = _once(text, language), text
        if text == before:
            break
    return text


_PASSES = 4  # the second changes nothing but where one sign, left out, has joined others


def _once(text: str, language: str) -> str:
    text = _plain(_VULGAR.sub(" and " if language == "en" else "又", text))
    return _tidy(read_by(english.RULES if language == "en" else mandarin.RULES, text), language)


def _plain(text: str) -> str:
    """Full-width letters and digits made plain, Chinese punctuation kept, one kind of quote and dash."""
    text = _POWERS.sub(lambda sign: "^" + str("⁰¹²³⁴⁵⁶⁷⁸⁹".index(sign[0])), text)
    text = "".join(char if char in _KEPT else unicodedata.normalize("NFKC", char) for char in text)
    text = re.sub(r"[^\D0-9]", lambda digit: str(unicodedata.decimal(digit[0])), text)  # of other scripts
    return text.translate(_ONE_KIND)


_VULGAR = re.compile(r"(?<=\d)\s?(?=[¼-¾⅐-⅞])")  # as in 2½
_POWERS = re.compile("[⁰¹²³⁴-⁹]")
_KEPT = frozenset("，。？！：；、…—（）～")
_ONE_KIND = str.maketrans(
    {"’": "'", "‘": "'", "⁄": "/", "−": "-", "–": "-", "‐": "-", "‑": "-", "∶": ":", "〜": "~", "～": "~"}
)


def _tidy(text: str, language: str) -> str:
    """What cannot be said is left out; one blank, no blank before a stop."""
    for sign, word in _SIGNS[language].items():
        text = text.replace(sign, word)
    text = "".join(char if _sayable(char) else " " for char in text)
    text = re.sub(r"(?<![A-Za-z])'|'(?![A-Za-z])", " ", text)  # quotes, not apostrophes
    text = re.sub(r"(?<=\w)\s+-+\s+(?=\w)", "，" if language == "zh" else ", ", text)
    text = re.sub(r"(?<![A-Za-z])-+|-+(?![A-Za-z])", " ", text)
    text = re.sub(r"\s+(?=[,.?!:;，。？！：；、…])", "", " ".join(text.split()))
    text = re.sub(r"\s*(?:\.{2,}|…+)\s*(?=\S)", "，" if language == "zh" else ", ", text)
    text = re.sub(r"\s*(?:\.{2,}|…+)\s*$", "。" if language == "zh" else ".", text)
    text = re.sub(r"(?<=[㐀-鿿豈-﫿，。？！：；、])\s+|\s+(?=[㐀-鿿豈-﫿])", "", text) if language == "zh" else text
    text = re.sub(r"([,，;；:：、])(?:[,，;；:：、]\s*)+", r"\1 " if language == "en" else r"\1", text)
    return re.sub(r"[,，;；:：、]\s*(?=[.?!。？！])", "", text).strip(" ,，;；、-")


def _sayable(char: str) -> bool:
    return char.isalpha() or char in " .,?!:;'-，。？！：；、…" or unicodedata.category(char) == "Mn"


_SIGNS = {
    "en": {"&": " and ", "+": " plus ", "=": " equals ", "%": " percent ", "°": " degrees ", "×": " times ",
           "÷": " divided by ", "±": " plus or minus ", "<": " less than ", ">": " greater than ", "@": " at ",
           "π": " pi ", "—": ", ", "€": " euros ", "£": " pounds ", "$": " dollars ", "~": " ", "/": " "},
    "zh": {"&": "和", "+": "加", "=": "等于", "%": "百分号", "°": "度", "×": "乘", "÷": "除以", "±": "正负",
           "<": "小于", ">": "大于", "@": "艾特", "π": "派", "—": "，", "€": "欧元", "£": "英镑", "$": "美元",
           "~": "，", "/": "、"},
}  # fmt: skip

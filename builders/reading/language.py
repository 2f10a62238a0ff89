"""The language of a sample, told by its script where the corpus mixes Chinese and English."""

import re
from typing import Literal

_HANZI = re.compile("[\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


def language_of(corpus_language: str, text: str) -> Literal["zh", "en"]:
    """The corpus's own language, or for `zh+en` Chinese as soon as one hanzi stands in the text."""
    if corpus_language == "zh+en":
        return "zh" if _HANZI.search(text) else "en"
    return "zh" if corpus_language == "zh" else "en"

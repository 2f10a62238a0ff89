"""Which questions can be spoken at all, what of them is spoken, and the words that a voice is given.

A question is spoken if a person could have asked it aloud: a line or two of plain Chinese or English. Whatever needs
eyes (code, formulas, tables, options, coordinates, links) stays text, each with its reason. Of a question that is
spoken, two things are not said: the placeholders of its images and videos, and the request at its end that the answer
take a certain form ("Answer the question using a single word or phrase."), which stays written, after the audio. So
the question still means what it meant, and one clip serves all the forms that corpora ask of it.
"""

import re

from tarsia.builders.normalise import normalise, rules
from tarsia.builders.tokens import NOISE, SPOKEN, WRITTEN
from tarsia.schemas.sample import AUDIO, PLACEHOLDER

SPEAKABLE_RULES = 2  # another number where another question can be spoken, or another part of one stays written
SPOKEN_RULES = f"{SPEAKABLE_RULES}-{rules()}"  # what every spoken form depends on; fit for a path
HANZI_MOST, WORDS_MOST, LETTERS_MOST = 60, 40, 260  # about 20 seconds of speech; a digit counts as a hanzi or 4 letters

HANZI = re.compile(r"[㐀-鿿豈-﫿]")
_WORDS = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*")
_FILES = "com|org|net|io|cn|edu|gov|html?|py|js|json|pdf|jpe?g|png|txt|csv|exe|mp[34]|docx?|xlsx?"
_REASONS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("neutralised", re.compile("\u2060")),  # a control token of the corpus's own
    (
        "code",
        re.compile(
            r"`|\bdef \w+\(|\breturn\b.*;|[{}]|=>|==|!=|(?<![Cc])\+\+|</?\s*\w+[^<>]*>|\w\(\)|"
            r"\b(?:let|const|var|int|float) \w+\s*=|(?i:\bselect\b.+\bfrom\b.+(?:\bwhere\b|;))|\b\w+\[\w+\]"
        ),
    ),
    ("blank", re.compile(r"_{2,}|\.{4,}|…{2,}|[（(]\s*[)）]")),
    ("link", re.compile(rf"https?:|www\.|[\w.]+@[\w.]+\.\w+|(?:^|\s)/\w+/\w+|\b[A-Za-z]:\\|(?i:\w\.(?:{_FILES})\b)")),
    ("table", re.compile(r"\|.*\||\breference ocr tokens?\b", re.IGNORECASE)),
    ("coordinates", re.compile(r"\[[^\[\]]*\d[^\[\]]*\]|[（(]\s*-?\d+(?:\.\d+)?\s*[,，]\s*-?\d")),
    (
        "formula",
        re.compile(
            r"\$\$|\$[^$\n]*[\\_^={}][^$\n]*\$|\$[A-Za-z][^$\n]{0,40}\$|\$\s?-?[\d.]+\s?\$|\\[a-zA-Z]+|\w[\^_]\{?\w|"
            r"[∑∫√≤≥≠∈∀∃∞∂∠△⊥∥∪∩⊂⊃≈≡→⇒]|[（(][^()（）]*\d[^()（）]*[-+*/×÷=^][^()（）]*[)）]|"
            r"[)）]\s*[-+*/×÷=]|[+*/×÷=]\s*[（(]|\d[（(]|\b[a-zA-Z][（(][\w,]+[)）]"
        ),
    ),
    (
        "options",
        re.compile(r"(?:^|[\s（(，。？：；])[A-Da-d][.):、．）]\s?\S.*(?:^|\s|[（(])[B-Eb-e][.):、．）]", re.DOTALL),
    ),
    ("emoji", re.compile("[\U0001f000-\U0001faff☀-➿\ufe0f]")),
    ("digits", re.compile(r"\d{13,}")),
)
_STOPS = tuple(",.?!:;，。？！：；、…")
_ITEM = re.compile(r"\s*(?:[-*•|#]+|\d+[.)、])\s")
_INSIDE = re.compile(r"[^\s.?!。？！:：;；>][ \t]*<(?:image|video)>[ \t]*[^\s<.?!。？！,，;；:：]")
_FOREIGN = re.compile(
    r"[\u0370-\u03bf\u03c1-\u1cff\u3040-\u312f\u3130-\u318f\uac00-\ud7af\ufb50-\ufdff\ufe70-\ufefc]"
)  # but π


def unspeakable(text: str, language: str) -> str | None:
    """Why a question stays text, or None when a voice may ask it."""
    if AUDIO in text:
        return "audio already"
    if _INSIDE.search(text):
        return "placeholder"
    said, _ = parts(text)
    if not said:
        return "nothing to say"
    lines = said.splitlines()
    if len(lines) > 2 or "\t" in said or any(_ITEM.match(line) for line in lines):
        return "several lines"
    for reason, pattern in _REASONS:
        if pattern.search(said):
            return reason
    hanzi, words, figures = len(HANZI.findall(said)), _WORDS.findall(said), sum(map(str.isdigit, said))
    letters = sum(map(len, words)) + 4 * figures
    if hanzi + figures > HANZI_MOST or len(words) > WORDS_MOST or letters > LETTERS_MOST:
        return "too long"
    if _FOREIGN.search(said) or language == "zh" and hanzi < 2 or language == "en" and (hanzi or len(words) < 2):
        return "language"
    strange = sum(not (char.isalnum() or char.isspace() or char in _USUAL) for char in said)
    return "symbols" if strange * 5 > len(said) else None


_USUAL = ",.?!:;'’\"“”‘()-%&+=$￥，。？！：；、（）《》·—"


def plain(text: str) -> str:
    """A question without its placeholders."""
    return PLACEHOLDER.sub("", text).strip()


def parts(text: str) -> tuple[str, str]:
    r"""What of a question is asked, and the form of the answer that is requested at its end: that stays written.

    >>> parts("<image>\nWhat is it?\nAnswer the question using a single word or phrase.")
    ('What is it?', 'Answer the question using a single word or phrase.')
    """
    asked, form = plain(text), ""
    while ends := [gap for gap in _BETWEEN.finditer(asked) if gap.end() < len(asked)]:
        rest, last = asked[: ends[-1].start()], asked[ends[-1].end() :]
        if not _FORM.fullmatch(last) or len(HANZI.findall(rest)) + len(_WORDS.findall(rest)) < 2:
            break
        asked, form = rest, f"{last}\n{form}" if form else last
    return asked, form


_BETWEEN = re.compile(r"(?<=[.?!:])(?<!e\.g\.)(?<!i\.e\.)\s+|(?<=[。？！：])\s*|\s*\n\s*")  # one sentence and the next
_NOUNS = (
    "word|words|phrase|phrases|letter|letters|option|options|choice|choices|number|numbers|digit|integer|yes|no|"
    "sentence|sentences|true|false|format|json|coordinates|bounding box|list|characters"
)
_FORM = re.compile(
    rf"""(?ix) yes\ or\ no[.?] | (?!.*[?？]) (?:please[,]?\ |kindly\ )?
    (?: (?:answer|respond|reply)\b(?:\ (?:to\ )?(?:the|this|each|my)\ (?:following\ )?questions?)?
            \ (?:with|using|in|by|as)\b .* \b(?:{_NOUNS})\b .*
      | (?:answer|respond|reply)(?:\ (?:the|this)\ question)?
            \ (?:briefly|concisely|directly|shortly|succinctly|yes|simply|only|true)\b .*
      | (?:give|provide|write|output|return|state|report|make|keep|just|only)\b
            \ (?:me\ |us\ )?(?:only\ |just\ )?(?:the\ |a\ |an\ |your\ )?(?:very\ )?
            (?:(?:short|brief|concise|final|direct|exact|simple|one-word|single-word|numerical|correct|right)\ )*
            (?:answer|answers|option|letter|choice)\b .*
      | (?:choose|select|pick|name|indicate|write)\ (?:only\ )?(?:one\ of\ )?(?:the\ |an?\ |your\ )?
            (?:(?:right|correct|best|proper|most\ appropriate|following|given|single)\ )*
            (?:answers?|options?|choices?|letters?)\b .*
      | (?:one|a|two|a\ single)\ (?:single\ )?word\b .* (?:do|enough|only|please|phrase)\b .*
      | (?:be|keep\ it)\ (?:very\ )?(?:brief|concise|short)\b .*
      | (?:short|brief|final|quick|concise)\ answer .{{0,12}}
      | (?:no|without)\ (?:explanations?|explaining)\b .* | do\ not\ (?:explain|give\ reasons)\b .*
      | (?:when|if)\b [^,]{{1,80}} \b(?:insufficient|unanswerable|cannot\ be\ answered|not\ enough\ information)\b [^,]*
            ,\ (?:please\ )?(?:answer|respond|reply|say|output|write)\b .*
      | (?:the|your)\ (?:final\ )?answer\ (?:should|must|has\ to)\b .*
      | (?:round|express)\ (?:the|your)\ (?:final\ )?answer\b .*
      | answer:
      | 请?(?:你)?(?:直接|只|仅|只需|仅需|简短|简要|简洁|简单)地?(?:用.{{0,12}})?
            (?:回答|作答|给出|输出|写出|回复|答复)(?!.*为什么).{{0,24}}
      | 请?(?:你)?(?:只|仅)?(?:用|使用|以|从).{{1,24}}
            (?:回答|作答|回复)(?:问题|该问题|这个问题|即可|就行|就可以)?[。！!.]?
      | 请?(?:回答|选出|选择|说出|写出|给出|输出)(?:正确|合适|对应|最佳|简短|最终|一个|的|你|选项|字母)*
            (?:选项|字母|答案|那一项)(?:的?字母|即可)?[。！!.]?
      | 请?(?:回答|用|以)[“"「]?(?:是|对|有)[”"」]?(?:或|/|、|还是|和)[“"「]?(?:否|不是|错|没有)[”"」]?.{{0,8}}
      | 只要答案.{{0,4}} | 一两个(?:词|字).{{0,6}} | 不(?:要|需|用|必|需要|必要)(?:解释|说明|给出理由).{{0,10}}
      | (?:答案|回答)(?:请|应|应该|必须|要|需).{{1,24}} | 简短回答.? | 答案[:：]
    )"""
)


def spoken_form(text: str, language: str) -> str:
    """What the voice is given: the question in words, on one line, a stop between lines, no quotes or brackets."""
    lines = [line.strip() for line in _LABEL.sub("", parts(text)[0]).splitlines() if line.strip()]
    full = [line if line.endswith(_STOPS) else line + ("。" if HANZI.search(line) else ".") for line in lines[:-1]]
    return normalise(" ".join([*full, *lines[-1:]]), language)


_LABEL = re.compile(r"^(?:Question|Q|问题|问)\s?[:：]\s*", re.IGNORECASE)


def said(text: str) -> str:
    """Text as the speech decoders are given it: lower case, without states and signs that nobody pronounces."""
    return " ".join(_UNSAID.sub(" ", text.lower()).split())


_UNSAID = re.compile(rf"[{SPOKEN}{NOISE}{WRITTEN}]|[^\w\s,.?!:;'\"()%&+$€£°，。？！：；、“”‘’（）《》…·—–-]|_")

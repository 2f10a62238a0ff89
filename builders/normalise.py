"""Written text as it is said, in Mandarin or English: no digit and no sign is left for a voice to guess at.

Engines read "GPT-4", "$5-10" or "1990s" each in a way of its own, and some drop what they do not know. So the text that
names a clip, that a voice is given and that a recogniser is measured by is in words already. Our own rules come first,
for all that `wetext` was measured to read wrongly (tests/normalise.tsv has the cases); `wetext` reads the rest: dates,
clock times, measures, fractions and, in Mandarin, numbers with their 两 and 幺. What neither understood is read digit
by digit. The result is a fixed point: normalised again it stays as it is.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from threading import Lock
from typing import Any

from tarsia.schemas.errors import MissingExtra

RULES = 1  # of ours; another number where they speak any text differently

_Rule = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]


def rules() -> str:
    """What the spoken form of a text depends on: our rules and the version of wetext."""
    try:
        return f"{RULES}-wetext-{installed('wetext')}"
    except PackageNotFoundError:
        return f"{RULES}-no-wetext"


def normalise(text: str, language: str) -> str:
    """The text as it is said in `en` or `zh`, on one line; `MissingExtra` where wetext is not installed."""
    _wetext()
    for _ in range(_PASSES):
        text, before = _once(text, language), text
        if text == before:
            break
    return text


_PASSES = 4  # the second changes nothing but where one sign, left out, has joined others


def _once(text: str, language: str) -> str:
    text = _plain(_VULGAR.sub(" and " if language == "en" else "又", text))
    for pattern, said in _ENGLISH if language == "en" else _MANDARIN:
        text = pattern.sub(said, text)
    return _tidy(text, language)


def _plain(text: str) -> str:
    """Full-width letters and digits made plain, Chinese punctuation kept, one kind of quote and dash."""
    text = _POWERS.sub(lambda sign: "^" + str("⁰¹²³⁴⁵⁶⁷⁸⁹".index(sign[0])), text)
    text = "".join(char if char in _KEPT else unicodedata.normalize("NFKC", char) for char in text)
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
    "zh": {"&": "和", "+": "加", "=": "等于", "%": "百分号", "°": "度", "×": "乘", "÷": "除以", "±": "正负", "<": "小于",
           ">": "大于", "@": "艾特", "π": "派", "—": "，", "€": "欧元", "£": "英镑", "$": "美元", "~": "，", "/": "、"},
}  # fmt: skip


# --- wetext ---------------------------------------------------------------------------------------------------------


@cache
def _wetext() -> dict[str, Any]:
    try:
        from wetext import Normalizer
    except ImportError as absent:
        raise MissingExtra("wetext", "speech") from absent
    return {language: Normalizer(lang=language, operator="tn") for language in ("en", "zh")}


_ALONE = Lock()  # its automata are shared, and promise nothing to threads


@lru_cache(maxsize=1 << 14)
def _read(text: str, language: str) -> str:
    """What wetext makes of a piece of text; as it was where wetext stumbles (it cannot read `5+`)."""
    with _ALONE:
        try:
            return str(_wetext()[language].normalize(text))
        except (AssertionError, RuntimeError):
            return text


def simplified(text: str) -> str:
    """Traditional characters made simple, as recognisers may write either."""
    with _ALONE:
        return str(_simplifier().normalize(text)) if text else text


@cache
def _simplifier() -> Any:
    _wetext()
    from wetext import Normalizer

    return Normalizer(lang="zh", operator="tn", traditional_to_simple=True)


# --- English --------------------------------------------------------------------------------------------------------

_ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_THOUSANDS = ("", " thousand", " million", " billion", " trillion")
_ODD_ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth",
                 "nine": "ninth", "twelve": "twelfth"}  # fmt: skip


def cardinal(number: int) -> str:
    """A number below 10**15 in English words.

    >>> cardinal(1200345)
    'one million two hundred thousand three hundred forty five'
    """
    if number < 20:
        return _ONES[number]
    if number < 100:
        return _TENS[number // 10] + (f" {_ONES[number % 10]}" if number % 10 else "")
    if number < 1000:
        return f"{_ONES[number // 100]} hundred" + (f" {cardinal(number % 100)}" if number % 100 else "")
    parts = []
    for power in range(4, -1, -1):
        if group := number // 1000**power % 1000:
            parts.append(cardinal(group) + _THOUSANDS[power])
    return " ".join(parts)


def ordinal(number: int) -> str:
    """The same as a place in a row: `twenty first`."""
    head, _, last = cardinal(number).rpartition(" ")
    word = _ODD_ORDINALS.get(last) or (last[:-1] + "ieth" if last.endswith("y") else last + "th")
    return f"{head} {word}".strip()


def year(number: int) -> str:
    """A year as it is said: `nineteen oh five`, `two thousand nine`, `twenty twenty one`."""
    century, rest = divmod(number, 100)
    if not 1100 <= number <= 2099 or number // 10 == 200:
        return cardinal(number)
    return cardinal(century) + (" hundred" if not rest else f" oh {_ONES[rest]}" if rest < 10 else f" {cardinal(rest)}")


def digits(text: str) -> str:
    """One by one, whatever stands between them: `five five five, zero one two three`."""
    return ", ".join(" ".join(_ONES[int(digit)] for digit in group) for group in re.findall(r"\d+", text))


def _number(text: str) -> str:
    """A decimal number without a sign: `three point one four`."""
    whole, _, part = text.partition(".")
    if len(whole) > 15 or len(whole) > 1 and whole[0] == "0":
        said = digits(whole)
    else:
        said = cardinal(int(whole)) if whole else "zero"
    return f"{said} point {digits(part)}" if part else said


def _plural(words: str) -> str:
    return words[:-1] + "ies" if words.endswith("y") else words + ("es" if words.endswith("x") else "s")


def _money(found: re.Match[str]) -> str:
    one, many = _COINS[found["sign"].upper()]
    if found["to"]:
        return f" {_number(found['amount'])} to {_number(found['to'])} {_scale(found)}{many}"
    whole, _, part = found["amount"].partition(".")
    if len(part) == 2 and not found["scale"] and many != "yen":
        small = "penny" if many == "pounds" else "cent"
        smalls = "pence" if many == "pounds" else "cents"
        cents = f"{cardinal(int(part))} {small if int(part) == 1 else smalls}" if int(part) else ""
        coins = f"{_number(whole)} {one if whole == '1' else many}" if int(whole) or not cents else ""
        return " " + " and ".join(filter(None, (coins, cents)))
    single = found["amount"] == "1" and not found["scale"]
    return f" {_number(found['amount'])} {_scale(found)}{one if single else many}"


def _scale(found: re.Match[str]) -> str:
    scale = (found["scale"] or "").strip()
    said = {"k": "thousand", "m": "million", "mn": "million", "b": "billion", "bn": "billion"}.get(scale.lower(), scale)
    return f"{said} " if said else ""


_COINS = {"$": ("dollar", "dollars"), "US$": ("dollar", "dollars"), "HK$": ("Hong Kong dollar", "Hong Kong dollars"),
          "£": ("pound", "pounds"), "€": ("euro", "euros"), "¥": ("yen", "yen")}  # fmt: skip
_MONTHS = {
    month[:3]: month
    for month in (
        [
            "January",
            "February",
            "March",
            "April",
            "May",
            "June",
            "July",
            "August",
            "September",
            "October",
            "November",
            "December",
        ]
    )
}
_MONTH = (
    r"(?P<month>(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)(?![a-z])\.?|" + "|".join(_MONTHS.values()) + ")"
)
_AMOUNT = r"\d+(?:\.\d+)?"


def _month_day(found: re.Match[str]) -> str:
    then = f", {year(int(found['year']))}" if found["year"] else ""
    return f"{_MONTHS[found['month'][:3]]} {ordinal(int(found['day']))}{then}"


def _roman(text: str) -> int:
    values = [{"I": 1, "V": 5, "X": 10, "L": 50}[letter] for letter in text]
    return sum(-value if value < max(values[at:]) else value for at, value in enumerate(values))


def _telephone(found: re.Match[str]) -> bool:
    """Seven digits alone may be a range: `700-1000 calories`."""
    short = re.fullmatch(r"\d{3}-\d{4}", found[0])
    return not short or found[0][4] == "0" or bool(_CALLED.search(found.string, 0, found.start()))


_CALLED = re.compile(r"(?i)\b(?:call|phone|telephone|tel|dial|number|mobile|fax|contact)\b\W*(?:\w+\W+){0,3}$")


def _clock(found: re.Match[str]) -> str:
    hour, minute = int(found["hour"]), int(found["minute"] or 0)
    half = found["half"]
    said = cardinal(hour) + (f" oh {_ONES[minute]}" if 0 < minute < 10 else f" {cardinal(minute)}" if minute else "")
    if half:
        return f"{said} {half[0].upper()}M" + ("." if half.endswith(".") and found.end() == len(found.string) else "")
    return said if minute else f"{said} o'clock" if hour <= 12 else f"{said} hundred"


def _english_plain(found: re.Match[str]) -> str:
    """A bare number: of four digits it is a year, unless what follows is counted or it is reckoned with."""
    text = found[0]
    if re.search(r"\b(?:[Ii]n|[Ss]ince|[Ff]rom|until|till|during|year|circa)\s$", found.string[: found.start()]):
        return year(int(text)) if re.fullmatch(r"\d{4}", text) else _number(text)
    counted = found.string.startswith(_COUNT, found.start() - 1)
    if re.fullmatch(r"1[1-9]\d\d|20\d\d", text) and not counted and not _COUNTED.match(found.string, found.end()):
        return year(int(text))
    return _number(text)


_COUNTED = re.compile(
    r"\s*(?:[+*/×÷=^]|- |(?!(?:has|was|this|its|does)\b)(?:people|men|women|children|percent|million|billion|feet|words|miles|years|times|"
    r"dollars|euros|pounds|cents|meters|metres|grams|kilo\w+|\w{3,}(?<!s)s)\b)"
)
_UNITS = (
    r"km/h|kph|mph|m/s|km\^?2|cm\^?2|mm\^?2|m\^?2|m\^?3|cm\^?3|km|cm|mm|kg|mg|g|lbs?|oz|ft|yd|GHz|MHz|kHz|Hz|TB|GB|MB|"
    r"KB|kW|ml|kcal|min|ms|rpm|ha|°C|°F|°"
)
_OWN_UNITS = {  # which wetext reads as something else, or leaves
    "m": ("meter", "meters"), "s": ("second", "seconds"), "sec": ("second", "seconds"), "secs": ("second", "seconds"),
    "mins": ("minute", "minutes"), "hr": ("hour", "hours"), "hrs": ("hour", "hours"), "mL": ("milliliter", "milliliters"),
    "L": ("liter", "liters"), "V": ("volt", "volts"), "W": ("watt", "watts"), "kWh": ("kilowatt hour", "kilowatt hours"),
    "m/s": ("meter per second", "meters per second"), "m/s^2": ("meter per second squared", "meters per second squared"),
    "dB": ("decibel", "decibels"), "mi": ("mile", "miles"), "gal": ("gallon", "gallons"), "h": ("hour", "hours"),
}  # fmt: skip


def _own_unit(found: re.Match[str]) -> str:
    return f"{_number(found['amount'])} {_OWN_UNITS[found['unit']][found['amount'] != '1']}"


_WORDS = {
    "Mr.": "Mister", "Mrs.": "Missus", "Dr.": "Doctor", "Prof.": "Professor", "vs.": "versus", "vs": "versus",
    "etc.": "et cetera", "e.g.": "for example", "i.e.": "that is", "approx.": "approximately", "Jr.": "Junior",
    "Sr.": "Senior", "w/o": "without", "w/": "with", "and/or": "and or", "dept.": "department",
    "a.k.a.": "also known as", "Mt.": "Mount",
}  # fmt: skip
_REIGNS = "Henry|Louis|Elizabeth|George|Charles|William|Edward|Richard|James|Philip|Francis|Napoleon|Pius|Paul|Ramses"
_PARTS = "War|Chapter|Part|Volume|Vol|Act|Phase|Type|Stage|Section|Bowl|Book|Level|Grade|Class|Type|Fantasy|Rocky"


def _signed(text: str) -> str:
    return f"minus {_number(text[1:])}" if text.startswith("-") else _number(text)


def _english(pattern: str, said: str | Callable[[re.Match[str]], str]) -> _Rule:
    return re.compile(pattern), said


_AREAS = {"km": "kilometers", "m": "meters", "cm": "centimeters", "mm": "millimeters", "ft": "feet", "yd": "yards"}
_COUNT = "\u2061"  # before a number that is no year, since it was written with a comma

_ENGLISH: tuple[_Rule, ...] = (
    _english(r"[\"“”()（）\[\]【】「」『』《》]", " "),
    _english(
        r"(?<![\w.])(?:" + "|".join(re.escape(word) for word in _WORDS) + r")(?![A-Za-z])",
        lambda found: _WORDS[found[0]] + ("." if found[0] == "etc." and found.end() == len(found.string) else ""),
    ),
    _english(r"\bSt\. (?=[A-Z])", "Saint "),
    _english(r"(?<=[a-z] )(St|Ave|Rd)\.", lambda found: {"St": "Street", "Ave": "Avenue", "Rd": "Road"}[found[1]]),
    _english(r"\bkm/hr\b", "km/h"),
    _english(r"(?<!\d)(?<!\d\s)\b([A-Za-z]{2,})/([a-z]{2,})\b", r"\1 or \2"),
    _english(rf"\b({_PARTS}) ([IVX]+)\b", lambda found: f"{found[1]} {cardinal(_roman(found[2]))}"),
    _english(rf"\b({_REIGNS}) ([IVX]+)\b", lambda found: f"{found[1]} the {ordinal(_roman(found[2]))}"),
    _english(r"[$£€¥]\s?\d[\d,]*\d", lambda found: found[0].replace(",", "")),
    _english(r"(?<![\w.,])([1-9]),(\d{3})(?![,.]?\d)", _COUNT + r"\1\2"),
    _english(r"(?<=\d),(?=\d{3}(?!\d))", ""),
    _english(r"(?<=\d),(?=\d)", ", "),
    _english(r"\b24/7\b", "twenty four seven"),
    _english(r"\b9/11\b", "nine eleven"),
    _english(r"(?:(?<=\s)|^)#\s?(?=\d)", "number "),
    _english(r"\b(?:No\.|Nos\.|Nr\.) ?(?=\d)", "number "),
    # telephone numbers
    _english(
        r"(?<![\w-])(?:\+?\d{1,3}[- ])?(?:\(?\d{3}\)?[- ]\s?)?\d{3}-\d{4}(?![\w-])|(?<![\w.])\+\d[\d -]{6,}\d\b",
        lambda found: digits(found[0]) if _telephone(found) else found[0],
    ),
    _english(r"(?i)(?<=\bcall )\d{3,5}\b|(?<=\bdial )\d{3,5}\b", lambda found: digits(found[0])),
    # money
    _english(
        rf"(?i)(?P<sign>(?:US|HK)?\$|[£€¥])\s?(?P<amount>{_AMOUNT})(?:\s?(?:-|to)\s?[$£€¥]?(?P<to>{_AMOUNT}))?"
        r"(?P<scale>\s?(?:k|mn?|bn?|thousand|million|billion|trillion)\b)?",
        _money,
    ),
    # dates, years and clock times
    _english(rf"\b{_MONTH} (?P<day>[0-3]?\d)(?:st|nd|rd|th)?\b(?:,? (?P<year>[12]\d{{3}})\b)?(?!\d)", _month_day),
    _english(rf"\b(?P<day>[0-3]?\d)(?:st|nd|rd|th)? {_MONTH}\b(?:,? (?P<year>[12]\d{{3}})\b)?", _month_day),
    _english(
        r"\b(?P<month>0?[1-9]|1[0-2])/(?P<day>0?[1-9]|[12]\d|3[01])/(?P<year>[12]\d{3})\b",
        lambda found: f"{list(_MONTHS.values())[int(found['month']) - 1]} {ordinal(int(found['day']))}, "
        f"{year(int(found['year']))}",
    ),
    _english(
        r"\b(?P<year>[12]\d{3})[-/](?P<month>0?[1-9]|1[0-2])[-/](?P<day>0?[1-9]|[12]\d|3[01])\b",
        lambda found: f"{list(_MONTHS.values())[int(found['month']) - 1]} {ordinal(int(found['day']))}, "
        f"{year(int(found['year']))}",
    ),
    _english(
        r"\b(\d\d)?(\d)0'?s\b",
        lambda found: (
            f"{cardinal(int(found[1]))} hundreds"
            if found[1] and found[2] == "0" and found[1] != "20"
            else "two thousands"
            if found[1] and found[2] == "0"
            else (f"{cardinal(int(found[1]))} " if found[1] else "") + _plural(_TENS[int(found[2])])
        ),
    ),
    _english(
        r"\b(1[1-9]\d\d|20\d\d)\s?-\s?(1[1-9]\d\d|20\d\d)\b",
        lambda found: f"{year(int(found[1]))} to {year(int(found[2]))}",
    ),
    _english(r"\b(1[1-9]\d\d|20\d\d)-(\d\d)\b", lambda found: f"{year(int(found[1]))} to {year(int(found[2]))}"),
    _english(r"\b\d{1,2}:[0-5]\d:[0-5]\d\b", lambda found: _read(found[0], "en")),
    _english(r"(?<=:\d\d)\s?(?:-|~)\s?(?=\d)", " to "),
    _english(
        r"\b(?P<hour>[01]?\d|2[0-4])(?::(?P<minute>[0-5]\d))?\s?(?P<half>[ap]\.m\.|[AP]\.M\.|[ap]m\b|[AP]M\b)", _clock
    ),
    _english(r"(?<![\d:])(?P<hour>[01]?\d|2[0-4]):(?P<minute>[0-5]\d)(?P<half>)(?![\d:])", _clock),
    _english(r"\b(\d+):(\d+)(?::(\d+))?\b", lambda found: " to ".join(_number(part) for part in found.groups() if part)),
    # ranges, sizes, signs beside numbers
    _english(r"(\d+)\s?(?:ft|feet) (\d+)\s?in\b", lambda found: f"{_number(found[1])} feet {_number(found[2])} inches"),
    _english(r"(\d) in\.(?=\s[a-z]|$)", r"\1 inches"),
    _english(r"\b(\d)'\s?(\d\d?)(?:\"|''|\b)", lambda found: f"{_ONES[int(found[1])]} foot {cardinal(int(found[2]))}"),
    _english(r"(?<![A-Za-z])v\.?\s?(?=\d)", "version "),
    _english(r"(?<![\w.])(\d+(?:\.\d+){2,})\b", lambda found: " point ".join(map(_number, found[1].split(".")))),
    _english(r"(?<=\d)\s?[x×](?=\d)|(?<=\dp)\s?[x×]\s?(?=\d)", " by "),
    _english(r"(?<=\d)\s[x×*]\s(?=\d)|(?<=\d)\*(?=\d)|(?<=\w)\s\*\s(?=\w)", " times "),
    _english(r"(?<=\d)x\b(?=\s(?:faster|more|larger|bigger|as|the|better|higher|smaller))", " times"),
    _english(
        rf"({_AMOUNT})\s?(km|m|cm|mm|ft|yd)\^([23])\b",
        lambda found: f"{_number(found[1])} {'square' if found[3] == '2' else 'cubic'} {_AREAS[found[2]]}",
    ),
    _english(r"(?<=[\w)])\^2\b", " squared "),
    _english(r"(?<=[\w)])\^3\b", " cubed "),
    _english(r"\^(?=\d)", " to the power of "),
    _english(r"(?<=[\d%])\+(?=\s[A-Za-z])", " plus"),
    _english(r"~\s?(?=\d)", "about "),
    _english(rf"(?<![\w.-])({_AMOUNT})\s?%?\s?(?:-|~|to)\s?({_AMOUNT})\s?%", r"\1 to \2 percent"),
    _english(rf"(?<![\w.=+*/-])(?<![=+*/-] )({_AMOUNT})-({_COUNT}?{_AMOUNT})(?=[\s,.?!;:°]|$|[a-z])", r"\1 to \2"),
    _english(r"(?<=\d)(?:\s-\s|-)(?=\d)|(?<=\w)\s-\s(?=\d)|(?<=\d)\s-\s(?=\w)", " minus "),
    _english(rf"(?:(?<=[\s,=])|(?<=^))-(?={_AMOUNT})", "minus "),
    _english(r"(?<=[A-Za-z])-(?=\d)", " "),
    # measures
    _english(
        rf"(?<![\w.])(?P<amount>{_AMOUNT})\s?(?P<unit>" + "|".join(sorted(map(re.escape, _OWN_UNITS), key=len)[::-1])
        + r")(?![\w^/])(?!\s?[+=])",
        _own_unit,
    ),
    _english(rf"(?<![\w.])({_AMOUNT})\s?({_UNITS})(?![\w^])", lambda found: _measure(found[1], found[2])),
    _english(rf"({_AMOUNT})\s?%", lambda found: f"{_number(found[1])} percent "),
    _english(r"(?<![\w/.])(\d{1,3})/(\d{1,3})(?![\w/])", lambda found: _fraction(int(found[1]), int(found[2]))),
    _english(r"(?<=\w)\s?/\s?(?=\d)|(?<=\d)\s?/\s?(?=\w)", " divided by "),
    _english(r"(\d+)(?:st|nd|rd|th)\b-?", lambda found: f"{ordinal(int(found[1]))} " if len(found[1]) < 16 else found[0]),
    _english(rf"\b({_AMOUNT})k\b", lambda found: f"{_number(found[1])} thousand"),
    _english(rf"\b({_AMOUNT})M\b", lambda found: f"{_number(found[1])} million"),
    # numbers as they are left: in names, with letters, alone
    _english(r"\b(1080|720|480|1440|2160)p\b", lambda found: f"{_pairs(found[1])} p"),
    _english(r"(?<=[A-Za-z])(\d{3,})(?![\d.])", lambda found: " " + digits(found[1])),
    _english(r"(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])", " "),
    _english(r"(?<![\d.])(?:\d+\.\d+|\.\d+)(?!\d)", lambda found: _number(found[0])),
    _english(r"\d{16,}|\b0\d+", lambda found: digits(found[0])),
    _english(r"\d+", _english_plain),
)  # fmt: skip


def _measure(amount: str, unit: str) -> str:
    """Wetext knows the units, and reads the numbers before them as we do not: `ten hundred`."""
    said = _read(f"{'1' if amount == '1' else '2'} {unit}", "en")
    head, _, words = said.partition(" ")
    return f"{_number(amount)} {words if head in {'one', 'two'} else unit}"


def _fraction(over: int, under: int) -> str:
    if not over or under < 2 or over > 99:
        return f"{cardinal(over)} over {cardinal(under)}"
    single = {2: "half", 4: "quarter"}.get(under) or ordinal(under)
    return f"{cardinal(over)} {single if over == 1 else 'halves' if under == 2 else single + 's'}"


def _pairs(text: str) -> str:
    return " ".join(cardinal(int(part)) for part in (text[:-2], text[-2:]) if part)


# --- Mandarin -------------------------------------------------------------------------------------------------------

_HAN = dict(zip("0123456789", "零一二三四五六七八九", strict=True))
_PLACES = ("", "十", "百", "千")
_MYRIADS = ("", "万", "亿", "万亿")


def numeral(number: int) -> str:
    """A number below 10**16 as it is counted in Mandarin, always with 二.

    >>> numeral(120034)
    '十二万零三十四'
    """
    if number == 0:
        return "零"
    said, gap = "", False
    for power in range(3, -1, -1):
        group = number // 10000**power % 10000
        if not group:
            gap = bool(said)
            continue
        if said and (gap or group < 1000):
            said += "零"
        gap = False
        said += _group(group) + _MYRIADS[power]
    return said[1:] if said.startswith("一十") else said


def _group(number: int) -> str:
    said, gap = "", False
    for place in range(3, -1, -1):
        digit = number // 10**place % 10
        if digit:
            said += ("零" if gap and said else "") + _HAN[str(digit)] + _PLACES[place]
        gap = digit == 0
    return said


def _han_digits(text: str, *, one: str = "一") -> str:
    return "".join(_HAN[char] for char in text if char.isdigit()).replace("一", one)


def _percent_range(found: re.Match[str]) -> str:
    return f"{found[1]}%到{found[2]}%"


def _wetext_reads(found: re.Match[str]) -> str:
    """Wetext is given a clause, since its readings depend on what stands beside a number."""
    return _read(found[0], "zh") if re.search(r"\d", found[0]) else found[0]


def _equation(found: re.Match[str]) -> str:
    return re.sub(r"\s*-\s*", "减", found[0])


_SPELT = "邮编|邮政编码|QQ号?|学号|编号|密码|房间号|车牌号?|卡号|账号|证号|验证码|工号|尾号"
_NAMED = "飞机|客机|航班|次列车|高地"
_FAMILIAR = {"211": "二幺幺", "985": "九八五", "996": "九九六", "007": "零零七", "360": "三六零"}
_DAYS = r"(\d{1,2})[./·](\d{1,2})(?=事件|袭击|恐|惨案|运动|起义|事变|[一-鿿]{0,3}节)"


def _mandarin(pattern: str, said: str | Callable[[re.Match[str]], str]) -> _Rule:
    return re.compile(pattern), said


_LENGTHS = {"km": "千米", "dm": "分米", "cm": "厘米", "mm": "毫米", "m": "米"}

_MANDARIN: tuple[_Rule, ...] = (
    _mandarin(r"[\"“”()（）\[\]【】「」『』《》]", " "),
    _mandarin(r"(?<=\d)，(?=\d)", "， "),
    _mandarin(r"(?<=\d),(?=\d{3}(?!\d))", ""),
    _mandarin(r"(?<=\d)：(?=\d)", ":"),
    _mandarin(r"(?<=\d),(?=\d)", "，"),
    _mandarin(r"(?i)\bNo\. ?(?=\d)", "第"),
    _mandarin(r"#\s?(?=\d)", ""),
    _mandarin(r"[￥¥](\d[\d.]*)\s?(?=元|块)", r"\1"),
    _mandarin(r"[￥¥](\d[\d.]*)(?P<scale>[万亿]?)", r"\1\g<scale>元"),
    _mandarin(r"HK\$\s?(\d[\d.]*)([万亿]?)", r"\1\2港元"),
    _mandarin(r"(?:US)?\$\s?(\d[\d.]*)(?P<scale>[万亿]?)", r"\1\g<scale>美元"),
    _mandarin(r"£\s?(\d[\d.]*)([万亿]?)", r"\1\2英镑"),
    _mandarin(r"(?<!\d)2(?=点(?:半|钟|整|左右|多|前|后|到|\d\d))", "两"),
    _mandarin(r"€\s?(\d[\d.]*)|(\d[\d.]*)\s?€", lambda found: f"{found[1] or found[2]}欧元"),
    _mandarin(r"(\d)st\b|(\d)nd\b|(\d)rd\b|(\d+)th\b", lambda found: f"第{numeral(int(found[0][:-2]))}"),
    _mandarin(_DAYS, lambda found: _han_digits(found[1]) + _han_digits(found[2])),
    _mandarin(r"(?<!\d)24/7(?!\d)", "二十四乘七"),
    _mandarin(r"第\s?(\d{1,12})(?![\d.])", lambda found: f"第{numeral(int(found[1]))}"),
    _mandarin(
        rf"({_SPELT})((?:是|为|:|：|\s)*)(\d[\d-]*)",
        lambda found: f"{found[1]}{found[2].replace(':', '：')}{_han_digits(found[3], one='幺')}",
    ),
    _mandarin(r"(?<!\d)0\d{2,3}-\d{7,8}(?!\d)|(?<!\d)[48]00-\d{3}-\d{4}(?!\d)", lambda found: _han_digits(found[0], one="幺")),
    _mandarin(r"(?<![\d.])(211|985|996|007|360)(?=大学|高校|院校|工作制|工程|公司|软件|网|$)", lambda found: _FAMILIAR[found[1]]),
    _mandarin(rf"(?<![\d.])(\d{{3,4}})(?={_NAMED})", lambda found: _han_digits(found[1])),
    _mandarin(r"(?<![\d.])([3-9]\d\d)(?=路公交|路车|路汽车|房间?|室|寝室)", lambda found: _han_digits(found[1])),
    _mandarin(
        r"(?<![\d/])(0?[1-9]|[12]\d|3[01])/(0?[1-9]|1[0-2])/([12]\d{3})(?!\d)",
        lambda found: f"{found[3]}年{int(found[2])}月{int(found[1])}日",
    ),
    _mandarin(
        r"(?<![\d/])(0?[1-9]|1[0-2])/(0?[1-9]|[12]\d|3[01])/([12]\d{3})(?!\d)",
        lambda found: f"{found[3]}年{int(found[1])}月{int(found[2])}日",
    ),
    _mandarin(
        r"(?<!\d)([12]\d{3})[-/](0?[1-9]|1[0-2])[-/](0?[1-9]|[12]\d|3[01])(?!\d)",
        lambda found: f"{found[1]}年{int(found[2])}月{int(found[3])}日",
    ),
    _mandarin(r"(?<!\d)((?:19|20)\d\d)(?=届|世界杯|奥运|赛季|款|春节|高考)", lambda found: _han_digits(found[0])),
    _mandarin(r"(?<!\d)((?:1[5-9]|20)\d\d)\s?[-—~至到]\s?((?:1[5-9]|20)\d\d)(?!\d)", lambda found: f"{_han_digits(found[1])}到{_han_digits(found[2])}"),
    _mandarin(rf"({_AMOUNT})%?\s?(?:-|~|—)\s?({_AMOUNT})%", _percent_range),
    _mandarin(r"(?<![\w.])v\.?\s?(?=\d)", "版本"),
    _mandarin(r"(?<![\d.])\d+(?:\.\d+){2,}", lambda found: "点".join(_han_digits(part) for part in found[0].split("."))),
    _mandarin(r"(?<=\d)\s?[x×*X]\s?(?=\d)", "乘"),
    _mandarin(r"(?<=\d)\s?÷\s?(?=\d)", "除以"),
    _mandarin(r"(\d)\s?(km|dm|cm|mm|m)\^([23])", lambda found: found[1] + {"2": "平方", "3": "立方"}[found[3]] + _LENGTHS[found[2]]),
    _mandarin(r"(?<=[A-Za-z\d])\^2(?!\d)", "的平方"),
    _mandarin(r"(?<=[A-Za-z\d])\^3(?!\d)", "的立方"),
    _mandarin(r"\^(?=\d)", "的幂 "),
    _mandarin(r"(?<=\d)\+(?=[一-鿿])", "多"),
    _mandarin(r"[\w.\s+*=乘-]*[+=][\w.\s+*=乘-]*", _equation),
    _mandarin(r"(?<![A-Za-z\d.-])(\d+(?:\.\d+)?)[-—~](\d+(?:\.\d+)?)(?!\d*[-—~/])", r"\1到\2"),
    _mandarin(r"(?<=\d)\s-\s(?=\d)", "减"),
    _mandarin(r"(?<=[A-Za-z])-(?=\d)", " "),
    _mandarin(r"(?<=[\d一-鿿])\s-\s(?=\d)", "，"),
    _mandarin(r"(?<=[A-Za-z])\s?(\d{3,})(?![\d.A-Za-z])(?!\s?[年月日个位人元块])", lambda found: " " + _han_digits(found[1])),
    _mandarin(r"(?<!\d)(1080|720|480|1440|2160)[pP]\b", lambda found: _han_digits(found[1]) + "P"),
    _mandarin(r"(\d)\s?(GHz|MHz|kHz|Hz)\b", lambda found: found[1] + {"GHz": "吉赫", "MHz": "兆赫", "kHz": "千赫", "Hz": "赫兹"}[found[2]]),
    _mandarin(r"(\d)\s?(kWh|kW|V|W|A|L|dB)\b", lambda found: found[1] + {"kWh": "千瓦时", "kW": "千瓦", "V": "伏", "W": "瓦", "A": "安", "L": "升", "dB": "分贝"}[found[2]]),
    _mandarin(r"(\d)\s(?=(?:km|cm|mm|kg|mg|g|m|ml|s|min|h)\b)", r"\1"),
    _mandarin(r"[^，。？！；\n]+", _wetext_reads),
    _mandarin(r"\d+", lambda found: _han_digits(found[0])),
    _mandarin(r"(?<=[零一二三四五六七八九十百千])\.(?=[零一二三四五六七八九])", "点"),
)  # fmt: skip

"""English numbers and signs in words: rules in their order, each a pattern and what it is said as.

Measures are worded by wetext; the rest it reads too often wrongly (`1,200` as "thousand two hundred", `1990s` as
seconds, `100 m` as minutes), so it is ours. The order matters: what a later rule would take for a plain number (a
telephone number, a year, a range) is in words before.
"""

import re

from tarsia.builders.rules import Rule, rule
from tarsia.builders.spelling import read

_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
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
_NAMES = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_MONTHS = {name[:3]: name for name in _NAMES}
_MONTH = r"(?P<month>(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)(?![a-z])\.?|" + "|".join(_NAMES) + ")"
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
    r"\s*(?:[+*/×÷=^]|- |(?!(?:has|was|this|its|does)\b)(?:people|men|women|children|percent|million|billion|feet|"
    r"words|miles|years|times|dollars|euros|pounds|cents|meters|metres|grams|kilo\w+|\w{3,}(?<!s)s)\b)"
)
_UNITS = (
    r"km/h|kph|mph|m/s|km\^?2|cm\^?2|mm\^?2|m\^?2|m\^?3|cm\^?3|km|cm|mm|kg|mg|g|lbs?|oz|ft|yd|GHz|MHz|kHz|Hz|TB|GB|MB|"
    r"KB|kW|ml|kcal|min|ms|rpm|ha|°C|°F|°"
)
_OWN_UNITS = {  # which wetext reads as something else, or leaves
    "m": ("meter", "meters"), "s": ("second", "seconds"), "sec": ("second", "seconds"), "secs": ("second", "seconds"),
    "mins": ("minute", "minutes"), "hr": ("hour", "hours"), "hrs": ("hour", "hours"),
    "mL": ("milliliter", "milliliters"),
    "L": ("liter", "liters"), "V": ("volt", "volts"), "W": ("watt", "watts"),
    "kWh": ("kilowatt hour", "kilowatt hours"), "m/s": ("meter per second", "meters per second"),
    "m/s^2": ("meter per second squared", "meters per second squared"),
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


_AREAS = {"km": "kilometers", "m": "meters", "cm": "centimeters", "mm": "millimeters", "ft": "feet", "yd": "yards"}
_COUNT = "\u2061"  # before a number that is no year, since it was written with a comma

RULES: tuple[Rule, ...] = (
    rule(r"[\"“”()（）\[\]【】「」『』《》]", " "),
    rule(
        r"(?<![\w.])(?:" + "|".join(re.escape(word) for word in _WORDS) + r")(?![A-Za-z])",
        lambda found: _WORDS[found[0]] + ("." if found[0] == "etc." and found.end() == len(found.string) else ""),
    ),
    rule(r"\bSt\. (?=[A-Z])", "Saint "),
    rule(r"(?<=[a-z] )(St|Ave|Rd)\.", lambda found: {"St": "Street", "Ave": "Avenue", "Rd": "Road"}[found[1]]),
    rule(r"\bkm/hr\b", "km/h"),
    rule(r"(?<!\d)(?<!\d\s)\b([A-Za-z]{2,})/([a-z]{2,})\b", r"\1 or \2"),
    rule(rf"\b({_PARTS}) ([IVX]+)\b", lambda found: f"{found[1]} {cardinal(_roman(found[2]))}"),
    rule(rf"\b({_REIGNS}) ([IVX]+)\b", lambda found: f"{found[1]} the {ordinal(_roman(found[2]))}"),
    rule(r"[$£€¥]\s?\d[\d,]*\d", lambda found: found[0].replace(",", "")),
    rule(r"(?<![\w.,])([1-9]),(\d{3})(?![,.]?\d)", _COUNT + r"\1\2"),
    rule(r"(?<=\d),(?=\d{3}(?!\d))", ""),
    rule(r"(?<=\d),(?=\d)", ", "),
    rule(r"\b24/7\b", "twenty four seven"),
    rule(r"\b9/11\b", "nine eleven"),
    rule(r"(?:(?<=\s)|^)#\s?(?=\d)", "number "),
    rule(r"\b(?:No\.|Nos\.|Nr\.) ?(?=\d)", "number "),
    # telephone numbers
    rule(
        r"(?<![\w-])(?:\+?\d{1,3}[- ])?(?:\(?\d{3}\)?[- ]\s?)?\d{3}-\d{4}(?![\w-])|(?<![\w.])\+\d[\d -]{6,}\d\b",
        lambda found: digits(found[0]) if _telephone(found) else found[0],
    ),
    rule(r"(?i)(?<=\bcall )\d{3,5}\b|(?<=\bdial )\d{3,5}\b", lambda found: digits(found[0])),
    # money
    rule(
        rf"(?i)(?P<sign>(?:US|HK)?\$|[£€¥])\s?(?P<amount>{_AMOUNT})(?:\s?(?:-|to)\s?[$£€¥]?(?P<to>{_AMOUNT}))?"
        r"(?P<scale>\s?(?:k|mn?|bn?|thousand|million|billion|trillion)\b)?",
        _money,
    ),
    # dates, years and clock times
    rule(rf"\b{_MONTH} (?P<day>[0-3]?\d)(?:st|nd|rd|th)?\b(?:,? (?P<year>[12]\d{{3}})\b)?(?!\d)", _month_day),
    rule(rf"\b(?P<day>[0-3]?\d)(?:st|nd|rd|th)? {_MONTH}\b(?:,? (?P<year>[12]\d{{3}})\b)?", _month_day),
    rule(
        r"\b(?P<month>0?[1-9]|1[0-2])/(?P<day>0?[1-9]|[12]\d|3[01])/(?P<year>[12]\d{3})\b",
        lambda found: f"{_NAMES[int(found['month']) - 1]} {ordinal(int(found['day']))}, "
        f"{year(int(found['year']))}",
    ),
    rule(
        r"\b(?P<year>[12]\d{3})[-/](?P<month>0?[1-9]|1[0-2])[-/](?P<day>0?[1-9]|[12]\d|3[01])\b",
        lambda found: f"{_NAMES[int(found['month']) - 1]} {ordinal(int(found['day']))}, "
        f"{year(int(found['year']))}",
    ),
    rule(
        r"\b(\d\d)?(\d)0'?s\b",
        lambda found: (
            f"{cardinal(int(found[1]))} hundreds"
            if found[1] and found[2] == "0" and found[1] != "20"
            else "two thousands"
            if found[1] and found[2] == "0"
            else (f"{cardinal(int(found[1]))} " if found[1] else "") + _plural(_TENS[int(found[2])])
        ),
    ),
    rule(
        r"\b(1[1-9]\d\d|20\d\d)\s?-\s?(1[1-9]\d\d|20\d\d)\b",
        lambda found: f"{year(int(found[1]))} to {year(int(found[2]))}",
    ),
    rule(r"\b(1[1-9]\d\d|20\d\d)-(\d\d)\b", lambda found: f"{year(int(found[1]))} to {year(int(found[2]))}"),
    rule(r"\b\d{1,2}:[0-5]\d:[0-5]\d\b", lambda found: read(found[0], "en")),
    rule(r"(?<=:\d\d)\s?(?:-|~)\s?(?=\d)", " to "),
    rule(
        r"\b(?P<hour>[01]?\d|2[0-4])(?::(?P<minute>[0-5]\d))?\s?(?P<half>[ap]\.m\.|[AP]\.M\.|[ap]m\b|[AP]M\b)", _clock
    ),
    rule(r"(?<![\d:])(?P<hour>[01]?\d|2[0-4]):(?P<minute>[0-5]\d)(?P<half>)(?![\d:])", _clock),
    rule(r"\b(\d+):(\d+)(?::(\d+))?\b", lambda found: " to ".join(_number(part) for part in found.groups() if part)),
    # ranges, sizes, signs beside numbers
    rule(r"(\d+)\s?(?:ft|feet) (\d+)\s?in\b", lambda found: f"{_number(found[1])} feet {_number(found[2])} inches"),
    rule(r"(\d) in\.(?=\s[a-z]|$)", r"\1 inches"),
    rule(r"\b(\d)'\s?(\d\d?)(?:\"|''|\b)", lambda found: f"{_ONES[int(found[1])]} foot {cardinal(int(found[2]))}"),
    rule(r"(?<![A-Za-z])v\.?\s?(?=\d)", "version "),
    rule(r"(?<![\w.])(\d+(?:\.\d+){2,})\b", lambda found: " point ".join(map(_number, found[1].split(".")))),
    rule(r"(?<=\d)\s?[x×](?=\d)|(?<=\dp)\s?[x×]\s?(?=\d)", " by "),
    rule(r"(?<=\d)\s[x×*]\s(?=\d)|(?<=\d)\*(?=\d)|(?<=\w)\s\*\s(?=\w)", " times "),
    rule(r"(?<=\d)x\b(?=\s(?:faster|more|larger|bigger|as|the|better|higher|smaller))", " times"),
    rule(
        rf"({_AMOUNT})\s?(km|m|cm|mm|ft|yd)\^([23])\b",
        lambda found: f"{_number(found[1])} {'square' if found[3] == '2' else 'cubic'} {_AREAS[found[2]]}",
    ),
    rule(r"(?<=[\w)])\^2\b", " squared "),
    rule(r"(?<=[\w)])\^3\b", " cubed "),
    rule(r"\^(?=\d)", " to the power of "),
    rule(r"(?<=[\d%])\+(?=\s[A-Za-z])", " plus"),
    rule(r"~\s?(?=\d)", "about "),
    rule(rf"(?<![\w.-])({_AMOUNT})\s?%?\s?(?:-|~|to)\s?({_AMOUNT})\s?%", r"\1 to \2 percent"),
    rule(rf"(?<![\w.=+*/-])(?<![=+*/-] )({_AMOUNT})-({_COUNT}?{_AMOUNT})(?=[\s,.?!;:°]|$|[a-z])", r"\1 to \2"),
    rule(r"(?<=\d)(?:\s-\s|-)(?=\d)|(?<=\w)\s-\s(?=\d)|(?<=\d)\s-\s(?=\w)", " minus "),
    rule(rf"(?:(?<=[\s,=])|(?<=^))-(?={_AMOUNT})", "minus "),
    rule(r"(?<=[A-Za-z])-(?=\d)", " "),
    # measures
    rule(
        rf"(?<![\w.])(?P<amount>{_AMOUNT})\s?(?P<unit>" + "|".join(sorted(map(re.escape, _OWN_UNITS), key=len)[::-1])
        + r")(?![\w^/])(?!\s?[+=])",
        _own_unit,
    ),
    rule(rf"(?<![\w.])({_AMOUNT})\s?({_UNITS})(?![\w^])", lambda found: _measure(found[1], found[2])),
    rule(rf"({_AMOUNT})\s?%", lambda found: f"{_number(found[1])} percent "),
    rule(r"(?<![\w/.])(\d{1,3})/(\d{1,3})(?![\w/])", lambda found: _fraction(int(found[1]), int(found[2]))),
    rule(r"(?<=\w)\s?/\s?(?=\d)|(?<=\d)\s?/\s?(?=\w)", " divided by "),
    rule(r"(\d+)(?:st|nd|rd|th)\b-?", lambda found: f"{ordinal(int(found[1]))} " if len(found[1]) < 16 else found[0]),
    rule(rf"\b({_AMOUNT})k\b", lambda found: f"{_number(found[1])} thousand"),
    rule(rf"\b({_AMOUNT})M\b", lambda found: f"{_number(found[1])} million"),
    # numbers as they are left: in names, with letters, alone
    rule(r"\b(1080|720|480|1440|2160)p\b", lambda found: f"{_pairs(found[1])} p"),
    rule(r"(?<=[A-Za-z])(\d{3,})(?![\d.])", lambda found: " " + digits(found[1])),
    rule(r"(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])", " "),
    rule(r"(?<![\d.])(?:\d+\.\d+|\.\d+)(?!\d)", lambda found: _number(found[0])),
    rule(r"\d{16,}|\b0\d+", lambda found: digits(found[0])),
    rule(r"\d+", _english_plain),
)  # fmt: skip


def _measure(amount: str, unit: str) -> str:
    """Wetext knows the units, and reads the numbers before them as we do not: `ten hundred`."""
    said = read(f"{'1' if amount == '1' else '2'} {unit}", "en")
    head, _, words = said.partition(" ")
    return f"{_number(amount)} {words if head in {'one', 'two'} else unit}"


def _fraction(over: int, under: int) -> str:
    if not over or under < 2 or over > 99:
        return f"{cardinal(over)} over {cardinal(under)}"
    single = {2: "half", 4: "quarter"}.get(under) or ordinal(under)
    return f"{cardinal(over)} {single if over == 1 else 'halves' if under == 2 else single + 's'}"


def _pairs(text: str) -> str:
    return " ".join(cardinal(int(part)) for part in (text[:-2], text[-2:]) if part)

"""Mandarin numbers and signs in words: our rules first, then wetext, clause by clause.

wetext knows which 2 is 两 and which 1 is 幺, dates, clock times and measures. Ours are the readings that it gets wrong:
`第2个` as 第两个, `GPT-4` as 负四, `5-10%` as a difference, `￥99.9元/kg`, models and codes, versions, equations.
"""

import re

from tarsia.builders.rules import Rule, rule
from tarsia.builders.spelling import read

_AMOUNT = r"\d+(?:\.\d+)?"

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
    return read(found[0], "zh") if re.search(r"\d", found[0]) else found[0]


def _equation(found: re.Match[str]) -> str:
    return re.sub(r"\s*-\s*", "减", found[0])


_SPELT = "邮编|邮政编码|QQ号?|学号|编号|密码|房间号|车牌号?|卡号|账号|证号|验证码|工号|尾号"
_NAMED = "飞机|客机|航班|次列车|高地"
_FAMILIAR = {"211": "二幺幺", "985": "九八五", "996": "九九六", "007": "零零七", "360": "三六零"}
_DAYS = r"(\d{1,2})[./·](\d{1,2})(?=事件|袭击|恐|惨案|运动|起义|事变|[一-鿿]{0,3}节)"


_UNITS = {  # that wetext leaves as they are
    "GHz": "吉赫", "MHz": "兆赫", "kHz": "千赫", "Hz": "赫兹", "kWh": "千瓦时", "kW": "千瓦", "V": "伏", "W": "瓦",
    "A": "安", "L": "升", "dB": "分贝",
}  # fmt: skip
_LENGTHS = {"km": "千米", "dm": "分米", "cm": "厘米", "mm": "毫米", "m": "米"}

RULES: tuple[Rule, ...] = (
    rule(r"[\"“”()（）\[\]【】「」『』《》]", " "),
    rule(r"(?<=\d)，(?=\d)", "， "),
    rule(r"(?<=\d),(?=\d{3}(?!\d))", ""),
    rule(r"(?<=\d)：(?=\d)", ":"),
    rule(r"(?<=\d),(?=\d)", "，"),
    rule(r"(?i)\bNo\. ?(?=\d)", "第"),
    rule(r"#\s?(?=\d)", ""),
    rule(r"[￥¥](\d[\d.]*)\s?(?=元|块)", r"\1"),
    rule(r"[￥¥](\d[\d.]*)(?P<scale>[万亿]?)", r"\1\g<scale>元"),
    rule(r"HK\$\s?(\d[\d.]*)([万亿]?)", r"\1\2港元"),
    rule(r"(?:US)?\$\s?(\d[\d.]*)(?P<scale>[万亿]?)", r"\1\g<scale>美元"),
    rule(r"£\s?(\d[\d.]*)([万亿]?)", r"\1\2英镑"),
    rule(r"(?<!\d)2(?=点(?:半|钟|整|左右|多|前|后|到|\d\d))", "两"),
    rule(r"€\s?(\d[\d.]*)|(\d[\d.]*)\s?€", lambda found: f"{found[1] or found[2]}欧元"),
    rule(r"(?<!\d)(\d{1,12})(?:st|nd|rd|th)\b", lambda found: f"第{numeral(int(found[1]))}"),
    rule(_DAYS, lambda found: _han_digits(found[1]) + _han_digits(found[2])),
    rule(r"(?<!\d)24/7(?!\d)", "二十四乘七"),
    rule(r"第\s?(\d{1,12})(?![\d.])", lambda found: f"第{numeral(int(found[1]))}"),
    rule(
        rf"({_SPELT})((?:是|为|:|：|\s)*)(\d[\d-]*)",
        lambda found: f"{found[1]}{found[2].replace(':', '：')}{_han_digits(found[3], one='幺')}",
    ),
    rule(
        r"(?<!\d)0\d{2,3}-\d{7,8}(?!\d)|(?<!\d)[48]00-\d{3}-\d{4}(?!\d)",
        lambda found: _han_digits(found[0], one="幺"),
    ),
    rule(
        rf"(?<![\d.])({'|'.join(_FAMILIAR)})(?=大学|高校|院校|工作制|工程|公司|软件|网|$)",
        lambda found: _FAMILIAR[found[1]],
    ),
    rule(rf"(?<![\d.])(\d{{3,4}})(?={_NAMED})", lambda found: _han_digits(found[1])),
    rule(r"(?<![\d.])([3-9]\d\d)(?=路公交|路车|路汽车|房间?|室|寝室)", lambda found: _han_digits(found[1])),
    rule(
        r"(?<![\d/])(0?[1-9]|[12]\d|3[01])/(0?[1-9]|1[0-2])/([12]\d{3})(?!\d)",
        lambda found: f"{found[3]}年{int(found[2])}月{int(found[1])}日",
    ),
    rule(
        r"(?<![\d/])(0?[1-9]|1[0-2])/(0?[1-9]|[12]\d|3[01])/([12]\d{3})(?!\d)",
        lambda found: f"{found[3]}年{int(found[1])}月{int(found[2])}日",
    ),
    rule(
        r"(?<!\d)([12]\d{3})[-/](0?[1-9]|1[0-2])[-/](0?[1-9]|[12]\d|3[01])(?!\d)",
        lambda found: f"{found[1]}年{int(found[2])}月{int(found[3])}日",
    ),
    rule(r"(?<!\d)((?:19|20)\d\d)(?=届|世界杯|奥运|赛季|款|春节|高考)", lambda found: _han_digits(found[0])),
    rule(
        r"(?<!\d)((?:1[5-9]|20)\d\d)\s?[-—~至到]\s?((?:1[5-9]|20)\d\d)(?!\d)",
        lambda found: f"{_han_digits(found[1])}到{_han_digits(found[2])}",
    ),
    rule(rf"({_AMOUNT})%?\s?(?:-|~|—)\s?({_AMOUNT})%", _percent_range),
    rule(r"(?<![\w.])v\.?\s?(?=\d)", "版本"),
    rule(r"(?<![\d.])\d+(?:\.\d+){2,}", lambda found: "点".join(_han_digits(part) for part in found[0].split("."))),
    rule(r"(?<=\d)\s?[x×*X]\s?(?=\d)", "乘"),
    rule(r"(?<=\d)\s?÷\s?(?=\d)", "除以"),
    rule(
        r"(\d)\s?(km|dm|cm|mm|m)\^([23])",
        lambda found: found[1] + ("平方" if found[3] == "2" else "立方") + _LENGTHS[found[2]],
    ),
    rule(r"(?<=[A-Za-z\d])\^2(?!\d)", "的平方"),
    rule(r"(?<=[A-Za-z\d])\^3(?!\d)", "的立方"),
    rule(r"\^(?=\d)", "的幂 "),
    rule(r"(?<=\d)\+(?=[一-鿿])", "多"),
    rule(r"[\w.\s+*=乘-]*[+=][\w.\s+*=乘-]*", _equation),
    rule(r"(?<![A-Za-z\d.-])(\d+(?:\.\d+)?)[-—~](\d+(?:\.\d+)?)(?!\d*[-—~/])", r"\1到\2"),
    rule(r"(?<=\d)\s-\s(?=\d)", "减"),
    rule(r"(?<=[A-Za-z])-(?=\d)", " "),
    rule(r"(?<=[\d一-鿿])\s-\s(?=\d)", "，"),
    rule(
        r"(?<=[A-Za-z])\s?(\d{3,})(?![\d.A-Za-z])(?!\s?[年月日个位人元块])",
        lambda found: " " + _han_digits(found[1]),
    ),
    rule(r"(?<!\d)(1080|720|480|1440|2160)[pP]\b", lambda found: _han_digits(found[1]) + "P"),
    rule(rf"(\d)\s?({'|'.join(_UNITS)})\b", lambda found: found[1] + _UNITS[found[2]]),
    rule(r"(\d)\s(?=(?:km|cm|mm|kg|mg|g|m|ml|s|min|h)\b)", r"\1"),
    rule(r"[^，。？！；\n]+", _wetext_reads),
    rule(r"\d+", lambda found: _han_digits(found[0])),
    rule(r"(?<=[零一二三四五六七八九十百千])\.(?=[零一二三四五六七八九])", "点"),
)  # fmt: skip

"""Detect candidate time formats from a sample of texts; the parser then tries them on the whole file.

Of 56 formats that this module detects, pandas' guess_datetime_format detects 39: it knows no months, two-digit years or
half days. tests/unit/test_time_formats.py compares the two.
"""

import re
from collections.abc import Iterable
from datetime import datetime

_DATES = (
    "%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%d/%m/%y",
    "%m/%d/%y", "%d.%m.%y", "%d-%m-%y", "%m-%d-%y", "%d-%b-%Y", "%d-%b-%y", "%d/%b/%Y", "%d %b %Y", "%d %B %Y",
    "%d %b, %Y", "%b %d %Y", "%b %d, %Y", "%B %d %Y", "%B %d, %Y", "%d. %B %Y", "%d%b%Y", "%Y-%b-%d", "%Y %b %d",
    "%a %d %b %Y", "%a, %d %b %Y", "%A, %d %B %Y", "%A, %B %d, %Y", "%a %b %d %Y",
)  # fmt: skip
_MONTHS = ("%Y-%m", "%Y/%m", "%m/%Y", "%m-%Y", "%b-%Y", "%b %Y", "%B %Y", "%Y-%b", "%Y %b", "%YM%m", "%b-%y")
_CLOCK = re.compile(
    r"^(?P<date>.*?\d)(?P<between> |T|, |:)(?P<hour>\d{1,2}):\d\d(?P<second>:\d\d)?(?P<fraction>\.\d{1,6})?"
    r"(?P<half> ?[AaPp][Mm])?(?P<zone> ?(?:Z|UTC|GMT|[+-]\d\d:?\d\d))?$"
)
_COMPACT = {8: ("%Y%m%d",), 12: ("%Y%m%d%H%M",), 14: ("%Y%m%d%H%M%S",)}
_EPOCHS = (("epoch_s", 1), ("epoch_ms", 10**3), ("epoch_us", 10**6))
_PLAUSIBLE = (datetime(1985, 1, 1).timestamp(), datetime(2040, 1, 1).timestamp())
_SPLIT = re.compile(r"\d+|[A-Za-z]+")
_MONTH_NAME = re.compile(r"(?i)\b\d{0,2}(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*")


def detect_time_formats(sample: Iterable[str]) -> list[str]:
    """strptime formats that at least 90% of these texts match, the most likely first. ISO 8601 needs none."""
    texts = list(dict.fromkeys(text.strip() for text in sample))[:300]
    looking = [text for text in texts if _looks_like_time(text)]
    if not texts or len(looking) < 0.9 * len(texts):
        return []
    first = [form for text in looking[:3] for form in _matching_formats(text)]
    enough = 0.9 * len(texts)
    return [form for form in dict.fromkeys(first) if sum(_parses(text, form) for text in looking) >= enough]


def epoch_format(low: float, high: float) -> str | None:
    """The epoch format (seconds, milliseconds or microseconds) in which this range is a plausible time, if any."""
    for form, scale in _EPOCHS:
        if _PLAUSIBLE[0] * scale <= low <= high <= _PLAUSIBLE[1] * scale:
            return form
    return None


def swap_day_month(form: str) -> str | None:
    """The format with day and month swapped; None where they cannot be confused."""
    if "%b" in form or "%B" in form or not ("%d" in form and "%m" in form) or form.startswith("%Y"):
        return None
    return form.replace("%d", "\0").replace("%m", "%d").replace("\0", "%m")


def is_day_first(form: str) -> bool:
    return form.index("%d") < form.index("%m")


def _looks_like_time(text: str) -> bool:
    if not 6 <= len(text) <= 40:
        return False
    if text.isdigit():
        return len(text) in _COMPACT and 1900 <= int(text[:4]) <= 2100
    numbers = [part for part in _SPLIT.findall(text) if part.isdigit()]
    return len(numbers) >= (1 if _MONTH_NAME.search(text) else 2) and all(len(n) <= 14 for n in numbers)


def _matching_formats(text: str) -> list[str]:
    if text.isdigit():
        return [form for form in _COMPACT.get(len(text), ()) if _parses(text, form)]
    if re.fullmatch(r"\d{8}T\d{6}Z?", text):
        return ["%Y%m%dT%H%M%S" + text[15:]]
    clock = _CLOCK.match(text)
    if clock is None:
        return [form for form in (*_DATES, *_MONTHS) if _parses(text, form)]
    rest = clock["between"] + ("%I:%M" if clock["half"] else "%H:%M")
    rest += (":%S" if clock["second"] else "") + (".%f" if clock["fraction"] else "")
    if clock["half"]:
        rest += " %p" if clock["half"].startswith(" ") else "%p"
    if zone := clock["zone"]:
        name = zone.strip()
        rest += (" " if zone.startswith(" ") else "") + (name if name.isalpha() else "%z")
    return [f"{form}{rest}" for form in _DATES if _parses(clock["date"], form)]


def _parses(text: str, form: str) -> bool:
    try:
        return 1700 <= datetime.strptime(text, form).year <= 2262
    except ValueError:
        return False

"""Propose declarations for a column of texts from a sample: how its numbers and times are written.

These are candidates only: the profile tries each over the whole file, with the parser of ingest."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from truecourse.authoring.scaffold.time_formats import detect_time_formats, epoch_format
from truecourse.problem.schema import AnyColumn, Boolean, Float, Integer, Time

MARKERS = frozenset(
    {"?", "??", "-", "--", "---", ".", "n/a", "n.a.", "n/d", "#n/a", "na", "<na>", "nan", "nil", "null", "<null>",
     "none", "(null)", "missing", "(missing)", "unknown", "not available", "not applicable", "no data", "#ref!",
     "#div/0!", "#value!", "#name?", "#num!", "#null!", "\\n", "nat"}
)  # fmt: skip
"""Common texts for a missing value, in lower case, besides the empty text and NA."""
PLAIN_MARKERS = frozenset({"?", "n/a", "#n/a", "<na>", "nan", "null", "<null>", "(null)", "nat", "\\n",
                           *(marker for marker in MARKERS if marker.startswith("#"))})  # fmt: skip
"""Markers that mean "missing" also in a column of texts."""
_CURRENCIES = frozenset(
    [
        "USD",
        "EUR",
        "GBP",
        "CHF",
        "JPY",
        "CNY",
        "INR",
        "AUD",
        "CAD",
        "SEK",
        "NOK",
        "DKK",
        "PLN",
        "CZK",
        "BRL",
        "ZAR",
        "RUB",
        "TRY",
        "MXN",
        "kr",
        "Fr",
        "Rs",
    ]
)
_AFFIXED = re.compile(
    r"^(?P<before>[^\d.,+\-\s]{0,4})\s*(?P<number>[+-]?[\d.,'’\s]*\d[.,]?(?:[eE][+-]?\d+)?)\s*(?P<after>[^\d.,+\-\s]{0,8})$"
)
_SIGN_FIRST = re.compile(r"^[+-]\s*(?=\D)")
_GROUPED = {sign: re.compile(rf"[+-]?\d{{1,3}}({re.escape(sign)}\d{{3}})+") for sign in (".", ",", "'")}
_SPACED = re.compile(r"[+-]?\d{1,3}(\s\d{3})+(?=[.,]|$)")
_CODE = re.compile(r"^[A-Za-z]{1,5}[-_/.]?\d[\w-]*$|^\d+[A-Za-z]$")
_TIME_NAME = re.compile(
    r"date|time|day|month|when|created|updated|stamp|epoch|(^|[^a-z])((at|on)$|(ts|dt)([^a-z]|$))", re.IGNORECASE
)
_BIRTH = re.compile(r"birth|born|(^|[^a-z])dob", re.IGNORECASE)


@dataclass(frozen=True)
class Dialect:
    """The decimal and thousands signs of numbers. `certain`: the texts allow no other reading."""

    decimal: str = "."
    thousands: str = ""
    certain: bool = True


@dataclass(frozen=True)
class Numbers:
    """How a column's numbers are written, and the share of its texts that are such numbers."""

    dialect: Dialect
    symbol: str
    share: float


def has_time_name(name: str) -> bool:
    return bool(_TIME_NAME.search(name)) and not _BIRTH.search(name)


def is_code(text: str) -> bool:
    """Whether a text mixes letters and digits, such as D100 or 12B. Whole numbers in such a column are codes."""
    return bool(_CODE.match(text)) and not re.fullmatch(r"\d+[eE]", text)


def has_leading_zero(text: str) -> bool:
    """Whether digits start with zero, as in zip codes and account numbers; 0 itself does not."""
    return len(text) > 1 and text[0] == "0" and text.isdigit()


def propose_markers(sample: Sequence[str]) -> frozenset[str]:
    """Texts of a column's sample that mark a missing value.

    These are known markers, and in a column of numbers up to three words that occur repeatedly."""
    counts = Counter(sample)
    known = {text for text in counts if text.lower() in MARKERS}
    rest = {text: count for text, count in counts.items() if text not in known}
    words = {text: count for text, count in rest.items() if not any(c.isdigit() for c in text)}
    others = len(rest) - len(words)
    if others >= 10 and 0 < len(words) <= 3 and all(count >= 2 for count in words.values()):
        held = sum(rest.values())
        if sum(words.values()) <= 0.5 * held and parse_numbers(list(set(rest) - set(words))) is not None:
            known |= set(words)
    return frozenset(known)


def parse_numbers(texts: Sequence[str]) -> Numbers | None:
    """Detect how numbers are written, if at least half of these texts are numbers; else None."""
    found = [(match["before"], match["number"].strip(), match["after"]) for match in map(_affixes, texts) if match]
    if len(found) * 2 < len(texts) or not found:
        return None
    signs = Counter(sign for before, _, after in found for sign in (before, after) if sign)
    symbol = next((sign for sign, _ in signs.most_common() if _is_symbol(sign, signs[sign], len(found), texts)), "")
    bodies = [body for before, body, after in found if {before, after} <= {"", symbol}]
    if len(bodies) * 2 < len(texts):
        return None
    dialect = _dialect(bodies)
    return Numbers(dialect, symbol, len(bodies) / len(texts)) if dialect else None


def _affixes(text: str) -> "re.Match[str] | None":
    return _AFFIXED.match(_SIGN_FIRST.sub("", text))


def _is_symbol(sign: str, count: int, total: int, texts: Sequence[str]) -> bool:
    """Whether a sign is a currency, a per cent sign, or a unit that follows most numbers after a space ("74 bhp")."""
    if sign in ("%", "‰", "°") or sign.upper() in _CURRENCIES or sign in _CURRENCIES:
        return True
    if any(unicodedata.category(c) == "Sc" for c in sign):
        return True
    spaced = sum(text.endswith(f" {sign}") for text in texts)
    return count >= 0.8 * total and spaced >= 0.8 * total and sign.isalpha() and len(sign) <= 8


def _dialect(bodies: Sequence[str]) -> Dialect | None:
    """Detect the decimal and thousands signs of these numbers; None if they are not numbers."""
    spaced = sum(bool(_SPACED.match(body)) for body in bodies)
    quoted = sum("'" in body or "’" in body for body in bodies)
    thousands = " " if spaced else "'" if quoted else ""
    bare = [re.sub(r"[\s'’]", "", body) for body in bodies]
    points, commas = [b for b in bare if "." in b], [b for b in bare if "," in b]
    both = [b for b in bare if "." in b and "," in b]
    if both:
        comma_last = sum(b.rindex(",") > b.rindex(".") for b in both)
        return Dialect(",", ".") if comma_last * 2 > len(both) else Dialect(".", ",")
    if commas and not points:
        return _comma_dialect(",", commas, bare, thousands)
    if points and not commas:
        if sum(b.count(".") > 1 for b in points) * 2 > len(points):
            grouped = all(_GROUPED["."].fullmatch(b) for b in points)
            return Dialect(",", ".") if grouped else None
        return Dialect(".", thousands, certain=not all(_GROUPED["."].fullmatch(b) for b in points))
    if points and commas:  # each number has one of both signs: one groups thousands, the other marks decimals
        if all(_GROUPED[","].fullmatch(b) for b in commas):
            return Dialect(".", ",")
        if all(_GROUPED["."].fullmatch(b) for b in points):
            return Dialect(",", ".")
        return Dialect(",", thousands) if len(commas) > len(points) else Dialect(".", thousands)
    return Dialect(".", thousands, certain=bool(thousands))


def _comma_dialect(sign: str, marked: Sequence[str], every: Sequence[str], thousands: str) -> Dialect | None:
    """The dialect of numbers with commas only: decimal signs, unless they separate groups of three digits.

    1,234 can be both. If all of more than 20 numbers have one comma, it is the decimal sign: with groups, small numbers
    would have none."""
    if sum(b.count(sign) > 1 for b in marked) * 2 > len(marked):
        return Dialect(".", ",") if all(_GROUPED[sign].fullmatch(b) for b in marked) else None
    grouped = all(_GROUPED[sign].fullmatch(b) and not b.lstrip("+-").startswith("0") for b in marked)
    if not grouped:
        return Dialect(",", thousands)
    if any(b.count(sign) > 1 for b in marked):
        return Dialect(".", ",")
    return (
        Dialect(",", thousands, certain=False) if len(marked) == len(every) > 20 else Dialect(".", ",", certain=False)
    )


def candidates(name: str, sample: Sequence[str], dialect: Dialect) -> list[AnyColumn]:
    """Declarations to try on a column of these texts, the narrowest first, without Text. `dialect` is the file's."""
    texts = list(dict.fromkeys(sample))
    if not texts:
        return []
    tried: list[AnyColumn] = []
    words = sum(text.lower() in ("true", "false") for text in sample)
    if words * 2 >= len(sample):
        tried.append(Boolean())
    found = parse_numbers(texts)
    if found is not None and is_compatible(found.dialect, dialect):
        tried += _epochs(name, texts)
        tried += _times(form for form in detect_time_formats(texts) if form.startswith("%Y%m%d"))
        tried += [Integer(symbol=found.symbol), Float(symbol=found.symbol)]
        if found.share == 1:
            return tried
    iso = sum(bool(re.match(r"^\d{4}-\d\d-\d\d([T ]\d\d:\d\d.*)?$", text)) for text in texts)
    if iso * 2 >= len(texts):
        tried.append(Time())
    return tried + [c for c in _times(detect_time_formats(texts)) if c not in tried]


def is_compatible(one: Dialect, file: Dialect) -> bool:
    """Whether the file's dialect reads numbers of another dialect correctly."""
    if one.decimal != file.decimal and one.certain:
        return False
    return not one.thousands or one.thousands == file.thousands


def _epochs(name: str, texts: Sequence[str]) -> list[AnyColumn]:
    """Epoch times among whole numbers, only if the column's name suggests a time: an amount may be a billion."""
    whole = [int(text) for text in texts if re.fullmatch(r"\d{9,17}", text)]
    if not has_time_name(name) or len(whole) < 0.9 * len(texts):
        return []
    form = epoch_format(min(whole), max(whole))
    return list(_times([form])) if form else []


def _times(forms: Iterable[str]) -> list[AnyColumn]:
    known: list[AnyColumn] = []
    for form in forms:
        try:
            known.append(Time(format=form))
        except ValidationError:
            continue
    return known


def detect_dialect(columns: Iterable[Sequence[str]]) -> Dialect:
    """The dialect of a file's numbers: that of most certain columns, else of most uncertain ones."""
    certain: Counter[tuple[str, str]] = Counter()
    likely: Counter[tuple[str, str]] = Counter()
    grouped = False
    for texts in columns:
        found = parse_numbers(list(dict.fromkeys(texts)))
        if found is None:
            continue
        written = (found.dialect.decimal, found.dialect.thousands)
        if written == (".", "") and not found.dialect.certain:
            grouped = grouped or any("." in text for text in texts)
            continue
        (certain if found.dialect.certain else likely)[written] += 1
    decimals = Counter[str]()
    for (decimal, _), count in (certain or likely).items():
        decimals[decimal] += count
    if not decimals:
        return Dialect()
    decimal = decimals.most_common(1)[0][0]
    groups = [t for (d, t), _ in (certain + likely).most_common() if d == decimal and t and t != decimal]
    if not groups and decimal == "," and grouped:
        groups = ["."]  # 1.234 in a file with 12,5 is above a thousand
    return Dialect(decimal, groups[0] if groups else "", certain=bool(certain))

"""Text for numbers, durations and suggestions, so that all messages and pages have one style."""

import re
from collections.abc import Iterable
from datetime import timedelta
from difflib import get_close_matches

_UNITS = ((86400.0, "day"), (3600.0, "hour"), (60.0, "minute"), (1.0, "second"))
_PLURALS = {"is": "are", "was": "were", "has": "have", "this": "these", "it": "them"}
_LISTED = 12


def counted(number: int, noun: str) -> str:
    """Format a count with its noun: "1 row", "1,204 rows", "2 queries", "3 classes"."""
    return f"{number:,} {plural(number, noun)}"


def counted_of(part: int, whole: int, noun: str) -> str:
    """Format a part of a count: "3 of 1,204 rows", "0 of 1 row"."""
    return f"{part:,} of {counted(whole, noun)}"


def plural(number: int, noun: str) -> str:
    """Inflect a noun, or one of the words in _PLURALS, for a number."""
    if number == 1:
        return noun
    if noun in _PLURALS:
        return _PLURALS[noun]
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s"


def with_unit(text: str, unit: str) -> str:
    """Append a unit, if there is one: "RMSE, minutes"."""
    return f"{text}, {unit}" if text and unit else text or unit


def format_duration(length: timedelta | float) -> str:
    """Format a duration (timedelta or seconds): "3 days", "1.5 hours", "20 ms"."""
    seconds = length.total_seconds() if isinstance(length, timedelta) else float(length)
    for size, name in _UNITS:
        if seconds >= size:
            count = seconds / size
            amount = f"{count:.0f}" if count >= 10 or abs(count - round(count)) < 0.05 else f"{count:.1f}"
            return f"{amount} {name}{'' if amount == '1' else 's'}"
    return f"{1000 * seconds:.3g} ms"


def suggestion(name: str, names: Iterable[str], prefix: str = "") -> str:
    """Suggest similar names for an unknown one: "did you mean a or b?"; empty if none is similar.

    `prefix`: added to each name."""
    known = [str(n) for n in names]
    same = [n for n in known if n.lower() == name.lower()]
    close = same or get_close_matches(name, known, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(prefix + n for n in close)}?" if close else ""


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint for an unknown name: similar names, or else the existing ones."""
    known = [str(n) for n in names]
    if not known:
        return "there are none"
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    return suggestion(name, known) or f"there are {', '.join(known[:_LISTED])}{more}"


def escape_markdown(text: str) -> str:
    """Return a line of text so that Markdown shows it as it is."""
    return re.sub(r"([\\`*\[\]<>|#~]|(?<!\w)_|_(?!\w))", r"\\\1", text)

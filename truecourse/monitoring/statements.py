"""Findings in words: durations, counts, and one sentence for a whole report."""

from collections.abc import Sequence
from datetime import timedelta

from truecourse.monitoring.findings import Finding

_UNITS = ((86400.0, "day"), (3600.0, "hour"), (60.0, "minute"), (1.0, "second"))


def lasting(length: timedelta | float) -> str:
    """A duration (seconds) as people say it: "3 days", "1.5 hours", "20 ms"."""
    seconds = length.total_seconds() if isinstance(length, timedelta) else float(length)
    for size, name in _UNITS:
        if seconds >= size:
            count = seconds / size
            said = f"{count:.0f}" if count >= 10 or abs(count - round(count)) < 0.05 else f"{count:.1f}"
            return f"{said} {name}{'' if said == '1' else 's'}"
    return f"{1000 * seconds:.3g} ms"


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def summed(findings: Sequence[Finding], well: str) -> str:
    """One sentence for a report: the one finding's, or the first that pages and how many others there are, or
    `well`."""
    if not findings:
        return well
    first = min(findings, key=lambda finding: not finding.page)
    others = len(findings) - 1
    return first.sentence if not others else f"{first.sentence} {counted(others, 'other thing').capitalize()} to see."

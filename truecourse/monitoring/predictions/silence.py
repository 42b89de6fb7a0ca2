"""Silence: no predictions where their rhythm says that there should be some."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta

from truecourse.monitoring.findings import Finding
from truecourse.monitoring.robust_stats import LATE_FACTOR, MIN_HISTORY, longest_gap
from truecourse.problem.definition import midnight
from truecourse.wording import format_duration

DAY = timedelta(days=1)
_REMEMBERED = 60
"""So many days with predictions make the rhythm."""


def detect_silence(problem: str, days: Sequence[date], newest: datetime, now: datetime) -> Finding | None:
    """`days`: those with predictions (rising), whose gaps are the rhythm; `newest`: the last of them all, `now`: both
    naive UTC. Somebody is told when nothing came for half as long again as ever before, and at least a day."""
    longest = longest_gap([midnight(day) for day in days[-_REMEMBERED:]])
    silent = now - newest
    if longest is None or silent <= max(LATE_FACTOR * longest, DAY):
        return None
    told = f"No prediction was made for {format_duration(silent)}, the last at {newest:%Y-%m-%d %H:%M} UTC; it never "
    told += f"took longer than {format_duration(longest)} before."
    figures = {"silent_seconds": silent.total_seconds(), "longest_gap_seconds": longest.total_seconds()}
    return Finding(check="drift", subject=problem, cause="silence", page=True, sentence=told, figures=figures)


def days_until_detectable(days: Sequence[date]) -> int:
    """How many more days with predictions are needed before silence can be told."""
    return max(0, MIN_HISTORY + 1 - len(days))

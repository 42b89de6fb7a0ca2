"""Detect silence: a gap without predictions that is longer than usual."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta

from truecourse.monitoring.findings import Finding
from truecourse.monitoring.robust_stats import LATE_FACTOR, longest_gap
from truecourse.problem.definition import midnight
from truecourse.wording import format_duration

DAY = timedelta(days=1)
_HISTORY_DAYS = 60
"""The latest days with predictions whose gaps count as usual."""


def detect_silence(problem: str, days: Sequence[date], newest: datetime, now: datetime) -> Finding | None:
    """Return a critical finding if no prediction came for 1.5 times the longest past gap, and for at least a day.

    `days`: days with predictions, sorted. `newest`: the time of the last prediction; `now`: the reference time (both
    naive UTC)."""
    longest = longest_gap([midnight(day) for day in days[-_HISTORY_DAYS:]])
    silent = now - newest
    if longest is None or silent <= max(LATE_FACTOR * longest, DAY):
        return None
    sentence = f"No predictions for {format_duration(silent)}: the last was at {newest:%Y-%m-%d %H:%M} UTC, and the "
    sentence += f"longest gap before was {format_duration(longest)}."
    figures = {"silent_seconds": silent.total_seconds(), "longest_gap_seconds": longest.total_seconds()}
    return Finding(check="drift", subject=problem, cause="silence", page=True, sentence=sentence, figures=figures)

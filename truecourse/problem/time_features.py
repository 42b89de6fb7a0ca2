"""Parts of times as model inputs: month, day of the week, hour, and days between two times.

Each part of a request field, or of the decision time, is a feature of its own. Training, batches and the endpoint
compute it by the same function.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from truecourse.problem.schema import AnyColumn, Columns, Float, Integer, Time
from truecourse.problem.time_parts import CalendarPart, Part, Since

TO_DECISION = "days_to_decision"
DECISION_TIME = "decision_time"
_DAY = np.timedelta64(1, "D")
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class TimeFeature:
    """A feature that is a part of a time. `field`: the request field, or `decision_time`."""

    name: str
    field: str
    part: str | Since

    @property
    def inputs(self) -> tuple[str, ...]:
        """The fields that it is computed from."""
        if isinstance(self.part, Since):
            return self.field, self.part.field
        return (self.field, DECISION_TIME) if self.part == TO_DECISION else (self.field,)

    @property
    def column(self) -> AnyColumn:
        """Its declaration."""
        if isinstance(self.part, Since):
            return Float(f"days from {self.part.field} to {self.field}", unit="days", nulls=True)
        if self.part == TO_DECISION:
            return Float(f"days from {self.field} to the decision", unit="days", nulls=True)
        about = {"day_of_week": "day of the week, Monday is 1", "day": "day of the month"}.get(self.part, self.part)
        return Integer(f"{about}, of {self.field} in UTC", nulls=True)

    def values(self, columns: Mapping[str, Array]) -> Array:
        """Compute the feature from n times of each input, datetime64[us]; float64 (n,), NaN where one is missing."""
        times = columns[self.field]
        if isinstance(self.part, Since):
            return np.asarray((times - columns[self.part.field]) / _DAY, dtype=np.float64)
        if self.part == TO_DECISION:
            return np.asarray((columns[DECISION_TIME] - times) / _DAY, dtype=np.float64)
        found = _calendar(self.part, times).astype(np.float64)
        found[np.isnat(times)] = np.nan
        return found


def _calendar(part: str, times: Array) -> Array:
    """A part of the calendar date in UTC; undefined for missing times."""
    years, months, days = (times.astype(f"datetime64[{unit}]") for unit in "YMD")
    found: Array
    if part == "year":
        found = years.astype(np.int64) + 1970
    elif part == "month":
        found = months.astype(np.int64) % 12 + 1
    elif part == "day":
        found = (days - months).astype(np.int64) + 1
    elif part == "day_of_week":  # 1970-01-01 was a Thursday
        found = (days.astype(np.int64) + 3) % 7 + 1
    else:
        found = (times - days).astype("timedelta64[h]").astype(np.int64)
    return found


def default_parts(column: Time, *, has_time: bool) -> tuple[Part, ...]:
    """The parts of a field that declares none. `has_time`: whether decisions have a time.

    Without one, the year tells times apart; with one, the days between do, which also hold in later years."""
    hour: tuple[Part, ...] = () if _is_date(column) else ("hour",)
    span: Part = "days_to_decision" if has_time else "year"
    return (span, "month", "day_of_week", *hour)


def _is_date(column: Time) -> bool:
    """Whether the declared format has no hour."""
    form = column.format
    return form is not None and form.startswith("%") and not any(sign in form for sign in ("%H", "%I"))


def time_features(fields: Columns, decision_parts: Sequence[CalendarPart], *, has_time: bool) -> dict[str, TimeFeature]:
    """The parts of all time fields and of the decision time, by feature name."""
    found = [TimeFeature(f"{DECISION_TIME}_{part}", DECISION_TIME, part) for part in decision_parts]
    for name, column in fields.items():
        if isinstance(column, Time) and column.feature:
            parts = default_parts(column, has_time=has_time) if column.parts is None else column.parts
            found += [TimeFeature(f"{name}_{_suffix(part)}", name, part) for part in parts]
    return {feature.name: feature for feature in found}


def _suffix(part: Part) -> str:
    return f"days_since_{part.field}" if isinstance(part, Since) else part

"""Declarations of the parts of a time that are model inputs."""

from typing import Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

CalendarPart = Literal["year", "month", "day", "day_of_week", "hour"]
"""A part of the date and time in UTC. Days of the week are 1 (Monday) to 7."""


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class Since:
    """Days from another time field to this one; negative if this one is earlier."""

    field: str
    """The other request field. Example: `field="signed_up"`."""


Part = CalendarPart | Literal["days_to_decision"] | Since
"""`days_to_decision`: days from this time to the decision; negative for a later time."""

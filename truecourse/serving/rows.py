"""Validated rows by field: values as read, and as arrays for computing features."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from truecourse.arrays import Array, Values
from truecourse.errors import RowFault
from truecourse.serving.contract import DECISION_TIME, FieldType


@dataclass(frozen=True)
class Rows:
    """Validated rows.

    `accepted`: their positions in the input. `ids`: as sent, or None. `types`: of the fields. `values`: n of each
    field, as float64 arrays with NaN or sequences with None; times are naive UTC. `timed`: whether there is a field
    `decision_time`. `faults`: of the refused rows. `given`: the accepted rows as sent."""

    accepted: list[int]
    ids: list[Any]
    types: Mapping[str, FieldType]
    values: dict[str, Values]
    timed: bool
    faults: list[RowFault]
    given: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.accepted)

    @cached_property
    def columns(self) -> dict[str, Array]:
        """The values as arrays, in the convention of truecourse.arrays.columns_of; float64 rounds integers beyond
        2**53."""
        arrays = {name: field_array(self.types[name], values) for name, values in self.values.items()}
        times = self.decision_times
        return arrays if times is None else arrays | {DECISION_TIME: times}

    @cached_property
    def decision_times(self) -> Array | None:
        """Decision times (n,) datetime64[us]; None for a problem without time."""
        return field_array("time", self.values[DECISION_TIME]) if self.timed else None

    def part(self, places: Sequence[int]) -> "Rows":
        """Select the rows at these positions, in this order."""
        return replace(
            self,
            accepted=[self.accepted[i] for i in places],
            ids=[self.ids[i] for i in places],
            values={name: _part(values, places) for name, values in self.values.items()},
            faults=[],
            given=[self.given[i] for i in places],
        )


def _part(values: Values, places: Sequence[int]) -> Values:
    return values[list(places)] if isinstance(values, np.ndarray) else [values[i] for i in places]


def field_array(kind: FieldType, values: Values) -> Array:
    """Convert n values of a field to an array."""
    if isinstance(values, np.ndarray):
        return values
    if kind == "text":
        return object_array(values)
    if kind == "time":
        return np.array([np.datetime64("NaT", "us") if v is None else v for v in values], dtype="datetime64[us]")
    return np.array(values, dtype=np.float64)  # None becomes NaN


def object_array(values: Sequence[Any]) -> Array:
    """Build an object array (n,) of these values."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array

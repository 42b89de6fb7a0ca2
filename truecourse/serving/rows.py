"""Rows that kept the contract, by field: as they were read, and as the arrays that features are made from."""

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
    """`accepted`: their places in what came in. `ids` as they were given, or None. `types` of the fields, and of each
    field n `values`: float64 arrays with NaN, or sequences with None, times being naive datetimes of UTC. `timed`:
    whether they have decision times, as the field of that name. `faults`: of the rows that were refused. `given`: the
    accepted rows as they were sent."""

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
        """The values in the convention of truecourse.modeling.encoding.columns_of: float64 holds no integer beyond
        2**53."""
        made = {name: field_array(self.types[name], values) for name, values in self.values.items()}
        times = self.decision_times
        return made if times is None else made | {DECISION_TIME: times}

    @cached_property
    def decision_times(self) -> Array | None:
        """(n,) datetime64[us]; None for a problem with no time."""
        return field_array("time", self.values[DECISION_TIME]) if self.timed else None

    def part(self, places: Sequence[int]) -> "Rows":
        """Those at these places, in this order."""
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
    """n values of a field, as an array."""
    if isinstance(values, np.ndarray):
        return values
    if kind == "text":
        return object_array(values)
    if kind == "time":
        return np.array([np.datetime64("NaT") if v is None else v for v in values], dtype="datetime64[us]")
    return np.array(values, dtype=np.float64)  # None becomes NaN


def object_array(values: Sequence[Any]) -> Array:
    """(n,) of objects, each as it is."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array

"""Aggregations as of past times, from their feature table: as known then, as known now, and as known at a load."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array
from truecourse.data.arrow_types import UTC_TIME
from truecourse.features.aggregates.evaluation import AggregateIndex
from truecourse.features.aggregation_lookup import as_known_at, as_known_now
from truecourse.features.aggregation_rows import UNTIL
from truecourse.features.asof import CREATED, EVENT
from truecourse.problem import Aggregations


@dataclass(frozen=True)
class AggregationHistory:
    """The relevant rows of the feature table of Aggregations, none recorded after the reference time of the audit."""

    view: Aggregations
    rows: pa.Table

    @property
    def has_late(self) -> bool:
        """Whether a row was recorded after its event, or superseded."""
        late = pc.or_(pc.greater(self.rows[CREATED], self.rows[EVENT]), pc.is_valid(self.rows[UNTIL]))
        return bool(pc.any(late).as_py())

    def values_at(self, keys: pl.DataFrame, moments: Array, *, include_late: bool = False) -> Mapping[str, Array]:
        """The values of n keys at n `moments` (datetime64[us] UTC), by feature. `include_late`: as known now, instead
        of as known then."""
        return _values(self._now if include_late else self._then, keys, moments)

    def values_as_loaded(self, keys: pl.DataFrame, moments: Array, loaded: Array) -> Mapping[str, Array]:
        """The values of n keys at n moments, from the rows that were known at the n times `loaded`; NaT knows none."""
        found: dict[str, Array] = {}
        for load in np.unique(loaded):
            places = np.flatnonzero(np.isnat(loaded) if np.isnat(load) else loaded == load)
            rows = self.rows.slice(0, 0) if np.isnat(load) else as_known_at(self.rows, pa.scalar(load.item(), UTC_TIME))
            for name, values in _values(AggregateIndex(self.view, rows), keys[places], moments[places]).items():
                found.setdefault(name, np.empty(len(loaded), values.dtype))[places] = values
        return found

    @cached_property
    def _then(self) -> AggregateIndex:
        return AggregateIndex(self.view, self.rows)

    @cached_property
    def _now(self) -> AggregateIndex:
        return AggregateIndex(self.view, as_known_now(self.rows))


def _values(index: AggregateIndex, keys: pl.DataFrame, moments: Array) -> Mapping[str, Array]:
    return index.values(index.rows.codes_of(keys), moments, None)

"""Aggregations as of past times, from their feature table: as known then, as known now, and as known at a load."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array
from truecourse.data.arrow_types import UTC_TIME
from truecourse.errors import StorageError
from truecourse.features.aggregates.evaluation import AggregateIndex
from truecourse.features.aggregates.stored_rows import UNTIL
from truecourse.features.aggregation_lookup import as_known_at, as_known_now
from truecourse.features.asof import CREATED, EVENT
from truecourse.problem import Aggregations
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Limit, Tables

_EARLIER = 8
"""How many earlier versions of the feature table are searched for a value."""


@dataclass(frozen=True)
class AggregationHistory:
    """The relevant rows of the feature table of Aggregations, none recorded after the reference time of the audit."""

    view: Aggregations
    rows: pa.Table
    tables: Tables
    version: TableVersion
    limits: Sequence[Limit]

    def limited(self, limits: Sequence[Limit]) -> "AggregationHistory":
        """The history of the rows within these limits of time."""
        kept = pa.array(np.ones(len(self.rows), bool))
        for name, sign, moment in limits:
            compare = {"<=": pc.less_equal, ">=": pc.greater_equal}[sign]
            kept = pc.and_(kept, compare(self.rows[name], pa.scalar(moment, UTC_TIME)))
        return replace(self, rows=self.rows.filter(kept), limits=limits)

    @property
    def has_late(self) -> bool:
        """Whether a row was recorded after its event, or superseded."""
        late = pc.or_(pc.greater(self.rows[CREATED], self.rows[EVENT]), pc.is_valid(self.rows[UNTIL]))
        return bool(pc.any(late).as_py())

    def values_at(self, keys: pl.DataFrame, moments: Array, *, include_late: bool = False) -> Mapping[str, Array]:
        """The values of n keys at n `moments` (datetime64[us] UTC), by feature. `include_late`: as known now, instead
        of as known then."""
        return _values(self._now if include_late else self._then, keys, moments)

    def values_as_loaded(self, keys: pl.DataFrame, moments: Array, loaded: Array) -> Iterator[Mapping[str, Array]]:
        """The values of n keys at n moments from what was known at the n times `loaded` (NaT: nothing), by this version
        of the feature table, then by earlier ones: rows may arrive after a load that are dated before it."""
        for rows in self._versions():
            found: dict[str, Array] = {}
            for load in np.unique(loaded):
                places = np.flatnonzero(np.isnat(loaded) if np.isnat(load) else loaded == load)
                known = rows.slice(0, 0) if np.isnat(load) else as_known_at(rows, pa.scalar(load.item(), UTC_TIME))
                for name, values in _values(AggregateIndex(self.view, known), keys[places], moments[places]).items():
                    found.setdefault(name, np.empty(len(loaded), values.dtype))[places] = values
            yield found

    def _versions(self) -> Iterator[pa.Table]:
        yield self.rows
        for number in range(self.version.version - 1, max(-1, self.version.version - 1 - _EARLIER), -1):
            try:
                yield self.tables.read(
                    TableVersion(name=self.version.name, version=number), self.rows.column_names, where=self.limits
                )
            except (StorageError, pa.ArrowInvalid):  # its files were deleted, or it had other columns
                continue

    @cached_property
    def _then(self) -> AggregateIndex:
        return AggregateIndex(self.view, self.rows)

    @cached_property
    def _now(self) -> AggregateIndex:
        return AggregateIndex(self.view, as_known_now(self.rows))


def _values(index: AggregateIndex, keys: pl.DataFrame, moments: Array) -> Mapping[str, Array]:
    return index.values(index.rows.codes_of(keys), moments, None)

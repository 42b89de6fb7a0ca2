"""The look-ahead proof of Aggregations: their stored rows equal those from sources cut at a sampled time.

The evaluation counts only rows known at the decision. So the proof compares what each row says: a condition or value
that reads a column which was filled in later differs in the cut sources.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import duckdb
import pyarrow as pa

from truecourse.arrays import Array
from truecourse.data import sql
from truecourse.errors import FeatureError
from truecourse.features.aggregates.stored_rows import UNTIL
from truecourse.features.aggregation_rows import bind_source, place, rows_query
from truecourse.features.asof import CREATED, EVENT
from truecourse.features.label_cells import OutcomeColumns
from truecourse.features.row_differences import (
    MOMENTS,
    Difference,
    LookAheadError,
    cut_at,
    first_use,
    last_difference,
    literal,
    sample_times,
    sorted_times,
)
from truecourse.problem import Aggregations
from truecourse.problem.namespace import Namespace
from truecourse.problem.schema import Float
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Tables

_STORED, _CUT, _AGAIN = "__stored_rows", "__cut_rows", "__all_rows"
_COMPARED = timedelta(days=31)
"""Rows of this long before a sampled time are compared; a value is filled in soon after its row, if at all."""


@dataclass(frozen=True)
class AggregationComparison:
    """Compares the stored rows of Aggregations, as used for training, with rows computed from cut sources."""

    view: Aggregations
    connection: duckdb.DuckDBPyConnection
    problem: Namespace
    tables: Tables
    clean: Mapping[str, TableVersion]
    version: TableVersion
    decisions: pa.Table
    cells: OutcomeColumns | None

    @property
    def where(self) -> str:
        return place(self.view)

    def moments(self, decided: Array, seed: str) -> list[datetime]:
        """Sampled times: half just at stored events, half at decisions. `decided`: datetime64[us], sorted."""
        half = MOMENTS // 2
        events = sorted_times(self.tables.read(self.version, [EVENT])[EVENT])
        return [*sample_times(events, MOMENTS - half, seed), *sample_times(decided, half, seed)]

    def compare(self, moment: datetime) -> int | None:
        """Compare at one time. Return the number of rows compared; None if an expression is not deterministic."""
        self.connection.register("__version", self.tables.dataset(self.version))
        self._select(_STORED, "SELECT * FROM __version", moment)
        self._compute(_CUT, moment, cut_at(self.cells, moment))
        difference = self._difference(_STORED, _CUT)
        if difference is None:
            ((count,),) = self.connection.execute(f"SELECT count(*) FROM {_CUT}").fetchall()  # noqa: S608
            return int(count)
        self._compute(_AGAIN, moment, None)
        if self._difference(_STORED, _AGAIN) is not None:
            return None
        raise self._error(difference, moment)

    def _compute(self, target: str, moment: datetime, cut: sql.Cut | None) -> None:
        rows = sql.as_of(moment)
        bind_source(self.connection, self.problem, self.tables, self.view, self.clean, rows, cut)
        self._select(target, rows_query(self.connection, self.problem, self.view), moment)

    def _select(self, target: str, query: str, moment: datetime) -> None:
        """Copy the query's rows that are known at `moment` (naive UTC) to a temporary table."""
        at = literal(moment)
        known = f"{CREATED} <= {at} AND ({UNTIL} IS NULL OR {UNTIL} > {at})"
        near = f"{EVENT} <= {at} AND {EVENT} > {literal(moment - _COMPARED)}"
        selected = f"SELECT * EXCLUDE ({UNTIL}) FROM ({query}) WHERE {known} AND {near}"  # noqa: S608
        sql.run(self.connection, f"CREATE OR REPLACE TEMP TABLE {target} AS {selected}", where=self.where)

    def _difference(self, one: str, other: str) -> Difference | None:
        types = self.view.input_columns(self.problem.table(self.view.table).columns)
        floats = {name for name, column in types.items() if isinstance(column, Float)}
        identity = [*self.problem.join_keys(self.view), EVENT, sql.ROW]
        return last_difference(self.connection, one, other, identity, list(types), floats, EVENT)

    def _error(self, difference: Difference, moment: datetime) -> FeatureError:
        key = {name: difference.row[name] for name in self.problem.join_keys(self.view)}
        column = difference.column and self._shown(difference.column)
        shown = Difference(key, difference.at, column, difference.full, difference.cut)
        what = shown.describe(f"aggregations {self.view.name}", moment)
        hint = (
            f"aggregate only what a row of {self.view.table} says at its {self.view.time}; use the time at which the "
            "value was known as `time`, or write a view in SQL"
        )
        return LookAheadError(what + first_use(self.decisions, key, difference.at), where=self.where, hint=hint)

    def _shown(self, name: str) -> str:
        """The expression of a stored column, for the message."""
        each = self.view.inputs[name]
        return each.expression or each.where or name

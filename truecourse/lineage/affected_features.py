"""Feature rows and decisions that source rows affect: computed again without these rows, and compared.

A feature row is affected if it has other values, or does not exist, when its view is computed without the source rows.
That holds for any SQL. Where too many rows would have to be read, the result is an upper bound instead: every feature
row within the view's reach in time. Floats are equal within a relative 1e-9, because the order of a sum may change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import reduce
from operator import or_
from typing import Any, Literal

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array, columns_of
from truecourse.data import sql
from truecourse.data.arrow_types import UTC_TIME, arrow_type
from truecourse.data.sql import ROW
from truecourse.features import frame as frames
from truecourse.features.affected_spans import ALWAYS, TimeRange, merge_ranges, ranges_around
from truecourse.features.aggregates.evaluation import evaluate
from truecourse.features.aggregates.stored_rows import UNTIL
from truecourse.features.aggregation_lookup import longest_window
from truecourse.features.aggregation_rows import AggregationRows, stored_columns
from truecourse.features.asof import CREATED, EVENT, NO_TIME, asof_join
from truecourse.features.definition_digests import feature_table
from truecourse.features.view_sql import key_columns, tables_read, used_tables
from truecourse.features.view_versions import HISTORY, History, reach
from truecourse.lineage.source_rows import Selection
from truecourse.problem import Aggregations, View
from truecourse.problem.namespace import AnyView, Namespace
from truecourse.problem.schema import Float, Time
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Tables, clean_table

MOST_ROWS = 500_000
"""Most source rows that are read to compute a view again; above it, the result is an upper bound."""
_AT = "__at"
COMPUTED: Literal["computed again without them"] = "computed again without them"
EDITED: Literal["unknown: run materialize, the table was edited"] = "unknown: run materialize, the table was edited"
Method = Literal[
    "computed again without them",
    "upper bound: the view's reach in time",
    "the view was never computed",
    "unknown: run materialize, the table was edited",
]


@dataclass(frozen=True)
class AffectedView:
    """The rows of a view's feature table that source rows affect. `version`: of the feature table.

    `changed`: have other values without them. `removed`: exist only with them. `added`: exist only without them.
    `rows`: key and times of the affected rows. `stored`, `without`: all rows of the affected keys, with and without the
    source rows; None for an upper bound, whose `ranges` hold all that may be affected."""

    view: AnyView
    version: TableVersion | None
    method: Method
    ranges: list[TimeRange] = field(default_factory=list)
    changed: int = 0
    removed: int = 0
    added: int = 0
    rows: pa.Table | None = None
    stored: pl.DataFrame | None = None
    without: pl.DataFrame | None = None

    @property
    def count(self) -> int:
        return self.changed + self.removed + self.added

    def affects(self, rows: pa.Table, keys: list[str]) -> Array:
        """Return for each decision whether it looks up other values without the source rows: (n,) booleans.

        `rows`: the key columns and, with time, `decision_time`."""
        if not self.count or not len(rows):
            return np.zeros(len(rows), dtype=bool)
        times = rows["decision_time"] if "decision_time" in rows.column_names else pa.nulls(len(rows), UTC_TIME)
        if self.stored is None or self.without is None:
            return self._within_reach(times)
        spine = pl.DataFrame(rows.select(keys).append_column(_AT, pc.fill_null(times, pa.scalar(NO_TIME, UTC_TIME))))
        if isinstance(self.view, Aggregations):
            at = spine[_AT].to_numpy().astype("datetime64[us]")
            values = [evaluate(self.view, side, spine.select(keys), at) for side in (self.stored, self.without)]
            return np.asarray(np.logical_or.reduce([~_near(one, values[1][name]) for name, one in values[0].items()]))
        return self._looks_up_others(spine, keys)

    def _looks_up_others(self, spine: pl.DataFrame, keys: list[str]) -> Array:
        assert isinstance(self.view, View)
        assert self.stored is not None
        assert self.without is not None
        sides = [
            asof_join(spine, side, keys, ttl=self.view.ttl, at=_AT, filter_by_created=True)
            for side in (self.stored, self.without)
        ]
        typed = {name: arrow_type(column) for name, column in self.view.features.items()}
        values = [
            columns_of(pa.table({n: pa.array(s[n].to_arrow()).cast(kind) for n, kind in typed.items()}), list(typed))
            for s in sides
        ]
        different: Array = np.logical_or.reduce([~_near(values[0][name], values[1][name]) for name in typed])
        return different

    def _within_reach(self, times: Any) -> Array:
        if times.null_count or ALWAYS in self.ranges:
            return np.ones(len(times), dtype=bool)
        at = times.cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
        memory = longest_window(self.view) if isinstance(self.view, Aggregations) else self.view.ttl
        later = memory // timedelta(microseconds=1) or 1 << 62
        within: Array = np.logical_or.reduce([(at >= start) & (at <= end + later) for start, end in self.ranges])
        return within


def _near(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return np.asarray(np.isclose(a, b, rtol=1e-9, atol=0, equal_nan=True))
    if a.dtype.kind == "M":
        return np.asarray((a == b) | (np.isnat(a) & np.isnat(b)))
    return np.array([x == y for x, y in zip(a, b, strict=True)], dtype=bool)


def affected_views(tables: Tables, selection: Selection) -> list[AffectedView]:
    """Return the views that read the selected rows' table, each with the feature rows that these affect."""
    problem = selection.problem
    views = [view for owner in problem.view_owners for view in owner.own_views if _reads(owner, view, selection)]
    if not selection.is_in(tables, tables.version(selection.clean)):
        return [AffectedView(view, tables.version(feature_table(problem, view.name)), COMPUTED) for view in views]
    return [affected_view(tables, selection, view) for view in views]


def _reads(owner: Namespace, view: AnyView, selection: Selection) -> bool:
    return owner.name == selection.owner.name and selection.table.name in used_tables(owner, view)


def affected_view(tables: Tables, selection: Selection, view: AnyView) -> AffectedView:
    """Compute a view again without the selected rows, in the times that they can affect."""
    problem, table = selection.problem.namespace_of(view.name), selection.table
    version = tables.version(feature_table(problem, view.name))
    if version is None:
        return AffectedView(view, None, "the view was never computed")
    versions = source_versions(tables, problem, version)
    if not {*table.columns} <= {*tables.dataset(versions[table.name]).schema.names}:
        return AffectedView(view, version, EDITED)
    time = view.time if isinstance(view, Aggregations) else table.time
    columns = [ROW, time] if time is not None else [ROW]
    found = tables.read(versions[table.name], columns, selection.chosen)
    if not len(found):  # the feature table is older than these rows
        return AffectedView(view, version, COMPUTED)
    ranges = [ALWAYS]
    if time is not None and view.lookback is not None and not view.timeless:
        times = found[time].cast(pa.timestamp("us")).drop_null().to_numpy()
        ranges = merge_ranges(ranges_around(times, *reach(view)))
    if _source_rows(tables, problem, view, versions, ranges) > MOST_ROWS:
        count = tables.dataset(version).count_rows(filter=_within(ranges))
        return AffectedView(view, version, "upper bound: the view's reach in time", ranges, changed=count)
    return _recompute(tables, selection, view, version, versions, ranges)


def source_versions(tables: Tables, problem: Namespace, version: TableVersion) -> dict[str, TableVersion]:
    """Return the clean versions that a feature table was computed from, by table; of unused tables the newest."""
    commits = [commit for number, commit in tables.commits(version.name) if number <= version.version]
    used = {one.name: one for one in map(TableVersion.model_validate, commits[-1].get("inputs", ()))}
    newest = sql.clean_versions(problem, tables)
    return {name: used.get(clean_table(problem.name, name), one) for name, one in newest.items()}


def _source_rows(
    tables: Tables, problem: Namespace, view: AnyView, versions: Mapping[str, TableVersion], ranges: list[TimeRange]
) -> int:
    """Count the rows that computing the view in these ranges reads."""
    total = 0
    for name in used_tables(problem, view):
        time, condition = problem.table(name).time, None
        if time is not None and view.lookback is not None and ALWAYS not in ranges:
            condition = _within([one.widen(view.lookback, view.lookback) for one in ranges], time)
        total += tables.dataset(versions[name]).count_rows(filter=condition)
    return total


def _within(ranges: list[TimeRange], column: str = EVENT) -> Any:
    """Return the expression for these times; None for all."""
    if ALWAYS in ranges:
        return None
    bounds = [[pa.scalar(moment, UTC_TIME) for moment in one.moments()] for one in ranges]
    return reduce(or_, [(pc.field(column) >= start) & (pc.field(column) <= end) for start, end in bounds])


def _recompute(
    tables: Tables,
    selection: Selection,
    view: AnyView,
    version: TableVersion,
    versions: Mapping[str, TableVersion],
    ranges: list[TimeRange],
) -> AffectedView:
    problem = selection.problem.namespace_of(view.name)
    with sql.connect() as connection:
        if isinstance(view, Aggregations):
            AggregationRows(connection, problem, selection.without(), view, versions).build(ranges)
        else:
            used = used_tables(problem, view)
            History(connection, problem, selection.without(), view, versions, used).build(ranges)
        dataset, condition = tables.dataset(version), _within(ranges)
        connection.register("whole", dataset)
        connection.register("inside", dataset if condition is None else dataset.filter(condition))
        keys = list(map(sql.quote, key_columns(problem, view)))
        connection.execute(f"CREATE TEMP TABLE affected AS {_differences(problem, view, keys)}")
        counts = dict(connection.execute("SELECT kind, count(*) FROM affected GROUP BY kind").fetchall())
        stored = stored_columns(view) if isinstance(view, Aggregations) else view.features
        names = ", ".join([*keys, EVENT, CREATED, *map(sql.quote, stored)])
        of_keys = f"SEMI JOIN affected USING ({', '.join(keys)})"
        outside = f"SELECT {names} FROM whole {of_keys} WHERE NOT ({_outside_sql(ranges)})"  # noqa: S608
        return AffectedView(
            view,
            version,
            COMPUTED,
            ranges,
            **{kind: int(counts.get(kind, 0)) for kind in ("changed", "removed", "added")},
            rows=_arrow(connection, f"SELECT * FROM affected ORDER BY {EVENT}, {', '.join(keys)}, {CREATED}"),  # noqa: S608
            stored=pl.DataFrame(_arrow(connection, f"SELECT {names} FROM whole {of_keys}")),  # noqa: S608
            without=pl.DataFrame(
                _arrow(connection, f"{outside} UNION ALL SELECT {names} FROM {HISTORY} {of_keys}")  # noqa: S608
            ),
        )


def _outside_sql(ranges: list[TimeRange]) -> str:
    if ALWAYS in ranges:
        return "true"
    bounds = [[f"TIMESTAMPTZ '{t.isoformat(sep=' ')}+00'" for t in one.moments()] for one in ranges]
    return " OR ".join(f"{EVENT} BETWEEN {start} AND {end}" for start, end in bounds)


def _differences(problem: Namespace, view: AnyView, keys: list[str]) -> str:
    """SQL of the rows that differ between the feature table (`inside`) and HISTORY, with the kind of difference."""
    identity, columns = [*keys, EVENT, CREATED], problem.view_columns(view)
    if isinstance(view, Aggregations):
        identity.append(ROW)
        columns = {UNTIL: Time(), **view.input_columns(problem.table(view.table).columns)}
    on = " AND ".join(f"s.{name} = h.{name}" for name in identity)
    same = " AND ".join(_equal(name, isinstance(column, Float)) for name, column in columns.items()) or "true"
    known = ", ".join(f"coalesce(s.{name}, h.{name}) AS {name}" for name in [*keys, EVENT, CREATED])
    return (
        f"SELECT {known}, CASE WHEN s.{EVENT} IS NULL THEN 'added' WHEN h.{EVENT} IS NULL THEN 'removed' "  # noqa: S608
        f"ELSE 'changed' END AS kind FROM inside AS s FULL JOIN {HISTORY} AS h ON {on} "
        f"WHERE s.{EVENT} IS NULL OR h.{EVENT} IS NULL OR NOT ({same})"
    )


def _equal(name: str, number: bool) -> str:
    a, b = f"s.{sql.quote(name)}", f"h.{sql.quote(name)}"
    same = f"{a} IS NOT DISTINCT FROM {b}"
    return f"({same} OR coalesce(abs({a} - {b}) <= 1e-9 * greatest(abs({a}), abs({b})), false))" if number else same


def _arrow(connection: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
    return connection.sql(query).to_arrow_table()


def affected_decisions(tables: Tables, selection: Selection) -> dict[str, str] | None:
    """Compare the past decisions with those computed without the selected rows; by id: "decision", "request", "label".

    "decision": it exists only with them. "request", "label": a request field or the label has another value. None if
    more than MOST_ROWS rows would have to be read."""
    problem = selection.problem
    files = [file for file in (problem.spine, problem.label.sql) if file]
    used = {name for file in files for name in tables_read(problem, file)} or {problem.label_table.name}
    own = selection.owner.name == problem.name
    if not own or selection.table.name not in used or not selection.is_in(tables, tables.version(selection.clean)):
        return {}
    clean = sql.clean_versions(problem, tables)
    if sum(tables.dataset(clean[name]).count_rows() for name in used) > MOST_ROWS:
        return None
    now, without = (pl.DataFrame(frames.read_spine(problem, side, clean)) for side in (tables, selection.without()))
    joined = now.join(without.with_columns(pl.lit(True).alias("__there")), on="id", how="left", suffix="__without")

    def differs(names: Sequence[str]) -> pl.Expr:
        return pl.any_horizontal(pl.lit(False), *(~pl.col(n).eq_missing(pl.col(f"{n}__without")) for n in names))

    present = [name for name in ("label", "known_at") if name in now.columns]
    request = [name for name in now.columns if name not in ("id", *present)]
    kind = (
        pl.when(pl.col("__there").is_null()).then(pl.lit("decision"))
        .when(differs(request)).then(pl.lit("request"))
        .when(differs(present)).then(pl.lit("label"))
    )  # fmt: skip
    found = joined.select("id", kind.alias("kind")).drop_nulls("kind")
    return dict(zip(found["id"].to_list(), found["kind"].to_list(), strict=True))

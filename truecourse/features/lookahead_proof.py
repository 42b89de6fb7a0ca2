"""The look-ahead proof: a test that no SQL reads data of the future.

At sampled times, every view, the spine and the labels are computed again from sources cut at that time. For the time
up to it, the results must equal those from all sources.

The cut of a table with time keeps the row versions recorded by then whose `time` is at most `known_ahead` later, and in
them only values that can be known: outcome columns of the label are null before their `known_at`. Tables without time
are not cut.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array
from truecourse.data import sql, table_views
from truecourse.data.arrow_types import UTC_TIME
from truecourse.errors import FeatureError, NotFound
from truecourse.features import frame as frames
from truecourse.features.asof import CREATED, EVENT
from truecourse.features.label_cells import OutcomeColumns, find_outcome_columns
from truecourse.features.label_window import require_label_lookback
from truecourse.features.lookahead_aggregations import AggregationComparison
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
from truecourse.features.view_sql import checked_query, used_tables
from truecourse.hashing import sha256_json
from truecourse.modeling.snapshot import Proof
from truecourse.problem import Aggregations, Problem, View
from truecourse.problem.loader import problem_document
from truecourse.problem.namespace import AnyView, Namespace
from truecourse.problem.schema import Float
from truecourse.references import TableVersion, Window
from truecourse.storage.delta_tables import Tables

log = logging.getLogger("truecourse.features.lookahead_proof")
_UNREAD = {"gates", "monitoring", "split", "model", "serving", "promotion", "description"}
"""Parts of a problem on which no SQL depends."""
_FULL, _CUT, _AGAIN = "__full", "__cut", "__again"
_NEAREST = 0.05
_SHORTEST, _MONTH = timedelta(days=1), timedelta(days=31)
Versions = Mapping[str, TableVersion]


def stored_proof(problem: Problem, tables: Tables, clean: Versions, features: Versions, decisions: pa.Table) -> Proof:
    """Return the stored proof of the same inputs, or run prove() and store the result."""
    document = {name: value for name, value in problem_document(problem).items() if name not in _UNREAD}
    versions = map(str, (*clean.values(), *features.values()))
    key = f"proofs/{problem.name}/{sha256_json([document, *versions, MOMENTS])}.json"
    try:
        return Proof.model_validate_json(tables.store.get(key))
    except NotFound:
        proof = prove(problem, tables, clean, features, decisions)
    tables.store.put(key, proof.model_dump_json().encode())
    return proof


def prove(problem: Problem, tables: Tables, clean: Versions, features: Versions, decisions: pa.Table) -> Proof:
    """Compare results at MOMENTS sampled times, which are the same for the same inputs.

    `decisions`: the frame of all decisions, with request fields and, if known, `label` and `known_at`. Raises
    LookAheadError with the view (or spine, or label), column, decision and both values; FeatureError for a view or a
    label that reads beyond its `lookback`."""
    timed = {table.name for table in problem.tables if table.time is not None}
    views = [view for view in problem.views if _reads_times(problem.namespace_of(view.name), view)]
    if not (timed or views) or not problem.has_time or (not problem.has_spine and not views) or not len(decisions):
        return Proof(applies=False)
    seed = sha256_json([problem.name, *map(str, (*clean.values(), *features.values()))])
    times = sorted_times(decisions["decision_time"])
    rows: dict[str, int] = {}
    moments: set[datetime] = set()
    unstable = []
    cells = find_outcome_columns(problem, tables, clean)
    with sql.connect() as connection:
        for view in views:
            owner, versions = problem.namespace_of(view.name), sql.versions_for(problem, view.name, clean)
            known = cells if owner is problem else None  # the label's columns are the problem's own
            inputs = (connection, owner, tables, versions, features[view.name], decisions, known)
            subject: _ViewComparison | AggregationComparison
            if isinstance(view, Aggregations):
                subject = AggregationComparison(view, *inputs)
            else:
                subject = _ViewComparison(view, *inputs)
            chosen = subject.moments(times, f"{seed} {view.name}")
            compared = [subject.compare(moment) for moment in chosen]
            rows[view.name] = sum(count or 0 for count in compared)
            moments |= set(chosen)
            if None in compared:
                what = "%s is not deterministic: it returns different values from the same sources"
                log.warning(what, subject.where)
                unstable.append(view.name)
    if problem.has_spine:
        chosen = sample_times(times, MOMENTS, f"{seed} spine")
        moments |= set(chosen)
        for moment in chosen:
            for name, count in _compare_decisions(problem, tables, clean, decisions, cells, moment):
                rows[name] = rows.get(name, 0) + count
        for moment in chosen:
            require_label_lookback(problem, tables, clean, decisions, moment)
    proof = Proof(applies=True, moments=len(moments), rows=rows, unstable=tuple(unstable))
    log.info("%s", proof.sentence)
    return proof


def _reads_times(problem: Namespace, view: AnyView) -> bool:
    """Whether a view of this namespace reads a table with time."""
    return any(problem.table(name).time is not None for name in used_tables(problem, view))


@dataclass(frozen=True)
class _ViewComparison:
    """Compares a view's stored rows, as used for training, with rows computed from cut sources."""

    view: View
    connection: duckdb.DuckDBPyConnection
    problem: Namespace
    tables: Tables
    clean: Versions
    version: TableVersion
    decisions: pa.Table
    cells: OutcomeColumns | None

    def cut(self, moment: datetime) -> sql.Cut:
        return cut_at(self.cells, moment)

    @property
    def keys(self) -> list[str]:
        return list(self.problem.join_keys(self.view))

    def moments(self, decided: Array, seed: str) -> list[datetime]:
        if self.view.timeless:
            return sample_times(decided, MOMENTS, seed)
        half = MOMENTS // 2
        return [*sample_times(self._times_before_events(), MOMENTS - half, seed), *sample_times(decided, half, seed)]

    def _times_before_events(self) -> Array:
        """Event times of rows whose key has its next row soon after, so that a short look-ahead is detected."""
        import polars as pl

        rows = pl.DataFrame(self.tables.read(self.version, [*self.keys, EVENT])).unique().sort(EVENT)
        gaps = rows.with_columns((pl.col(EVENT).shift(-1).over(self.keys) - pl.col(EVENT)).alias("__gap"))
        gaps = gaps.drop_nulls("__gap") if gaps["__gap"].count() else rows.with_columns(pl.lit(0).alias("__gap"))
        near = gaps.filter(pl.col("__gap") <= pl.col("__gap").quantile(_NEAREST, "higher"))
        return sorted_times(pa.chunked_array([near[EVENT].to_arrow()]))

    def compare(self, moment: datetime) -> int | None:
        """Compare at one time. Return the number of rows compared; None if the view is not deterministic."""
        self._read_stored(moment)
        self._compute(_CUT, moment, cut=True, near=True)
        difference = self._difference(_FULL, _CUT)
        if difference is None:
            return self._count(_CUT)
        # Compute again from all rows, to tell a look-ahead from a short lookback and from non-determinism.
        self._compute(_AGAIN, moment, cut=False, near=False)
        self._compute(_CUT, moment, cut=True, near=False)
        ahead = self._difference(_AGAIN, _CUT)
        if ahead is not None:
            self._compute(_FULL, moment, cut=False, near=False)
            if self._difference(_FULL, _AGAIN) is None:
                raise self._error(ahead, moment)
            return None
        self._read_stored(moment)
        if self._difference(_FULL, _AGAIN) is None:
            what = f"{difference.describe(f'view {self.view.name}', moment)}, because of earlier rows"
            hint = f"it reads rows beyond its lookback of {self.view.lookback}: declare a longer one"
            raise FeatureError(f"the lookback is too short: {what}", where=self.where, hint=hint)
        return None

    @property
    def where(self) -> str:
        return self.view.sql

    def _start(self, moment: datetime) -> datetime | None:
        """The start of the compared time range; None if it is unbounded."""
        if self.view.timeless or self.view.lookback is None:
            return None
        return moment - max(self.view.lookback, _SHORTEST)

    def _read_stored(self, moment: datetime) -> None:
        """Copy the feature table as of `moment` to _FULL, without rows affected by corrections or late rows, whose
        versions depend on their arrival."""
        self.connection.register("__stored", self.tables.dataset(self.version))
        names = ", ".join(map(sql.quote, [*self.keys, EVENT, *self.view.features]))
        identity = ", ".join(map(sql.quote, [*self.keys, EVENT]))
        within = "true" if self.view.timeless else f"{self._range(moment)} AND {CREATED} <= {literal(moment)}"
        self._do(
            f"CREATE OR REPLACE TEMP TABLE __late AS SELECT DISTINCT {identity} FROM __stored "  # noqa: S608
            f"WHERE {within} AND {CREATED} > {EVENT}"
        )
        self._do(
            f"CREATE OR REPLACE TEMP TABLE {_FULL} AS SELECT {names} FROM __stored "  # noqa: S608
            f"ANTI JOIN __late USING ({identity}) WHERE {within}"
        )
        self._keep_decided(_FULL, moment)

    def _compute(self, target: str, moment: datetime, *, cut: bool, near: bool) -> None:
        """Compute the view as of `moment` into `target`. `cut`: from cut sources. `near`: read only the lookback."""
        start, lookback = self._start(moment), self.view.lookback
        window = Window(start=start - lookback) if near and start is not None and lookback is not None else None
        rows = sql.CURRENT if self.view.timeless else sql.as_of(moment)
        table_views.bind(
            self.connection, self.problem, self.tables, self.clean, rows=rows, window=window,
            cut=self.cut(moment) if cut else None,
        )  # fmt: skip
        query = checked_query(self.connection, self.problem, self.view)
        within = "true" if self.view.timeless else self._range(moment)
        self._do(f"CREATE OR REPLACE TEMP TABLE {target} AS SELECT * FROM ({query}) WHERE {within}")  # noqa: S608
        identity = ", ".join(map(sql.quote, [*self.keys, EVENT]))
        self._do(f"DELETE FROM {target} WHERE ({identity}) IN (SELECT ({identity}) FROM __late)")  # noqa: S608
        self._keep_decided(target, moment)

    def _range(self, moment: datetime) -> str:
        start = self._start(moment)
        return f"{EVENT} <= {literal(moment)}" + (f" AND {EVENT} > {literal(start)}" if start else "")

    def _keep_decided(self, target: str, moment: datetime) -> None:
        """For a timeless view: keep only keys of earlier decisions, because other keys need not be known yet."""
        if not self.view.timeless:
            return
        names = ", ".join(map(sql.quote, self.keys))
        past = pc.less_equal(self.decisions["decision_time"], pa.scalar(moment.replace(tzinfo=UTC), UTC_TIME))
        self.connection.register("__decided", self.decisions.select(self.keys).filter(past))
        self._do(f"DELETE FROM {target} WHERE ({names}) NOT IN (SELECT ({names}) FROM __decided)")  # noqa: S608

    def _difference(self, full: str, cut: str) -> Difference | None:
        floats = {name for name, column in self.view.features.items() if isinstance(column, Float)}
        return last_difference(self.connection, full, cut, [*self.keys, EVENT], list(self.view.features), floats, EVENT)

    def _error(self, difference: Difference, moment: datetime) -> LookAheadError:
        row = {key: difference.row[key] for key in self.keys}
        shown = Difference(row, difference.at, difference.column, difference.full, difference.cut)
        what = shown.describe(f"view {self.view.name}", moment)
        decision = first_use(self.decisions, row, difference.at)
        hint = (
            "compute values only from rows known by their event_timestamp: end window frames at CURRENT ROW, join "
            "earlier rows only, and bound aggregates in time"
        )
        return LookAheadError(what + decision, where=self.where, hint=hint)

    def _count(self, name: str) -> int:
        ((count,),) = self.connection.execute(f"SELECT count(*) FROM {name}").fetchall()  # noqa: S608
        return int(count)

    def _do(self, statement: str) -> None:
        sql.run(self.connection, statement, where=self.view.sql)


def _compare_decisions(
    problem: Problem,
    tables: Tables,
    clean: Versions,
    decisions: pa.Table,
    cells: OutcomeColumns | None,
    moment: datetime,
) -> Iterator[tuple[str, int]]:
    """Compare the decisions of the last month (more if labels close late) up to `moment`, and their labels known by
    then. Yield "spine" and "label", each with its number of rows."""
    start = moment - _MONTH - problem.label.closes_after
    at, first = (pa.scalar(m.replace(tzinfo=UTC), UTC_TIME) for m in (moment, start))
    cut = frames.read_spine(problem, tables, clean, Window(start=start), cut=cut_at(cells, moment))
    decisions = decisions.filter(pc.greater_equal(decisions["decision_time"], first))
    ahead = "if rows of a table are known before their time, as in a timetable, declare Table(known_ahead=...)"
    checked = [
        ("spine", str(problem.spine), "decision_time", ["decision_time", *problem.request_fields]),
        ("label", str(problem.label.sql), "known_at", ["label", "known_at"]),
    ]
    for subject, file, clock, columns in checked:
        if clock not in decisions.column_names:
            continue
        sides = [frame.filter(pc.less_equal(frame[clock], at)).select(["id", *columns]) for frame in (decisions, cut)]
        floats = {name for name in columns if pa.types.is_floating(decisions.schema.field(name).type)}
        with sql.connect() as connection:
            for name, side in zip((_FULL, _CUT), sides, strict=True):
                connection.register(name, side)
            difference = last_difference(connection, _FULL, _CUT, ["id"], columns, floats, clock)
        if difference is not None:
            row = {"decision": difference.row["id"]}
            shown = Difference(row, difference.at, difference.column, difference.full, difference.cut)
            hint = f"read only rows up to {clock}; {ahead}"
            raise LookAheadError(shown.describe(subject, moment), where=file, hint=hint)
        yield subject, len(sides[0])

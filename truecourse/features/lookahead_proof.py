"""The look-ahead proof: a test that no SQL reads data of the future.

At sampled times, every view, the spine and the labels are computed again from sources cut at that time. For the time
up to it, the results must equal those from all sources.

The cut of a table with time keeps the row versions recorded by then whose `time` is at most `known_ahead` later, and in
them only values that can be known: outcome columns of the label are null before their `known_at`. Tables without time
are not cut.
"""

import logging
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array
from truecourse.data import sql
from truecourse.data.arrow_types import UTC_TIME
from truecourse.errors import FeatureError, NotFound
from truecourse.features import frame as frames
from truecourse.features.asof import CREATED, EVENT
from truecourse.features.label_cells import OutcomeColumns, find_outcome_columns
from truecourse.features.label_window import require_label_lookback
from truecourse.features.view_sql import checked_query, used_tables
from truecourse.hashing import sha256_json
from truecourse.modeling.snapshot import Proof
from truecourse.problem import Problem, View
from truecourse.problem.loader import problem_document
from truecourse.problem.schema import Float
from truecourse.references import TableVersion, Window
from truecourse.storage.delta_tables import Tables

log = logging.getLogger("truecourse.features.lookahead_proof")
MOMENTS = 4
"""Sampled times for each view, and for spine and labels. For a view, half are event times, half decision times."""
_UNREAD = {"gates", "monitoring", "split", "model", "serving", "promotion", "description"}
"""Parts of a problem on which no SQL depends."""
_FULL, _CUT, _AGAIN = "__full", "__cut", "__again"
_NEAREST = 0.05
_SHORTEST, _MONTH = timedelta(days=1), timedelta(days=31)
Versions = Mapping[str, TableVersion]


class LookAheadError(FeatureError):
    """A SQL file reads data that was not known yet."""


@dataclass(frozen=True)
class _Difference:
    """A row that differs: its identity, its time, the column (None if only one side has the row) and both values."""

    row: dict[str, Any]
    at: datetime
    column: str | None
    full: Any
    cut: Any

    def describe(self, subject: str, moment: datetime) -> str:
        name = ", ".join(f"{key}={value}" for key, value in self.row.items())
        sides = f"from all sources, and {{}} from the sources up to {_text(moment)}"
        if self.column is None:
            full, cut = ("present", "absent") if self.full else ("absent", "present")
            return f"{subject} looks ahead: the row of {name} at {_text(self.at)} is {full} {sides.format(cut)}"
        values = f"is {_value(self.full)} {sides.format(_value(self.cut))}"
        return f"{subject} looks ahead: {self.column} of {name} at {_text(self.at)} {values}"


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
    views = [view for view in problem.views if used_tables(problem, view) & timed]
    if not timed or not problem.has_time or (not problem.has_spine and not views) or not len(decisions):
        return Proof(applies=False)
    seed = sha256_json([problem.name, *map(str, (*clean.values(), *features.values()))])
    times = _sorted(decisions["decision_time"])
    rows: dict[str, int] = {}
    moments: set[datetime] = set()
    unstable = []
    cells = find_outcome_columns(problem, tables, clean)
    with sql.connect() as connection:
        for view in views:
            subject = _ViewComparison(connection, problem, tables, clean, view, features[view.name], decisions, cells)
            chosen = subject.moments(times, f"{seed} {view.name}")
            compared = [subject.compare(moment) for moment in chosen]
            rows[view.name] = sum(count or 0 for count in compared)
            moments |= set(chosen)
            if None in compared:
                log.warning("%s is not deterministic: it returns different values from the same sources", view.sql)
                unstable.append(view.name)
    if problem.has_spine:
        chosen = _sample(times, MOMENTS, f"{seed} spine")
        moments |= set(chosen)
        for moment in chosen:
            for name, count in _compare_decisions(problem, tables, clean, decisions, cells, moment):
                rows[name] = rows.get(name, 0) + count
        for moment in chosen:
            require_label_lookback(problem, tables, clean, decisions, moment)
    proof = Proof(applies=True, moments=len(moments), rows=rows, unstable=tuple(unstable))
    log.info("%s", proof.sentence)
    return proof


@dataclass(frozen=True)
class _ViewComparison:
    """Compares a view's stored rows, as used for training, with rows computed from cut sources."""

    connection: duckdb.DuckDBPyConnection
    problem: Problem
    tables: Tables
    clean: Versions
    view: View
    version: TableVersion
    decisions: pa.Table
    cells: OutcomeColumns | None

    def cut(self, moment: datetime) -> sql.Cut:
        return _cut(self.cells, moment)

    @property
    def keys(self) -> list[str]:
        return list(self.problem.entity(self.view.entity).join_keys)

    def moments(self, decided: Array, seed: str) -> list[datetime]:
        if self.view.timeless:
            return _sample(decided, MOMENTS, seed)
        half = MOMENTS // 2
        return [*_sample(self._times_before_events(), MOMENTS - half, seed), *_sample(decided, half, seed)]

    def _times_before_events(self) -> Array:
        """Event times of rows whose key has its next row soon after, so that a short look-ahead is detected."""
        import polars as pl

        rows = pl.DataFrame(self.tables.read(self.version, [*self.keys, EVENT])).unique().sort(EVENT)
        gaps = rows.with_columns((pl.col(EVENT).shift(-1).over(self.keys) - pl.col(EVENT)).alias("__gap"))
        gaps = gaps.drop_nulls("__gap") if gaps["__gap"].count() else rows.with_columns(pl.lit(0).alias("__gap"))
        near = gaps.filter(pl.col("__gap") <= pl.col("__gap").quantile(_NEAREST, "higher"))
        return _sorted(pa.chunked_array([near[EVENT].to_arrow()]))

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
            raise FeatureError(f"the lookback is too short: {what}", where=self._where, hint=hint)
        return None

    @property
    def _where(self) -> str:
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
        within = "true" if self.view.timeless else f"{self._range(moment)} AND {CREATED} <= {_literal(moment)}"
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
        sql.bind(
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
        return f"{EVENT} <= {_literal(moment)}" + (f" AND {EVENT} > {_literal(start)}" if start else "")

    def _keep_decided(self, target: str, moment: datetime) -> None:
        """For a timeless view: keep only keys of earlier decisions, because other keys need not be known yet."""
        if not self.view.timeless:
            return
        names = ", ".join(map(sql.quote, self.keys))
        past = pc.less_equal(self.decisions["decision_time"], pa.scalar(moment.replace(tzinfo=UTC), UTC_TIME))
        self.connection.register("__decided", self.decisions.select(self.keys).filter(past))
        self._do(f"DELETE FROM {target} WHERE ({names}) NOT IN (SELECT ({names}) FROM __decided)")  # noqa: S608

    def _difference(self, full: str, cut: str) -> _Difference | None:
        floats = {name for name, column in self.view.features.items() if isinstance(column, Float)}
        return _last_difference(
            self.connection, full, cut, [*self.keys, EVENT], list(self.view.features), floats, EVENT
        )

    def _error(self, difference: _Difference, moment: datetime) -> LookAheadError:
        row = {key: difference.row[key] for key in self.keys}
        shown = _Difference(row, difference.at, difference.column, difference.full, difference.cut)
        what = shown.describe(f"view {self.view.name}", moment)
        decision = self._decision(row, difference.at)
        hint = (
            "compute values only from rows known by their event_timestamp: end window frames at CURRENT ROW, join "
            "earlier rows only, and bound aggregates in time"
        )
        return LookAheadError(what + decision, where=self._where, hint=hint)

    def _decision(self, row: Mapping[str, Any], event: datetime) -> str:
        """The first decision that used the value, for the message."""
        mine = pc.greater_equal(self.decisions["decision_time"], pa.scalar(event.replace(tzinfo=UTC), UTC_TIME))
        for key, value in row.items():
            column = self.decisions[key]
            mine = pc.and_(mine, pc.equal(column, pa.scalar(value).cast(column.type)))
        affected = self.decisions.filter(mine)
        if not len(affected):
            return ""
        time = _text(affected["decision_time"][0].as_py())
        return f"; decision {affected['id'][0].as_py()} of {time} used this value"

    def _count(self, name: str) -> int:
        ((count,),) = self.connection.execute(f"SELECT count(*) FROM {name}").fetchall()  # noqa: S608
        return int(count)

    def _do(self, statement: str) -> None:
        sql.run(self.connection, statement, where=self.view.sql)


def _cut(cells: OutcomeColumns | None, moment: datetime) -> sql.Cut:
    return sql.Cut(moment, cells.table, cells.columns, cells.known) if cells else sql.Cut(moment)


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
    cut = frames.read_spine(problem, tables, clean, Window(start=start), cut=_cut(cells, moment))
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
            difference = _last_difference(connection, _FULL, _CUT, ["id"], columns, floats, clock)
        if difference is not None:
            row = {"decision": difference.row["id"]}
            shown = _Difference(row, difference.at, difference.column, difference.full, difference.cut)
            hint = f"read only rows up to {clock}; {ahead}"
            raise LookAheadError(shown.describe(subject, moment), where=file, hint=hint)
        yield subject, len(sides[0])


def _last_difference(
    connection: duckdb.DuckDBPyConnection,
    full: str,
    cut: str,
    identity: list[str],
    columns: list[str],
    floats: Iterable[str],
    clock: str,
) -> _Difference | None:
    """The last row in time that only one side has, or whose values differ. It is the nearest to the cut. Floats may
    differ by a relative 1e-9, because the order of addition may differ."""
    on = " AND ".join(f"f.{sql.quote(name)} IS NOT DISTINCT FROM c.{sql.quote(name)}" for name in identity)
    same = {name: f"f.{sql.quote(name)} IS NOT DISTINCT FROM c.{sql.quote(name)}" for name in columns}
    for name in floats:
        one, other = f"f.{sql.quote(name)}", f"c.{sql.quote(name)}"
        same[name] = f"({same[name]} OR abs({one} - {other}) <= 1e-9 * greatest(abs({one}), abs({other})))"
    names = list(dict.fromkeys([*identity, clock, *columns]))
    both = ", ".join(f"f.{sql.quote(n)}, c.{sql.quote(n)}" for n in names)
    equal = ", ".join(f"coalesce({condition}, false)" for condition in same.values()) or "true"
    all_equal = " AND ".join(f"coalesce({condition}, false)" for condition in same.values()) or "true"
    rows = connection.execute(
        f"SELECT f._tc_present, c._tc_present, {both}, {equal} FROM (SELECT true AS _tc_present, * FROM {full}) AS f "  # noqa: S608
        f"FULL OUTER JOIN (SELECT true AS _tc_present, * FROM {cut}) AS c ON {on} "
        f"WHERE f._tc_present IS NULL OR c._tc_present IS NULL OR NOT ({all_equal}) "
        f"ORDER BY coalesce(f.{sql.quote(clock)}, c.{sql.quote(clock)}) DESC, "
        f"{', '.join(f'coalesce(f.{sql.quote(n)}, c.{sql.quote(n)})' for n in identity)} LIMIT 1"
    ).fetchall()
    if not rows:
        return None
    in_full, in_cut, *rest = rows[0]
    values = {name: (rest[2 * i], rest[2 * i + 1]) for i, name in enumerate(names)}
    side = 0 if in_full else 1
    row = {name: values[name][side] for name in identity}
    moment = values[clock][side]
    if not (in_full and in_cut):
        return _Difference(row, moment, None, in_full, in_cut)
    unequal = next(name for name, equal in zip(columns, rest[2 * len(names) :], strict=True) if not equal)
    return _Difference(row, moment, unequal, *values[unequal])


def _sorted(column: pa.ChunkedArray) -> Array:
    """Distinct times (datetime64[us]), sorted."""
    return np.sort(pc.unique(pc.drop_null(column)).cast(pa.timestamp("us")).to_numpy())


def _sample(times: Array, count: int, seed: str) -> list[datetime]:
    """Sample one time from each of `count` equal parts of the times, except the last time, which nothing follows."""
    times = times[:-1] if len(times) > 1 else times
    parts = [part for part in np.array_split(times, count) if len(part)]
    generator = random.Random(seed)  # noqa: S311  # the same for the same inputs
    return sorted({part[generator.randrange(len(part))].item() for part in parts})


def _literal(moment: datetime) -> str:
    return f"TIMESTAMPTZ '{moment.isoformat(sep=' ')}+00'"


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def _value(value: Any) -> str:
    return "missing" if value is None else f"{value:.6g}" if isinstance(value, float) else repr(value)

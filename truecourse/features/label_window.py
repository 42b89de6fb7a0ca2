"""The rows that the labels of a few days are read from, and the test that these suffice."""

from collections.abc import Mapping
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from truecourse.data import sql, table_views
from truecourse.data.arrow_types import UTC_TIME
from truecourse.errors import FeatureError
from truecourse.problem import Problem
from truecourse.problem.definition import midnight
from truecourse.references import TableVersion, Window
from truecourse.storage.delta_tables import Tables

_DAY = timedelta(days=1)


def label_window(problem: Problem, decided: Window) -> Window | None:
    """The time range of the source rows of the labels of decisions in `decided` (naive UTC); None if unbounded."""
    label = problem.label
    if label.lookback is None or decided.start is None or decided.end is None:
        return None
    # SQL windows include both ends, and a label may need rows after its decision.
    return Window(start=decided.start - label.lookback, end=decided.end + max(label.lookback, label.closes_after))


def require_label_lookback(
    problem: Problem, tables: Tables, clean: Mapping[str, TableVersion], decisions: pa.Table, moment: datetime
) -> None:
    """Compare the labels of the decisions of one day, that of `moment` (naive UTC), with those from the rows within the
    label's `lookback`, as monitoring reads them.

    `decisions`: with `id`, `decision_time` and `label`. Raises FeatureError for a label that differs."""
    day = midnight(moment.date())
    window = label_window(problem, Window(start=day, end=day + _DAY))
    if window is None or "label" not in decisions.column_names:
        return
    start, end = (pa.scalar(one, UTC_TIME) for one in (day, day + _DAY))
    times = decisions["decision_time"]
    mine = decisions.filter(pc.and_(pc.greater_equal(times, start), pc.less(times, end))).select(["id", "label"])
    with sql.connect() as connection:
        table_views.bind(connection, problem, tables, clean, window=window)
        connection.register("__decided", mine)
        labels = sql.statement(problem, str(problem.label.sql))
        differing = sql.run(
            connection,
            "SELECT d.id, CAST(d.label AS VARCHAR), CAST(l.label AS VARCHAR) "  # noqa: S608
            f"FROM __decided AS d LEFT JOIN ({labels}) AS l ON CAST(l.id AS VARCHAR) = d.id "
            "WHERE d.label IS NOT NULL AND d.label IS DISTINCT FROM l.label ORDER BY d.id LIMIT 1",
            where=str(problem.label.sql),
        ).fetchall()
    for decision, full, near in differing:
        what = f"the lookback is too short: the label of decision {decision} is {full} from all rows, and "
        what += f"{near or 'missing'} from those within its lookback of {problem.label.lookback}"
        hint = "declare a longer Label(lookback=...); rows that the spine reads count too, if the label reads the spine"
        raise FeatureError(what, where=str(problem.label.sql), hint=hint)

"""Rows of predictions whose retention is over: days of the prediction log, and predictions scored in batch."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

import pyarrow.compute as pc

from truecourse.retention.removal import Context, Removal, in_days
from truecourse.serving.batch_scoring import SCORED_AT, predictions_table
from truecourse.serving.prediction_log import PARTITION, log_table
from truecourse.storage.delta_tables import Limit


def kept_rows(context: Context) -> Mapping[str, Sequence[Limit]]:
    """The limits of the rows that are kept, by the table's name; none for a table that keeps all of them.

    Ages are relative to the table's newest row: the log may be dated by the data's clock."""
    days = {
        log_table(context.problem): ("at", context.settings.log_retention),
        predictions_table(context.problem): (SCORED_AT, context.settings.batch_retention),
    }
    found: dict[str, Sequence[Limit]] = {}
    for name, (column, retention) in days.items():
        if not retention or context.tables.version(name) is None:
            continue
        newest = _newest(context, name, column)
        if newest is None:
            continue
        first = newest - timedelta(days=retention)
        by_day = name == log_table(context.problem)
        found[name] = [(PARTITION, ">=", f"{first:%Y-%m-%d}") if by_day else (SCORED_AT, ">=", first)]
    return found


def _newest(context: Context, name: str, column: str) -> datetime | None:
    """The newest time (UTC) of a column. Delta has no statistics of a table's later columns."""
    newest = context.tables.newest(name, column)
    if newest is None:
        reference = context.tables.version(name)
        assert reference is not None
        newest = pc.max(context.tables.read(reference, columns=[column])[column]).as_py()
    return newest


def expired_rows(context: Context, kept: Mapping[str, Sequence[Limit]]) -> Iterator[Removal]:
    """The rows that are not within the limits of kept_rows(). Their bytes are those of replaced files, later."""
    for name, ((column, _, first),) in kept.items():
        reference = context.tables.version(name)
        assert reference is not None
        count = context.tables.count(reference, [(column, "<", first)])
        if count:
            is_log = name == log_table(context.problem)
            days = context.settings.log_retention if is_log else context.settings.batch_retention
            bound = first if isinstance(first, str) else first.isoformat()

            def remove(name: str = name, where: str = f"{column} < '{bound}'", bound: str = bound) -> None:
                context.tables.delete(name, where, {"flow": "cleanup", "before": bound})

            kind = "logged predictions" if is_log else "batch predictions"
            yield Removal(kind, count, 0, f"more than {in_days(days)} before the newest", remove)

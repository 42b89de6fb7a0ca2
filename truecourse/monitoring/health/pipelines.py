"""The pipelines check: scheduled flows, tables, feature tables, the online store, and the prediction log."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from truecourse.features.clock import data_end
from truecourse.monitoring.findings import Finding, Report, summarize
from truecourse.monitoring.health.flow_run_health import ScheduledFlow
from truecourse.monitoring.health.freshness import Clock, TableState, pipeline_finding, table_states, view_states
from truecourse.monitoring.predictions.log_sample import newest_day_end
from truecourse.problem import Problem
from truecourse.references import aware_utc
from truecourse.serving import log_segments, log_shipping
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables
from truecourse.wording import counted, format_duration

MAX_SHIPMENTS = 20
"""A log record that waits longer than this many shipping intervals is stuck."""
MAX_SPOOL_SHARE = 0.5
"""Used share of the disk space for unshipped records that is reported; records are dropped when it is full."""


def check_pipelines(
    problem: Problem,
    tables: Tables,
    at: datetime | None = None,
    flows: Sequence[ScheduledFlow] = (),
    loaded: Mapping[str, Any] | None = None,
    others: Sequence[Finding] = (),
) -> Report:
    """Check the pipelines of a problem.

    `at`: the reference time, UTC. None: the wall clock, and the problem's clock for tables and features. If given, only
    tables and features are checked, as of that time. `flows`: the scheduled flows, from the Prefect server. `loaded`:
    the last load of each view into the online store; None if the store did not answer. `others`: findings about the
    platform's services and about stuck runs."""
    wall, at = datetime.now(UTC), aware_utc(at) if at else None
    simulated = at or data_end(problem, tables)
    clock = Clock(simulated or wall, simulated=simulated is not None)
    states = table_states(problem, tables, clock)
    views = view_states(problem, tables, clock, states, loaded or {})
    backlog = _backlog(problem)
    findings = [finding for state in states for finding in state.findings()]
    findings += [finding for view in views for finding in view.findings()]
    moment = at or _newest(problem, tables, states, wall)
    dead = [finding for view in views for finding in view.dead_feeds(moment)] if moment else []
    # One finding per feed: that of the first view replaces the others about the same feed.
    findings = [one for one in findings if one.key not in {finding.key for finding in dead}]
    findings += {finding.key: finding for finding in reversed(dead)}.values()
    if at is None:
        findings += [finding for flow in flows for finding in flow.findings(wall)]
        findings += [*others, *_check_backlog(backlog)]
        if problem.views and loaded is None:
            findings.append(pipeline_finding("online store", "no answer", True, "The online store does not answer."))
    known = [flow for flow in flows if flow.runs is not None]
    return Report(
        check="pipelines",
        problem=problem.name,
        at=at or wall,
        sentence=summarize(findings, _summary(known, len(flows), len([s for s in states if s.past]))),
        made=bool(known) or any(state.past for state in states) or bool(findings),
        findings=tuple(findings),
        figures={
            "flows": [flow.figures(at or wall) for flow in flows],
            "tables": [state.figures() for state in states],
            "features": [view.figures() for view in views],
            "log": backlog,
        },
    )


def _newest(problem: Problem, tables: Tables, states: Sequence[TableState], wall: datetime) -> datetime | None:
    """Return the newest time of any table's rows or logged prediction.

    A feed that is far behind it is dead, while other feeds go on. If all feeds stop, the gaps between their versions
    show it. With `clock="data"` predictions do not count: they are made long after the end of the data."""
    moments = [state.newest_by(wall) for state in states if state.table.time is not None]
    logged = newest_day_end(problem, tables) if problem.clock == "wall" else None
    return max((moment for moment in (*moments, min(logged, wall) if logged else None) if moment), default=None)


def _summary(known: Sequence[ScheduledFlow], scheduled: int, tables: int) -> str:
    fresh = f"{counted(tables, 'table')} as fresh and as large as usual" if tables else "no table has rows yet"
    if known:
        return f"{counted(len(known), 'scheduled flow')} ran as planned, and {fresh}."
    unknown = f"; the runs of {counted(scheduled, 'scheduled flow')} are unknown without a Prefect server"
    return f"{fresh[0].upper()}{fresh[1:]}{unknown if scheduled else ''}."


def _backlog(problem: Problem) -> dict[str, Any]:
    """Return the size and age of the log records on this machine that are not shipped yet."""
    folder = log_shipping.spool_folder(problem.name)
    waiting = log_segments.sizes(folder)
    oldest = min((changed for _, changed in log_segments.sizes(folder, [log_segments.SEALED])), default=None)
    damaged = len(list(folder.glob("*.damaged")))
    return {
        "unshipped_bytes": sum(size for size, _ in waiting),
        "lag_seconds": max(0.0, time.time() - oldest) if oldest else 0.0,
        "damaged": damaged,
        "error": _error(problem),
    }


def _error(problem: Problem) -> str:
    try:
        return str(json.loads((log_shipping.spool_folder(problem.name) / log_segments.REPORT).read_bytes())["error"])
    except (OSError, ValueError, KeyError):  # nothing was shipped yet
        return ""


def _check_backlog(backlog: Mapping[str, Any]) -> Iterable[Finding]:
    settings = get_settings()
    share = backlog["unshipped_bytes"] / (settings.log_disk << 20)
    late = backlog["lag_seconds"] > MAX_SHIPMENTS * max(settings.log_ship, 5.0)
    if share > MAX_SPOOL_SHARE:
        what = f"{share:.0%} of the disk space for unshipped predictions is used; when it is full, they are dropped."
        yield pipeline_finding("prediction log", "backlog", True, what, share=share)
    elif late:
        why = f": {backlog['error']}." if backlog["error"] else "; is a shipper running?"
        what = f"Logged predictions have waited for {format_duration(backlog['lag_seconds'])} to be shipped{why}"
        yield pipeline_finding("prediction log", "backlog", False, what, lag_seconds=backlog["lag_seconds"])
    if backlog["damaged"]:
        what = f"{counted(backlog['damaged'], 'segment')} of the prediction log were damaged and set aside."
        yield pipeline_finding("prediction log", "damaged", False, what, segments=backlog["damaged"])

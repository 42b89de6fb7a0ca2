"""What counts as now for a problem: the wall clock, or the end of its data."""

import logging
from datetime import UTC, datetime

import pyarrow.compute as pc

from truecourse import frame as frames
from truecourse.asof import EVENT
from truecourse.errors import NotFound
from truecourse.problem import Problem
from truecourse.sql import clean_versions
from truecourse.tables import Tables, feature_table

log = logging.getLogger("truecourse.clock")


def now_of(problem: Problem, tables: Tables) -> datetime:
    """The moment (UTC) that counts as now; the wall clock also where there is no data yet."""
    return data_end(problem, tables) or datetime.now(UTC)


def data_end(problem: Problem, tables: Tables) -> datetime | None:
    """With `clock="data"` the newest decision (UTC) for which no view with a ttl has run dry; None with the wall clock,
    without time, and where there is no data yet.

    Data of several tables seldom ends at one moment: of decisions past the end of a table whose values live for three
    hours, nobody could have been told what the model was trained on."""
    if problem.clock == "wall" or not problem.has_time:
        return None
    try:
        versions = clean_versions(problem, tables)
    except NotFound:
        return None
    times = frames.spine(frames.unlabelled(problem), tables, versions)["decision_time"]
    for view in problem.views:
        name = feature_table(problem.name, view.name)
        newest = tables.newest(name, EVENT) if view.ttl and tables.exists(name) else None
        if newest is None:
            continue
        fresh = times.filter(pc.less_equal(times, newest + view.ttl))
        if len(fresh) < len(times):
            log.info("view %s ends at %s: %d decisions lie past its ttl", view.name, newest, len(times) - len(fresh))
        times = fresh if len(fresh) else times
    end: datetime | None = pc.max(times).as_py()
    return end

"""What counts as now for a problem: the wall clock, or the end of its data."""

import logging
from datetime import UTC, datetime

import pyarrow.compute as pc

from truecourse.data.sql import clean_versions
from truecourse.errors import NotFound, SettingsError
from truecourse.features import frame as frames
from truecourse.features.asof import EVENT
from truecourse.features.definitions import feature_table
from truecourse.problem import Problem
from truecourse.references import aware_utc
from truecourse.storage.tables import Tables

log = logging.getLogger("truecourse.features.clock")


def require_past(moment: datetime | None) -> datetime | None:
    """The `--at` of a check in UTC, one without a zone being UTC already; None if there is none.

    Raises SettingsError if it lies in the future: what is checked "as of" such a moment would count as newer than all
    that is checked until then."""
    if moment is None:
        return None
    now, moment = datetime.now(UTC), aware_utc(moment)
    if moment > now:
        what = f"{moment:%Y-%m-%d %H:%M:%S} UTC lies in the future; now is {now:%Y-%m-%d %H:%M:%S} UTC"
        raise SettingsError(what, where="--at", hint="name a moment that is over, or leave it out: then it is now")
    return moment


def clip_to_now(end: datetime | None) -> datetime | None:
    """The end of a window in UTC, or the present moment if that comes first: nothing has happened after it."""
    return min(aware_utc(end), datetime.now(UTC)) if end is not None else None


def reference_time(problem: Problem, tables: Tables) -> datetime:
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
        name = feature_table(problem, view.name)
        newest = tables.newest(name, EVENT) if view.ttl and tables.exists(name) else None
        if newest is None:
            continue
        fresh = times.filter(pc.less_equal(times, newest + view.ttl))
        if len(fresh) < len(times):
            log.info("view %s ends at %s: %d decisions lie past its ttl", view.name, newest, len(times) - len(fresh))
        times = fresh if len(fresh) else times
    end: datetime | None = pc.max(times).as_py()
    return end

"""The reference time of a problem: the wall clock, or the end of its data."""

import logging
from datetime import UTC, datetime

import pyarrow.compute as pc

from truecourse.data.sql import clean_versions
from truecourse.errors import NotFound, SettingsError
from truecourse.features import frame as frames
from truecourse.features.asof import EVENT
from truecourse.features.definition_digests import feature_table
from truecourse.problem import Problem
from truecourse.problem.namespace import Namespace
from truecourse.references import aware_utc
from truecourse.storage.delta_tables import Tables

log = logging.getLogger("truecourse.features.clock")


def require_past(moment: datetime | None) -> datetime | None:
    """Convert the `--at` of a check to UTC; a time without zone is UTC. None if there is none.

    Raises SettingsError if it is in the future: the check would count as newer than all checks until then."""
    if moment is None:
        return None
    now, moment = datetime.now(UTC), aware_utc(moment)
    if moment > now:
        what = f"{moment:%Y-%m-%d %H:%M:%S} UTC is in the future; now is {now:%Y-%m-%d %H:%M:%S} UTC"
        raise SettingsError(what, where="--at", hint="give a time in the past, or omit --at to check as of now")
    return moment


def clip_to_now(end: datetime | None) -> datetime | None:
    """The end of a window in UTC, but at most the current time."""
    return min(aware_utc(end), datetime.now(UTC)) if end is not None else None


def reference_time(problem: Problem, tables: Tables) -> datetime:
    """The reference time (UTC): the end of the data with `clock="data"`, else the wall clock, also without data."""
    return data_end(problem, tables) or datetime.now(UTC)


def data_end(problem: Namespace, tables: Tables) -> datetime | None:
    """With `clock="data"`: the newest decision (UTC) at which no view's newest row is older than its ttl. None with the
    wall clock, without time, without data, and for an area.

    Tables seldom end at the same time. Later decisions would miss features that the model was trained on."""
    if not isinstance(problem, Problem) or problem.clock == "wall" or not problem.has_time:
        return None
    try:
        versions = clean_versions(problem, tables)
    except NotFound:
        return None
    times = frames.read_spine(frames.without_labels(problem), tables, versions)["decision_time"]
    for view in problem.views:
        name = feature_table(problem, view.name)
        newest = tables.newest(name, EVENT) if view.ttl and tables.exists(name) else None
        if newest is None:
            continue
        fresh = times.filter(pc.less_equal(times, newest + view.ttl))
        if len(fresh) < len(times):
            log.info("view %s ends at %s: %d decisions are past its ttl", view.name, newest, len(times) - len(fresh))
        times = fresh if len(fresh) else times
    end: datetime | None = pc.max(times).as_py()
    return end

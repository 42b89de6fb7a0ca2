"""Reports of checks in object storage: the newest of each check for whoever looks, all of them for who asks, and their
states in one object a check, so that a page costs the same after a year."""

import logging
from datetime import UTC, datetime, timedelta

from pydantic import Field, ValidationError

from truecourse.errors import NotFound
from truecourse.monitoring.findings import Check, Report, State
from truecourse.references import Reference, UtcTime
from truecourse.storage.object_store import ObjectStore

log = logging.getLogger("truecourse.reports")
TIMELINE_LENGTH = timedelta(days=120)
_MARKS = 500


class TimelineEntry(Reference):
    """What is left of a report in a timeline. `largest`: the figure of that name, which is drawn."""

    at: UtcTime
    state: State
    largest: float | None = None


class Timeline(Reference):
    """The reports of a check of the last SHOWN days, at most 500 of them, by the names of their moments."""

    marks: dict[str, TimelineEntry] = Field(default_factory=dict)


def with_checked_at(report: Report, at: datetime | None) -> Report:
    """The report with the moment at which it was made, if that is not the moment (`at`, UTC) that it was asked for."""
    return report if at is not None else report.model_copy(update={"checked_at": datetime.now(UTC)})


def save(store: ObjectStore, report: Report) -> None:
    """Keep a report, in place of one of the same moment. It becomes the newest unless a later moment was reported: one
    that was not made counts for no moment, for it may be dated by another clock; neither does one that lies in the
    future, which a clock that jumped has left."""
    data = report.model_dump_json(indent=1).encode()
    store.put(f"{_place(report.problem, report.check)}{_name(report.at)}.json", data)
    _mark(store, report)
    newest = latest(store, report.problem, report.check)
    later = newest is not None and report.at < newest.at <= datetime.now(UTC)
    if newest is None or not later or not (newest.made and report.made):
        store.put(_latest(report.problem, report.check), data)


def refresh(store: ObjectStore, report: Report) -> None:
    """save(), for a check that is made every few minutes: of an hour in which it finds the same things, the timeline
    gets one report alone."""
    newest = latest(store, report.problem, report.check)
    if newest is None or _hour(newest) != _hour(report) or _keys(newest) != _keys(report):
        save(store, report)
    else:
        store.put(_latest(report.problem, report.check), report.model_dump_json(indent=1).encode())


def _hour(report: Report) -> str:
    return f"{report.at:%Y%m%dT%H}"


def _keys(report: Report) -> set[str]:
    return {finding.key for finding in report.findings}


def latest(store: ObjectStore, problem: str, check: Check) -> Report | None:
    """None where the check was never made, or was last made by an older Truecourse, whose reports had another form."""
    try:
        return Report.model_validate_json(store.get(_latest(problem, check)))
    except NotFound:
        return None
    except ValidationError:
        log.warning("%s is no report of this form and is left out", _latest(problem, check))
        return None


def timeline(store: ObjectStore, problem: str, check: Check) -> list[TimelineEntry]:
    """Oldest first, at the cost of one read."""
    return [mark for _, mark in sorted(_timeline(store, problem, check).marks.items())]


def _timeline(store: ObjectStore, problem: str, check: Check) -> Timeline:
    try:
        return Timeline.model_validate_json(store.get(_timeline_key(problem, check)))
    except NotFound:
        return Timeline()


def _mark(store: ObjectStore, report: Report) -> None:
    largest = report.figures.get("largest") if report.made else None
    mark = TimelineEntry(at=report.at, state=report.state, largest=largest)
    limit = max(report.at, datetime.now(UTC))  # a clock that jumped has left marks of the future
    before = _timeline(store, report.problem, report.check).marks
    marks = {name: one for name, one in before.items() if one.at <= limit} | {_name(report.at): mark}
    first = _name(max(one.at for one in marks.values()) - TIMELINE_LENGTH)
    kept = dict(sorted((name, one) for name, one in marks.items() if name >= first)[-_MARKS:])
    store.put(_timeline_key(report.problem, report.check), Timeline(marks=kept).model_dump_json().encode())


def history(store: ObjectStore, problem: str, check: Check, since: datetime | None = None) -> list[Report]:
    """Oldest first; from the moment `since` (UTC) on."""
    place = _place(problem, check)
    first = f"{place}{_name(since)}" if since else place
    return [Report.model_validate_json(store.get(key)) for key in sorted(store.list(place)) if key >= first]


def expire(store: ObjectStore, problem: str, check: Check, days: timedelta) -> int:
    """Remove the reports that are older by so much than the check's newest; how many."""
    newest, place = latest(store, problem, check), _place(problem, check)
    if newest is None:
        return 0
    gone = [key for key in store.list(place) if key < f"{place}{_name(newest.at - days)}"]
    for key in gone:
        store.delete(key)
    return len(gone)


def _latest(problem: str, check: Check) -> str:
    return f"reports/{problem}/{check}.json"


def _timeline_key(problem: str, check: Check) -> str:
    return f"checks/{problem}/{check}.json"


def _place(problem: str, check: Check) -> str:
    return f"checks/{problem}/{check}/"


def _name(at: datetime) -> str:
    return f"{at:%Y%m%dT%H%M%S}"

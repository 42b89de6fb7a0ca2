"""Store the reports of checks in object storage.

Each check has an object for its newest report, one for each report, and one for its timeline of states. A page reads
the timeline, so its cost does not grow with the number of reports.
"""

import logging
from datetime import UTC, datetime, timedelta

from pydantic import Field, ValidationError

from truecourse.errors import NotFound
from truecourse.monitoring.findings import Check, Report, State
from truecourse.references import Reference, StoredRecord, UtcTime
from truecourse.storage.object_store import ObjectStore, StoredObject

log = logging.getLogger("truecourse.reports")
TIMELINE_LENGTH = timedelta(days=120)
_MAX_ENTRIES = 500


class TimelineEntry(Reference):
    """A report in the timeline. `largest`: the report's figure of that name, which the page plots."""

    at: UtcTime
    state: State
    largest: float | None = None


class Timeline(StoredRecord):
    """A check's reports of the last TIMELINE_LENGTH, at most 500, keyed by report time."""

    marks: dict[str, TimelineEntry] = Field(default_factory=dict)


def with_checked_at(report: Report, at: datetime | None) -> Report:
    """Set `checked_at` to the present unless the caller named the reference time `at` (UTC)."""
    return report if at is not None else report.model_copy(update={"checked_at": datetime.now(UTC)})


def save(store: ObjectStore, report: Report) -> None:
    """Save a report, replacing one of the same time.

    It becomes the check's newest report unless the present newest one is later. Two kinds of report do not count as
    later: one that was not made (it may be dated by another clock), and one in the future (left by a clock jump)."""
    data = report.model_dump_json(indent=1).encode()
    store.put(f"{_prefix(report.problem, report.check)}{_timestamp(report.at)}.json", data)
    _add_to_timeline(store, report)
    newest = latest(store, report.problem, report.check)
    later = newest is not None and report.at < newest.at <= datetime.now(UTC)
    if newest is None or not later or not (newest.made and report.made):
        store.put(_latest_key(report.problem, report.check), data)


def refresh(store: ObjectStore, report: Report) -> None:
    """Save the report of a check that runs every few minutes: of reports of one clock hour with the same findings, only
    the first enters the timeline."""
    newest = latest(store, report.problem, report.check)
    if newest is None or _hour(newest) != _hour(report) or _keys(newest) != _keys(report):
        save(store, report)
    else:
        store.put(_latest_key(report.problem, report.check), report.model_dump_json(indent=1).encode())


def _hour(report: Report) -> str:
    return f"{report.at:%Y%m%dT%H}"


def _keys(report: Report) -> set[str]:
    return {finding.key for finding in report.findings}


def latest(store: ObjectStore, problem: str, check: Check) -> Report | None:
    """Return the newest report; None without one, or where an older version wrote it in another format."""
    try:
        return Report.model_validate_json(store.get(_latest_key(problem, check)))
    except NotFound:
        return None
    except ValidationError:
        log.warning("skipped %s: not a report of the current format", _latest_key(problem, check))
        return None


def timeline(store: ObjectStore, problem: str, check: Check) -> list[TimelineEntry]:
    """Return the timeline, oldest first, in one read."""
    return [mark for _, mark in sorted(_timeline(store, problem, check).marks.items())]


def _timeline(store: ObjectStore, problem: str, check: Check) -> Timeline:
    try:
        return Timeline.model_validate_json(store.get(_timeline_key(problem, check)))
    except NotFound:
        return Timeline()


def _add_to_timeline(store: ObjectStore, report: Report) -> None:
    largest = report.figures.get("largest") if report.made else None
    added = TimelineEntry(at=report.at, state=report.state, largest=largest)
    limit = max(report.at, datetime.now(UTC))  # drops entries in the future, left by a clock jump
    before = _timeline(store, report.problem, report.check).marks
    marks = {name: entry for name, entry in before.items() if entry.at <= limit} | {_timestamp(report.at): added}
    first = _timestamp(max(entry.at for entry in marks.values()) - TIMELINE_LENGTH)
    latest_marks = dict(sorted((name, entry) for name, entry in marks.items() if name >= first)[-_MAX_ENTRIES:])
    store.put(_timeline_key(report.problem, report.check), Timeline(marks=latest_marks).model_dump_json().encode())


def history(store: ObjectStore, problem: str, check: Check, since: datetime | None = None) -> list[Report]:
    """Return all reports from `since` (UTC) on, oldest first."""
    prefix = _prefix(problem, check)
    first = f"{prefix}{_timestamp(since)}" if since else prefix
    return [Report.model_validate_json(store.get(key)) for key in sorted(store.list(prefix)) if key >= first]


def expired(store: ObjectStore, problem: str, check: Check, days: timedelta) -> list[StoredObject]:
    """List the reports that are older than the newest one by more than `days`."""
    newest, prefix = latest(store, problem, check), _prefix(problem, check)
    if newest is None:
        return []
    first = f"{prefix}{_timestamp(newest.at - days)}"
    return [one for one in store.objects(prefix) if one.key < first]


def _latest_key(problem: str, check: Check) -> str:
    return f"reports/{problem}/{check}.json"


def _timeline_key(problem: str, check: Check) -> str:
    return f"checks/{problem}/{check}.json"


def _prefix(problem: str, check: Check) -> str:
    return f"checks/{problem}/{check}/"


def _timestamp(at: datetime) -> str:
    return f"{at:%Y%m%dT%H%M%S}"

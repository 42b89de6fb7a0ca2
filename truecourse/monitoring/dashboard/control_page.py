"""The control page of a problem: who is in office, what checks say and said, objectives, runs, and what was done."""

from datetime import UTC, date, datetime, timedelta
from typing import Any, get_args

from truecourse.html import render
from truecourse.monitoring import report_store
from truecourse.monitoring.alerts import history as record
from truecourse.monitoring.dashboard import index
from truecourse.monitoring.dashboard.timelines import timelines
from truecourse.monitoring.findings import PREREQUISITES, Check, Report, State
from truecourse.monitoring.wording import summarize
from truecourse.problem import Problem
from truecourse.registry import aliases
from truecourse.registry.scorecard import version_summary
from truecourse.statistics.metrics import metric_label
from truecourse.storage.object_store import ObjectStore
from truecourse.wording import format_duration

Document = dict[str, Any]
CHECKS: tuple[Check, ...] = get_args(Check)
_DAYS = 60
"""Shown of what is checked once a day; of what is checked every few minutes, a fortnight."""
_OFTEN: tuple[Check, ...] = ("pipelines", "endpoint", "machine", "registry", "canary")
_EVENTS = 12
_SAME = timedelta(hours=1)
_PAGES = {"validation": "Validation", "drift": "Drift", "quality": "Quality", "skew": "Skew", "health": "Health"}


def page_key(problem: str) -> str:
    return f"reports/{problem}/control.html"


def document(store: ObjectStore, problem: Problem, at: datetime | None = None) -> Document:
    """Everything that the page shows, JSON once dumped. `at`: the moment (UTC) that counts as now."""
    at = at or datetime.now(UTC)
    newest = {check: report_store.latest(store, problem.name, check) for check in CHECKS}
    made = [report for report in newest.values() if report is not None]
    stands, now = record.load_record(store, problem.name), aliases.current(problem.name)
    figures = {report.check: report.figures for report in made}
    return {
        "problem": problem.name,
        "at": at,
        "sentence": _sentence(newest),
        "champion": version_summary(now.champion),
        "challenger": version_summary(now.challenger) if now.challenger != now.champion else None,
        "shadow": now.shadow,
        "share": now.share,
        "moves": [entry.model_dump() for entry in reversed(aliases.recent(problem.name, _EVENTS))],
        "checks": [_told(check, report) for check, report in newest.items()],
        "days": {check: _days(store, report, at) if report else [] for check, report in newest.items()},
        "alarms": [_alarm(alarm) for alarm in stands.open] if stands else [],
        "events": [_event(event) for event in reversed(stands.recent[-_EVENTS:])] if stands else [],
        "endpoints": figures.get("endpoint", {}).get("endpoints", {}),
        "flows": figures.get("pipelines", {}).get("flows", []),
        "pages": _pages(store, problem.name, now.champion.run_id if now.champion else None),
    }


def _sentence(newest: dict[Check, Report | None]) -> str:
    made = [report for report in newest.values() if report is not None]
    if not made:
        return "Nothing was checked yet: truecourse run monitor, and truecourse run health."
    findings = sorted((f for report in made for f in report.findings), key=lambda finding: finding.sort_key)
    unknown = [check for check, report in newest.items() if report is None or report.state == "unknown"]
    well = "All that is checked is well." if not unknown else f"Nothing found; unknown: {', '.join(unknown)}."
    return summarize(findings, well)


def _told(check: Check, report: Report | None) -> Document:
    """`checked_at`: when it was checked; `data_until`: the moment up to which data was read, if that is another;
    `needed`: what makes a check known whose state is unknown, empty for the others."""
    if report is None:
        never: Document = {"check": check, "sentence": "Never checked.", "findings": [], "page": ""}
        return never | {"checked_at": None, "data_until": None, "state": "unknown", "needed": PREREQUISITES[check]}
    when = report.checked_at or report.at
    until = report.at if abs(when - report.at) > _SAME else None
    return report.model_dump(exclude={"figures", "problem", "at"}) | {
        "state": report.state,
        "checked_at": when,
        "data_until": until,
        "needed": PREREQUISITES[check] if report.state == "unknown" else "",
    }


def _days(store: ObjectStore, newest: Report, at: datetime) -> list[tuple[str, State]]:
    """The worst state of every day from the first that was checked, oldest first; unknown of one that was not. The
    newest report may be long ago, in a replay."""
    until = min(newest.at, at)
    since = until - timedelta(days=14 if newest.check in _OFTEN else _DAYS)
    worst: dict[str, State] = {}
    for mark in report_store.timeline(store, newest.problem, newest.check):
        if mark.at >= since:
            day = f"{mark.at:%Y-%m-%d}"
            worst[day] = min(worst.get(day, mark.state), mark.state, key=get_args(State).index)
    if not worst:
        return []
    first, last = (date.fromisoformat(day) for day in (min(worst), max(worst)))
    days = [str(first + timedelta(days=number)) for number in range((last - first).days + 1)]
    return [(day, worst.get(day, "unknown")) for day in days]


def _alarm(alarm: record.Alarm) -> Document:
    return {"id": alarm.id, "opened": alarm.opened, "seen": alarm.seen, **alarm.finding.model_dump(exclude={"figures"})}


def _event(event: record.Event) -> Document:
    return {"at": event.at, "kind": event.kind, "sentence": event.sentence}


def _pages(store: ObjectStore, problem: str, run_id: str | None) -> dict[str, str]:
    """The pages beside this one, by what they are called: their file's name."""
    files = {name: f"{file}.html" for file, name in _PAGES.items()}
    files |= {"The champion's evaluation": f"model-{run_id}.html"} if run_id else {}
    return {name: file for name, file in files.items() if store.exists(f"reports/{problem}/{file}")}


def page(
    store: ObjectStore,
    problem: Problem,
    *,
    served: bool,
    links: dict[str, str] | None = None,
    at: datetime | None = None,
    platform: Document | None = None,
) -> str:
    """The page, whole. `served`: by the control server, which finds predictions and has its reports below /reports/;
    else a file among them. `links`: other pages of the platform, by name. `platform`: `sentences` of its parts that are
    or were down, and flow runs that are `stuck`."""
    return _page(store, problem, document(store, problem, at), served, links, platform)


def _page(
    store: ObjectStore,
    problem: Problem,
    told: Document,
    served: bool,
    links: dict[str, str] | None = None,
    platform: Document | None = None,
) -> str:
    return render(
        "control.html",
        it=told,
        plots=timelines(store, problem),
        served=served,
        links=links or {},
        platform=platform,
        beside=f"/reports/{problem.name}/" if served else "",
        format_duration=format_duration,
        moment=_moment,
        metric_label=metric_label,
        unit=problem.label_unit,
    )


def _moment(when: datetime | str | None) -> str:
    told = datetime.fromisoformat(when) if isinstance(when, str) else when
    return f"{told:%Y-%m-%d %H:%M}" if told else "–"


def publish(store: ObjectStore, problem: Problem) -> str:
    """Write the page among the reports, and the index of problems; its key."""
    told = document(store, problem)
    store.put(page_key(problem.name), _page(store, problem, told, served=False).encode())
    index.add_entry(store, _entry(told))
    return page_key(problem.name)


def require_page(store: ObjectStore, problem: Problem) -> None:
    """Write the page if there is none yet: the reports beside it lead back to it."""
    if not store.exists(page_key(problem.name)):
        publish(store, problem)


def _entry(told: Document) -> index.Entry:
    states = [report["state"] for report in told["checks"]]
    return index.Entry(
        problem=told["problem"],
        at=f"{told['at']:%Y-%m-%dT%H:%M}",
        sentence=told["sentence"],
        state=min(states, key=get_args(State).index, default="unknown"),
        champion=told["champion"]["version"] if told["champion"] else None,
        pages=told["pages"],
    )

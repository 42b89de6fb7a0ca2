"""The control page of a problem: champion and challenger, check results over time, objectives, flow runs, events."""

import dataclasses
from datetime import UTC, date, datetime, timedelta
from typing import Any, get_args
from urllib.parse import quote

from truecourse.catalogue.records import PAGE
from truecourse.evaluation.experiment_pages import newest_pages
from truecourse.html import feature_anchor, render
from truecourse.monitoring import report_store
from truecourse.monitoring.alerts import alert_record as record
from truecourse.monitoring.dashboard import index
from truecourse.monitoring.dashboard.timelines import timelines
from truecourse.monitoring.findings import PREREQUISITES, Check, Report, State, summarize
from truecourse.problem import Problem
from truecourse.references import Aliases
from truecourse.registry import aliases
from truecourse.registry.scorecard import version_summary
from truecourse.statistics.metrics import metric_label
from truecourse.storage.object_store import ObjectStore
from truecourse.wording import format_duration

Document = dict[str, Any]
CHECKS: tuple[Check, ...] = get_args(Check)
_DAYS = 60
"""Days shown of a check that runs daily; of one that runs every few minutes, 14 days are shown."""
_OFTEN: tuple[Check, ...] = ("pipelines", "endpoint", "machine", "registry", "canary")
_EVENTS = 12
EXPERIMENTS = 10
"""Pages of parameter searches, comparisons and feature selections that are linked."""
_SAME = timedelta(hours=1)
_PAGES = {"validation": "Validation", "drift": "Drift", "quality": "Quality", "skew": "Skew", "health": "Health"}


def page_key(problem: str) -> str:
    return f"reports/{problem}/control.html"


def document(store: ObjectStore, problem: Problem, at: datetime | None = None) -> Document:
    """Return all figures of the page, ready to dump as JSON. `at`: the reference time (UTC)."""
    at = at or datetime.now(UTC)
    newest = {check: report_store.latest(store, problem.name, check) for check in CHECKS}
    reports = [report for report in newest.values() if report is not None]
    alerts, now = record.load_record(store, problem.name), aliases.current(problem.name)
    figures = {report.check: report.figures for report in reports}
    return {
        "problem": problem.name,
        "at": at,
        "sentence": _sentence(newest),
        "champion": version_summary(now.champion),
        "challenger": version_summary(now.challenger) if now.challenger != now.champion else None,
        "shadow": now.shadow,
        "share": now.share,
        "moves": [entry.model_dump() for entry in reversed(aliases.recent(problem.name, _EVENTS))],
        "checks": [_check_document(check, report) for check, report in newest.items()],
        "days": {check: _days(store, report, at) if report else [] for check, report in newest.items()},
        "alarms": [_alarm(alarm) for alarm in alerts.open] if alerts else [],
        "events": [_event(event) for event in reversed(alerts.recent[-_EVENTS:])] if alerts else [],
        "endpoints": figures.get("endpoint", {}).get("endpoints", {}),
        "flows": figures.get("pipelines", {}).get("flows", []),
        "features": store.exists(PAGE),
        "pages": _pages(store, problem.name, now),
        "experiments": [dataclasses.asdict(one) for one in newest_pages(store, problem.name, EXPERIMENTS)],
    }


def _sentence(newest: dict[Check, Report | None]) -> str:
    reports = [report for report in newest.values() if report is not None]
    if not reports:
        return "No check has run yet: truecourse run monitor, and truecourse run health."
    findings = sorted((f for report in reports for f in report.findings), key=lambda finding: finding.sort_key)
    unknown = [check for check, report in newest.items() if report is None or report.state == "unknown"]
    summary = "All checks are ok." if not unknown else f"No findings; unknown: {', '.join(unknown)}."
    return summarize(findings, summary)


def _check_document(check: Check, report: Report | None) -> Document:
    """Return what the page shows of a check.

    `checked_at`: when it ran. `data_until`: the end of the data it read, if that is more than an hour away. `needed`:
    what a check with the state unknown needs; empty for the others."""
    if report is None:
        never: Document = {"check": check, "sentence": "This check has not run yet.", "findings": [], "page": ""}
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
    """Return (day, worst state) from the first checked day to the last, oldest first; unknown for days without a check.

    The days shown end at the newest report, which may be long ago in a replay."""
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


def _pages(store: ObjectStore, problem: str, now: Aliases) -> dict[str, str]:
    """Return the file names of the problem's other pages, by title."""
    files = {name: f"{file}.html" for file, name in _PAGES.items()}
    versions = {"champion": now.champion, "challenger": now.challenger if now.challenger != now.champion else None}
    files |= {f"Model card of the {alias}": f"model-{one.run_id}.html" for alias, one in versions.items() if one}
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
    """Render the page as HTML.

    `served`: for the control server, which traces predictions and has its reports under /reports/; otherwise a file
    among the reports. `links`: other pages of the platform, by name. `platform`: `sentences` about services that are or
    were down, and flow runs that are `stuck`."""
    return _page(store, problem, document(store, problem, at), served, links, platform)


def _page(
    store: ObjectStore,
    problem: Problem,
    figures: Document,
    served: bool,
    links: dict[str, str] | None = None,
    platform: Document | None = None,
) -> str:
    return render(
        "control.html",
        it=figures,
        plots=timelines(store, problem),
        served=served,
        links=links or {},
        platform=platform,
        base=f"/reports/{problem.name}/" if served else "",
        format_duration=format_duration,
        moment=_moment,
        metric_label=metric_label,
        unit=problem.label_unit,
        features_url=f"{'/reports' if served else '..'}/features.html#{quote(feature_anchor(problem.name))}",
    )


def _moment(when: datetime | str | None) -> str:
    moment = datetime.fromisoformat(when) if isinstance(when, str) else when
    return f"{moment:%Y-%m-%d %H:%M}" if moment else "–"


def publish(store: ObjectStore, problem: Problem) -> str:
    """Write the page among the reports, update the index of problems, and return the page's key."""
    figures = document(store, problem)
    store.put(page_key(problem.name), _page(store, problem, figures, served=False).encode())
    index.add_entry(store, _entry(figures))
    return page_key(problem.name)


def require_page(store: ObjectStore, problem: Problem) -> None:
    """Write the page if there is none yet: the report pages link to it."""
    if not store.exists(page_key(problem.name)):
        publish(store, problem)


def _entry(figures: Document) -> index.Entry:
    states = [report["state"] for report in figures["checks"]]
    return index.Entry(
        problem=figures["problem"],
        at=f"{figures['at']:%Y-%m-%dT%H:%M}",
        sentence=figures["sentence"],
        state=min(states, key=get_args(State).index, default="unknown"),
        champion=figures["champion"]["version"] if figures["champion"] else None,
        pages=figures["pages"],
    )

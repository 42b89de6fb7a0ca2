"""Findings settle: each is told once while it lasts, and is over only when it stays away."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from truecourse.monitoring.alerts.history import Alarm, Event, Kind, Notification, Record, write
from truecourse.monitoring.findings import Check, Finding, Report
from truecourse.problem import Problem
from truecourse.references import aware_utc
from truecourse.storage.object_store import ObjectStore
from truecourse.wording import format_duration

EVENTS = "prefect"
"""The channel that hears of every finding; the others hear of those that page."""


@dataclass(frozen=True)
class AlertChanges:
    """What reports have changed, and what is open after them (all findings; those with `told` page)."""

    events: tuple[Event, ...]
    open: tuple[Alarm, ...]

    def of(self, kind: Kind) -> tuple[Event, ...]:
        return tuple(event for event in self.events if event.kind == kind)


def update_alerts(
    store: ObjectStore, problem: Problem, reports: Sequence[Report], at: datetime, channels: Sequence[str] = ()
) -> AlertChanges:
    """Enter the reports' findings into the record: opened if new, escalated if they page and did not before, nothing
    while they stay (but a reminder every `Alerts.remind`), and recovered after `Alerts.clean` checks without them.

    A check that was not made is no clean one, and neither is a report of the same moment or an earlier one than the
    last. `at`: the moment that counts as now, UTC. `channels`: who is to be told, by name; see delivery.py."""
    changes = _Changes(problem, channels, aware_utc(at))

    def change(seen: Record | None) -> dict[str, Any] | None:
        nonlocal changes
        changes = _Changes(problem, channels, aware_utc(at))
        if seen is not None:
            changes.open, changes.checked = seen.open, dict(seen.checked)
        for report in sorted(reports, key=lambda report: report.at):
            changes.take(report)
        if changes.open == (seen.open if seen else ()):
            return None
        made: dict[str, Any] = {"events": tuple(changes.events), "open": changes.open, "checked": changes.checked}
        if changes.notices:
            made["outbox"] = _pending(seen.outbox if seen else (), changes.notices)
        return made

    write(store, problem.name, at, "settled", change)
    return AlertChanges(tuple(changes.events), changes.open)


def _pending(before: Sequence[Notification], new: Sequence[Notification]) -> tuple[Notification, ...]:
    """Notices that wait, without reminders that a newer one of the same alarm makes up for: a receiver that is down
    for a year does not get one for every week."""
    newer = {notice.about: set(notice.owed) for notice in new if notice.kind == "reminded"}
    kept = [one for one in before if one.kind != "reminded" or not set(one.owed) <= newer.get(one.about, set())]
    return (*kept, *new)


@dataclass
class _Changes:
    """What stands, while reports are taken one after another."""

    problem: Problem
    channels: Sequence[str]
    at: datetime
    open: tuple[Alarm, ...] = ()
    checked: dict[Check, datetime] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    notices: list[Notification] = field(default_factory=list)

    def take(self, report: Report) -> None:
        last = self.checked.get(report.check)
        if last is not None and last > datetime.now(UTC):
            last = None  # a clock that jumped left this mark: until it is over, it would silence everything
        if last is not None and report.at < last:
            return
        clean = report.made and report.fresh and (last is None or report.at > last)
        found = {finding.key: finding for finding in report.findings}
        kept = []
        for alarm in self.open:
            if alarm.finding.check != report.check:
                kept.append(alarm)
            elif alarm.key in found:
                kept.append(self._again(alarm, found[alarm.key]))
            else:
                kept += self._missed(alarm, clean)
        known = {alarm.key for alarm in self.open}
        self.open = (*kept, *self._new([item for key, item in found.items() if key not in known]))
        if report.made:
            self.checked[report.check] = report.at

    def _new(self, findings: list[Finding]) -> Iterator[Alarm]:
        for finding in findings:
            told = self.at if finding.page else None
            alarm = Alarm(finding=finding, opened=self.at, seen=self.at, told=told)
            self._tell("opened", alarm, finding.sentence)
            yield alarm

    def _again(self, alarm: Alarm, finding: Finding) -> Alarm:
        seen = alarm.model_copy(update={"finding": finding, "seen": self.at, "clean": 0})
        if alarm.told is None and finding.page:
            kind: Kind = "escalated"
        elif alarm.told is not None and self.at - alarm.told >= self.problem.monitoring.alerts.remind:
            kind = "reminded"
        else:
            return seen
        since = f"since {alarm.opened:%Y-%m-%d %H:%M} UTC"
        told = seen.model_copy(update={"told": self.at})
        self._tell(kind, told, f"{finding.sentence} ({since})")
        return told

    def _missed(self, alarm: Alarm, clean: bool) -> list[Alarm]:
        missed = alarm.model_copy(update={"clean": alarm.clean + clean})
        if missed.clean < self.problem.monitoring.alerts.clean:
            return [missed]
        lasted = format_duration(self.at - alarm.opened)
        said = f"Recovered after {lasted}: {alarm.finding.subject}, {alarm.finding.cause}."
        self._tell("recovered", alarm, said)
        return []

    def _tell(self, kind: Kind, alarm: Alarm, sentence: str) -> None:
        at = self.at
        self.events.append(Event(kind=kind, at=at, sentence=sentence, alarm=alarm.id, finding=alarm.finding))
        owed = tuple(name for name in self.channels if alarm.told or name == EVENTS)
        if owed:
            id = f"{self.problem.name}/{alarm.id}/{kind}/{at:%Y%m%dT%H%M%S}"
            self.notices.append(
                Notification(id=id, kind=kind, at=at, finding=alarm.finding, sentence=sentence, owed=owed)
            )

"""The alert lifecycle: a finding is notified once while it lasts, and recovers after several clean checks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from truecourse.monitoring.alerts.alert_record import Alarm, Event, Kind, Notification, Record, write
from truecourse.monitoring.findings import Check, Finding, Report
from truecourse.problem import Problem
from truecourse.references import aware_utc
from truecourse.storage.object_store import ObjectStore
from truecourse.wording import format_duration

EVENTS = "prefect"
"""The channel that gets every finding; the other channels get critical findings only."""


@dataclass(frozen=True)
class AlertChanges:
    """The events that reports caused, and the alarms open after them. Critical alarms have `notified_at`."""

    events: tuple[Event, ...]
    open: tuple[Alarm, ...]

    def of(self, kind: Kind) -> tuple[Event, ...]:
        return tuple(event for event in self.events if event.kind == kind)


def update_alerts(
    store: ObjectStore, problem: Problem, reports: Sequence[Report], at: datetime, channels: Sequence[str] = ()
) -> AlertChanges:
    """Record the reports' findings as alarms, and queue notifications about them.

    A new finding opens an alarm. A finding that becomes critical escalates it. While it lasts, there is only a reminder
    every `Alerts.remind`. After `Alerts.clean` checks without the finding, the alarm recovers. A check that could not
    run does not count as clean, nor does a report of the same moment as the last one, or of an earlier one.

    `at`: the reference time, UTC. `channels`: names of the channels to notify, see delivery.py."""
    changes = _Changes(problem, channels, aware_utc(at))

    def change(record: Record | None) -> dict[str, Any] | None:
        nonlocal changes
        changes = _Changes(problem, channels, aware_utc(at))
        if record is not None:
            changes.open, changes.checked = record.open, dict(record.checked)
        for report in sorted(reports, key=lambda report: report.at):
            changes.apply(report)
        if changes.open == (record.open if record else ()):
            return None
        fields: dict[str, Any] = {"events": tuple(changes.events), "open": changes.open, "checked": changes.checked}
        if changes.notifications:
            fields["pending"] = _pending(record.pending if record else (), changes.notifications)
        return fields

    write(store, problem.name, at, "update", change)
    return AlertChanges(tuple(changes.events), changes.open)


def _pending(before: Sequence[Notification], new: Sequence[Notification]) -> tuple[Notification, ...]:
    """Return the pending notifications, without reminders that a newer reminder of the same alarm replaces.

    So a receiver that was down for a year does not get a reminder for every week."""
    newer = {one.about: set(one.channels) for one in new if one.kind == "reminded"}
    kept = [one for one in before if one.kind != "reminded" or not set(one.channels) <= newer.get(one.about, set())]
    return (*kept, *new)


@dataclass
class _Changes:
    """The state of the record while reports are applied one after another."""

    problem: Problem
    channels: Sequence[str]
    at: datetime
    open: tuple[Alarm, ...] = ()
    checked: dict[Check, datetime] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    notifications: list[Notification] = field(default_factory=list)

    def apply(self, report: Report) -> None:
        last = self.checked.get(report.check)
        if last is not None and last > datetime.now(UTC):
            last = None  # a wrong clock wrote a moment in the future; it must not suppress all reports until then
        if last is not None and report.at < last:
            return
        clean = report.made and report.fresh and (last is None or report.at > last)
        found = {finding.key: finding for finding in report.findings}
        kept = []
        for alarm in self.open:
            if alarm.finding.check != report.check:
                kept.append(alarm)
            elif alarm.key in found:
                kept.append(self._found_again(alarm, found[alarm.key]))
            else:
                kept += self._not_found(alarm, clean)
        known = {alarm.key for alarm in self.open}
        self.open = (*kept, *self._new([item for key, item in found.items() if key not in known]))
        if report.made:
            self.checked[report.check] = report.at

    def _new(self, findings: list[Finding]) -> Iterator[Alarm]:
        for finding in findings:
            notified_at = self.at if finding.page else None
            alarm = Alarm(finding=finding, opened=self.at, seen=self.at, notified_at=notified_at)
            self._notify("opened", alarm, finding.sentence)
            yield alarm

    def _found_again(self, alarm: Alarm, finding: Finding) -> Alarm:
        seen = alarm.model_copy(update={"finding": finding, "seen": self.at, "clean": 0})
        if alarm.notified_at is None and finding.page:
            kind: Kind = "escalated"
        elif alarm.notified_at is not None and self.at - alarm.notified_at >= self.problem.monitoring.alerts.remind:
            kind = "reminded"
        else:
            return seen
        since = f"since {alarm.opened:%Y-%m-%d %H:%M} UTC"
        notified = seen.model_copy(update={"notified_at": self.at})
        self._notify(kind, notified, f"{finding.sentence} ({since})")
        return notified

    def _not_found(self, alarm: Alarm, clean: bool) -> list[Alarm]:
        missed = alarm.model_copy(update={"clean": alarm.clean + clean})
        if missed.clean < self.problem.monitoring.alerts.clean:
            return [missed]
        lasted = format_duration(self.at - alarm.opened)
        message = f"Recovered after {lasted}: {alarm.finding.subject}, {alarm.finding.cause}."
        self._notify("recovered", alarm, message)
        return []

    def _notify(self, kind: Kind, alarm: Alarm, sentence: str) -> None:
        at = self.at
        self.events.append(Event(kind=kind, at=at, sentence=sentence, alarm=alarm.id, finding=alarm.finding))
        channels = tuple(name for name in self.channels if alarm.notified_at or name == EVENTS)
        if channels:
            id = f"{self.problem.name}/{alarm.id}/{kind}/{at:%Y%m%dT%H%M%S}"
            self.notifications.append(
                Notification(id=id, kind=kind, at=at, finding=alarm.finding, sentence=sentence, channels=channels)
            )

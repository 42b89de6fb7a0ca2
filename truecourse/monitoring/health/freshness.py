"""Freshness of tables, feature tables and the online store, and the size of deliveries.

All figures come from commit metadata and file statistics; no rows are read. The clock is that of the commits. With a
given reference time it is that of the rows, because the commits of a simulated day were made today.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from truecourse.data.validation_report import ValidationResult, standing_refusals
from truecourse.features.asof import EVENT
from truecourse.features.definition_digests import feature_table
from truecourse.monitoring.finding_causes import Cause
from truecourse.monitoring.findings import Finding
from truecourse.monitoring.robust_stats import LATE_FACTOR, is_unusual, longest_gap
from truecourse.problem import Problem
from truecourse.problem.namespace import AnyView
from truecourse.problem.schema import Table
from truecourse.storage.delta_tables import Tables, clean_table
from truecourse.wording import counted, format_duration

MAX_VERSIONS = 31
"""Newest versions of a table that are examined."""
MIN_DELAY = timedelta(days=1)
"""The shortest delay that is reported when it is derived from past deliveries; `freshness` can be shorter."""
DEAD_FACTOR = 2.5
"""A feed is dead when its delay is this many times the longest delay before."""
VOLUME_FACTOR, MIN_QUARANTINE_RISE = 2.0, 0.01
"""The factor, and for quarantined rows also the share of rows, by which a delivery must differ to be reported."""
HIGH_QUARANTINE = 0.1
"""A quarantined share that is reported even with few earlier deliveries."""


@dataclass(frozen=True)
class Version:
    number: int
    moment: datetime | None
    """When it was committed, by the clock in use; None if that clock has no time for it."""
    commit: Mapping[str, Any]


@dataclass(frozen=True)
class Clock:
    """The reference time. `simulated`: `now` was given; newer data is ignored."""

    now: datetime
    simulated: bool

    def moment(self, committed: datetime, commit: Mapping[str, Any]) -> datetime | None:
        if not self.simulated:
            return committed
        watermark = commit.get("watermark")
        moment = datetime.fromisoformat(watermark).replace(tzinfo=UTC) if watermark else None
        return moment if moment is None or moment <= self.now else None


def versions(tables: Tables, name: str, clock: Clock) -> list[Version]:
    """List the newest versions of a table, oldest first; none if the table does not exist."""
    if not tables.exists(name):
        return []
    recent = tables.recent(name, MAX_VERSIONS)
    return [Version(number, clock.moment(at, commit), commit) for number, at, commit in recent]


def pipeline_finding(subject: str, cause: Cause, page: bool, sentence: str, **figures: Any) -> Finding:
    return Finding(check="pipelines", subject=subject, cause=cause, page=page, sentence=sentence, figures=figures)


@dataclass(frozen=True)
class TableState:
    """A clean table and its newest versions. `refused`: refused deliveries that were not replaced since. `area`: the
    feature area that it belongs to, if it is not the problem's own."""

    table: Table
    past: Sequence[Version]
    clock: Clock
    refused: Sequence[ValidationResult] = ()
    area: str = ""

    @property
    def name(self) -> str:
        return f"{self.area}.{self.table.name}" if self.area else self.table.name

    @cached_property
    def watermark(self) -> datetime | None:
        """The newest `time` of its rows, UTC."""
        marks = [version.commit.get("watermark") for version in self.past]
        return max((datetime.fromisoformat(mark).replace(tzinfo=UTC) for mark in marks if mark), default=None)

    def newest_by(self, now: datetime) -> datetime | None:
        """Return the newest `time` of its rows up to `now`; a row that is known ahead counts from when it was known."""
        ahead = self.table.known_ahead or timedelta(0)
        return min(self.watermark - ahead, now) if self.watermark is not None else None

    @property
    def batches(self) -> list[Mapping[str, int]]:
        """The row counts of each accepted delivery."""
        return [item["rows"] for version in self.past for item in version.commit.get("deliveries", ())]

    @property
    def newest(self) -> int:
        """How many deliveries the newest version added."""
        return len(self.past[-1].commit.get("deliveries", ())) if self.past else 0

    @property
    def _moments(self) -> list[datetime]:
        return sorted({version.moment for version in self.past if version.moment is not None})

    def findings(self) -> Iterable[Finding]:
        yield from self._stale()
        yield from self._unusual_deliveries()
        for result in self.refused:
            yield pipeline_finding(self.name, "refused delivery", True, f"{result.sentence()}.")

    def _stale(self) -> Iterable[Finding]:
        name, declared = self.name, self.table.freshness
        if declared is not None:
            if self.watermark is not None and self.clock.now - self.watermark > declared:
                age = self.clock.now - self.watermark
                what = f"The newest row of {name} is {format_duration(age)} old; the limit is "
                what += f"{format_duration(declared)}: is its source dead?"
                yield pipeline_finding(name, "dead feed", True, what, age_seconds=age.total_seconds())
            return
        longest, moments = longest_gap(self._moments), self._moments
        if longest is None:
            return
        silent, allowed = self.clock.now - moments[-1], max(LATE_FACTOR * longest, MIN_DELAY)
        if silent > allowed:
            what = f"{name} has had no new data for {format_duration(silent)}; the longest gap before was "
            what += f"{format_duration(longest)}: is its source dead?"
            dead = silent > max(DEAD_FACTOR * longest, MIN_DELAY)
            yield pipeline_finding(name, "dead feed", dead, what, age_seconds=silent.total_seconds())

    def _unusual_deliveries(self) -> Iterable[Finding]:
        for place in range(len(self.batches) - self.newest, len(self.batches)):
            yield from self._unusual_delivery(self.batches[place], self.batches[:place])

    def _unusual_delivery(self, last: Mapping[str, int], past: Sequence[Mapping[str, int]]) -> Iterable[Finding]:
        name = self.name
        if is_unusual(last["in"], [batch["in"] for batch in past], VOLUME_FACTOR):
            usual = sorted(batch["in"] for batch in past)
            what = f"A new delivery of {name} has {counted(last['in'], 'row')}; earlier ones had {usual[0]:,} to "
            yield pipeline_finding(name, "volume", False, f"{what}{usual[-1]:,}.", rows=last["in"])
        share, before = _quarantined(last), [_quarantined(batch) for batch in past]
        rare = is_unusual(share, before, VOLUME_FACTOR, MIN_QUARANTINE_RISE) and share > 0
        if rare or (share >= HIGH_QUARANTINE and share > VOLUME_FACTOR * max(before, default=0.0)):
            what = f"{last['quarantined']:,} of the {counted(last['in'], 'row')} of a new delivery of {name} went into "
            what += f"quarantine ({share:.1%}), more than in any delivery before."
            yield pipeline_finding(name, "quarantine", False, what, share=share, quarantined=last["quarantined"])

    def figures(self) -> dict[str, Any]:
        last = self.batches[-1] if self.batches else {}
        return {
            "table": self.name,
            "version": self.past[-1].number if self.past else None,
            "newest_row": _text(self.watermark),
            "newest_batch": _text(max(self._moments, default=None)),
            "rows_in": last.get("in"),
            "quarantined": last.get("quarantined"),
            "unreadable": last.get("unreadable"),
            "refused": [result.delivery.number for result in self.refused],
        }


def _quarantined(batch: Mapping[str, int]) -> float:
    return batch["quarantined"] / batch["in"] if batch["in"] else 0.0


def table_states(problem: Problem, tables: Tables, clock: Clock) -> list[TableState]:
    """Return the state of each table. With a simulated clock refused deliveries are left out: they are of today."""
    return [
        TableState(
            table,
            versions(tables, clean_table(owner.name, table.name), clock),
            clock,
            () if clock.simulated else standing_refusals(tables, owner.name, table.name),
            "" if owner is problem else owner.name,
        )
        for owner in problem.namespaces
        for table in owner.tables
    ]


@dataclass(frozen=True)
class ViewState:
    """A view's feature table and its load into the online store.

    `sources`: its tables by storage name. `loaded`: the version of the last load and until when values were known, if
    there was a load."""

    view: AnyView
    past: Sequence[Version]
    newest: datetime | None
    sources: Mapping[str, TableState]
    loaded: Mapping[str, Any] | None
    clock: Clock

    @property
    def _waiting(self) -> datetime | None:
        """When the first source version was committed that the feature table lacks; None if it lacks none."""
        inputs = {one["name"]: one["version"] for one in self.past[-1].commit.get("inputs", ())} if self.past else {}
        newer = [
            version.moment
            for name, number in inputs.items()
            for version in (self.sources[name].past if name in self.sources else ())
            if version.number > number and version.commit.get("inputs") and version.moment is not None
        ]
        return min(newer, default=None)

    @property
    def online(self) -> datetime | None:
        """The newest event that is in the online store, or would be if it existed."""
        if self.loaded is None or self.view.timeless:
            return None
        until = datetime.fromisoformat(self.loaded["until"])
        return until if self.newest is None else min(until, self.newest)

    @property
    def feeds(self) -> list[TableState]:
        """The tables with time that the view is computed from."""
        inputs = self.past[-1].commit.get("inputs", ()) if self.past else ()
        states = [self.sources[one["name"]] for one in inputs if one["name"] in self.sources]
        return [state for state in states if state.table.time is not None]

    def dead_feeds(self, now: datetime) -> Iterable[Finding]:
        """Find feeds whose newest event is older at `now` than the view's ttl, if the view's newest event is too."""
        if not self.view.ttl or self.newest is None or now - self.newest <= self.view.ttl:
            return
        for state in self.feeds:
            newest = state.newest_by(now)
            if newest is not None and now - newest > self.view.ttl:
                what = f"The newest row of {state.name} is of {newest:%Y-%m-%d %H:%M} UTC, "
                what += f"{format_duration(now - newest)} before {now:%Y-%m-%d %H:%M}: values of {self.view.name} "
                what += f"expire after {format_duration(self.view.ttl)}, so predictions lack them."
                figures = {"newest": _text(newest), "age_seconds": (now - newest).total_seconds()}
                yield pipeline_finding(state.name, "dead feed", True, what, view=self.view.name, **figures)

    def findings(self) -> Iterable[Finding]:
        name, now = self.view.name, self.clock.now
        if self._waiting is not None and now - self._waiting > MIN_DELAY:
            what = f"The features of {name} have been behind their tables for {format_duration(now - self._waiting)}: "
            what += "is the flow materialize running?"
            yield pipeline_finding(f"features of {name}", "not computed", False, what)
        if self.loaded is None or not self.past or self.loaded["version"] >= self.past[-1].number:
            return
        behind = min(self.newest or now, now) - datetime.fromisoformat(self.loaded["until"])
        if behind > MIN_DELAY:
            expired = bool(self.view.ttl) and behind > self.view.ttl
            what = f"The online store's {name} is {format_duration(behind)} behind its feature table"
            what += f", past its ttl of {format_duration(self.view.ttl)}: predictions lack it." if expired else "."
            yield pipeline_finding(f"online {name}", "not loaded", expired, what, behind_seconds=behind.total_seconds())

    def figures(self) -> dict[str, Any]:
        return {
            "view": self.view.name,
            "version": self.past[-1].number if self.past else None,
            "newest_event": _text(self.newest),
            "behind_since": _text(self._waiting),
            "online_version": self.loaded["version"] if self.loaded else None,
            "online_event": _text(self.online),
        }


def view_states(
    problem: Problem, tables: Tables, clock: Clock, sources: Sequence[TableState], loaded: Mapping[str, Any]
) -> list[ViewState]:
    """Return the state of each view. `loaded`: the last load into the online store, by view."""
    by_name = {clean_table(state.area or problem.name, state.table.name): state for state in sources}
    states = []
    for view in problem.views:
        name = feature_table(problem, view.name)
        past = versions(tables, name, clock)
        newest = tables.newest(name, EVENT) if past and not view.timeless else None
        states.append(ViewState(view, past, newest, by_name, loaded.get(view.name), clock))
    return states


def _text(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="seconds") if moment else None

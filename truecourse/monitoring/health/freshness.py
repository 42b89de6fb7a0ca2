"""Whether tables, feature tables and the online store are as fresh as they should be, and deliveries as large as usual.

All of it is read from what commits say of themselves and from the statistics of files: no row is read. Time is that of
commits, or, where the moment that counts as now is given, that of the rows themselves: a commit of a simulated day was
made today.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from truecourse.data.validation_report import ValidationResult, standing_refusals
from truecourse.features.asof import EVENT
from truecourse.features.definitions import feature_table
from truecourse.monitoring.findings import Finding
from truecourse.monitoring.robust_stats import LATE_FACTOR, is_unusual, longest_gap
from truecourse.problem import Problem, View
from truecourse.problem.schema import Table
from truecourse.storage.tables import Tables, clean_table
from truecourse.wording import counted, format_duration

MAX_VERSIONS = 31
"""So many versions of a table are looked at."""
MIN_DELAY = timedelta(days=1)
"""What was learned from a table's rhythm is never stricter; `freshness` can be."""
DEAD_FACTOR = 2.5
"""A feed that is silent for so much longer than ever before is dead."""
VOLUME_FACTOR, MIN_QUARANTINE_RISE = 2.0, 0.01
"""A delivery's rows, and its share of quarantined rows, have to differ by this to matter."""
HIGH_QUARANTINE = 0.1
"""So large a share matters even where little is known of the past."""


@dataclass(frozen=True)
class Version:
    number: int
    moment: datetime | None
    """When it came, by the clock that is used; None where that clock does not tell."""
    commit: Mapping[str, Any]


@dataclass(frozen=True)
class Clock:
    """`simulated`: `now` was given, and what is newer is not there yet."""

    now: datetime
    simulated: bool

    def moment(self, committed: datetime, commit: Mapping[str, Any]) -> datetime | None:
        if not self.simulated:
            return committed
        watermark = commit.get("watermark")
        moment = datetime.fromisoformat(watermark).replace(tzinfo=UTC) if watermark else None
        return moment if moment is None or moment <= self.now else None


def versions(tables: Tables, name: str, clock: Clock) -> list[Version]:
    """The last versions of a table, oldest first; none where there is no table."""
    if not tables.exists(name):
        return []
    return [Version(n, clock.moment(at, said), said) for n, at, said in tables.recent(name, MAX_VERSIONS)]


def pipeline_finding(subject: str, cause: str, page: bool, sentence: str, **figures: Any) -> Finding:
    return Finding(check="pipelines", subject=subject, cause=cause, page=page, sentence=sentence, figures=figures)


@dataclass(frozen=True)
class TableState:
    """A clean table, by its last versions. `refused`: its deliveries that stand refused."""

    table: Table
    past: Sequence[Version]
    clock: Clock
    refused: Sequence[ValidationResult] = ()

    @cached_property
    def watermark(self) -> datetime | None:
        """The newest `time` of its rows, UTC."""
        marks = [version.commit.get("watermark") for version in self.past]
        return max((datetime.fromisoformat(mark).replace(tzinfo=UTC) for mark in marks if mark), default=None)

    def newest_by(self, now: datetime) -> datetime | None:
        """The newest `time` of its rows up to the moment `now`; what was known ahead counts from when it was known."""
        ahead = self.table.known_ahead or timedelta(0)
        return min(self.watermark - ahead, now) if self.watermark is not None else None

    @property
    def batches(self) -> list[Mapping[str, int]]:
        """What became of the rows of each accepted delivery."""
        return [item["rows"] for version in self.past for item in version.commit.get("deliveries", ())]

    @property
    def newest(self) -> int:
        """So many deliveries came with the newest version."""
        return len(self.past[-1].commit.get("deliveries", ())) if self.past else 0

    @property
    def _moments(self) -> list[datetime]:
        return sorted({version.moment for version in self.past if version.moment is not None})

    def findings(self) -> Iterable[Finding]:
        yield from self._stale()
        yield from self._odd_deliveries()
        for result in self.refused:
            yield pipeline_finding(self.table.name, "refused delivery", True, f"{result.sentence()}.")

    def _stale(self) -> Iterable[Finding]:
        name, declared = self.table.name, self.table.freshness
        if declared is not None:
            if self.watermark is not None and self.clock.now - self.watermark > declared:
                age = self.clock.now - self.watermark
                what = f"The newest row of {name} is {format_duration(age)} old, and may be "
                what += f"{format_duration(declared)}: is its source dead?"
                yield pipeline_finding(name, "dead feed", True, what, age_seconds=age.total_seconds())
            return
        longest, moments = longest_gap(self._moments), self._moments
        if longest is None:
            return
        silent, allowed = self.clock.now - moments[-1], max(LATE_FACTOR * longest, MIN_DELAY)
        if silent > allowed:
            what = f"Nothing new has come to {name} for {format_duration(silent)}, and it never took longer than "
            what += f"{format_duration(longest)} before: is its source dead?"
            dead = silent > max(DEAD_FACTOR * longest, MIN_DELAY)
            yield pipeline_finding(name, "dead feed", dead, what, age_seconds=silent.total_seconds())

    def _odd_deliveries(self) -> Iterable[Finding]:
        for place in range(len(self.batches) - self.newest, len(self.batches)):
            yield from self._odd_delivery(self.batches[place], self.batches[:place])

    def _odd_delivery(self, last: Mapping[str, int], past: Sequence[Mapping[str, int]]) -> Iterable[Finding]:
        name = self.table.name
        if is_unusual(last["in"], [batch["in"] for batch in past], VOLUME_FACTOR):
            usual = sorted(batch["in"] for batch in past)
            what = f"A new delivery of {name} has {counted(last['in'], 'row')}; those before had {usual[0]:,} to "
            yield pipeline_finding(name, "volume", False, f"{what}{usual[-1]:,}.", rows=last["in"])
        share, before = _quarantined(last), [_quarantined(batch) for batch in past]
        rare = is_unusual(share, before, VOLUME_FACTOR, MIN_QUARANTINE_RISE) and share > 0
        if rare or (share >= HIGH_QUARANTINE and share > VOLUME_FACTOR * max(before, default=0.0)):
            what = f"{last['quarantined']:,} of the {counted(last['in'], 'row')} of a new delivery of {name} went into "
            what += f"quarantine ({share:.1%}), more than ever before."
            yield pipeline_finding(name, "quarantine", False, what, share=share, quarantined=last["quarantined"])

    def figures(self) -> dict[str, Any]:
        last = self.batches[-1] if self.batches else {}
        return {
            "table": self.table.name,
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
    """What is refused now is no news of a moment in the past."""
    return [
        TableState(
            table,
            versions(tables, clean_table(problem.name, table.name), clock),
            clock,
            () if clock.simulated else standing_refusals(tables, problem.name, table.name),
        )
        for table in problem.tables
    ]


@dataclass(frozen=True)
class ViewState:
    """A view's feature table, and what of it is online. `sources`: its tables by their name below the root. `loaded`:
    the mark of the last load (its version, and until when values were known), if there was one."""

    view: View
    past: Sequence[Version]
    newest: datetime | None
    sources: Mapping[str, TableState]
    loaded: Mapping[str, Any] | None
    clock: Clock

    @property
    def _waiting(self) -> datetime | None:
        """The first version of a source that is not in the table came then; None where none is missing."""
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
        """The newest event that was loaded, or could have been."""
        if self.loaded is None or self.view.timeless:
            return None
        until = datetime.fromisoformat(self.loaded["until"])
        return until if self.newest is None else min(until, self.newest)

    @property
    def feeds(self) -> list[TableState]:
        """The tables with time that it is computed from."""
        inputs = self.past[-1].commit.get("inputs", ()) if self.past else ()
        states = [self.sources[one["name"]] for one in inputs if one["name"] in self.sources]
        return [state for state in states if state.table.time is not None]

    def run_dry(self, now: datetime) -> Iterable[Finding]:
        """Its feeds whose newest event is older at the moment `now` than a value lives, where its own is, too."""
        if not self.view.ttl or self.newest is None or now - self.newest <= self.view.ttl:
            return
        for state in self.feeds:
            newest = state.newest_by(now)
            if newest is not None and now - newest > self.view.ttl:
                what = f"The newest row of {state.table.name} is of {newest:%Y-%m-%d %H:%M} UTC, "
                what += f"{format_duration(now - newest)} before {now:%Y-%m-%d %H:%M}: values of {self.view.name} live "
                what += f"for {format_duration(self.view.ttl)}, and predictions miss them."
                figures = {"newest": _text(newest), "age_seconds": (now - newest).total_seconds()}
                yield pipeline_finding(state.table.name, "dead feed", True, what, view=self.view.name, **figures)

    def findings(self) -> Iterable[Finding]:
        name, now = self.view.name, self.clock.now
        if self._waiting is not None and now - self._waiting > MIN_DELAY:
            what = f"The features of {name} have been behind their tables for {format_duration(now - self._waiting)}: "
            yield pipeline_finding(f"features of {name}", "not computed", False, f"{what}materialize does not run.")
        if self.loaded is None or not self.past or self.loaded["version"] >= self.past[-1].number:
            return
        behind = min(self.newest or now, now) - datetime.fromisoformat(self.loaded["until"])
        if behind > MIN_DELAY:
            expired = bool(self.view.ttl) and behind > self.view.ttl
            what = f"The online store's {name} is {format_duration(behind)} behind its feature table"
            what += f", past its ttl of {format_duration(self.view.ttl)}: answers miss it." if expired else "."
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
    """`loaded`: the mark of each view's last load into the online store, by view."""
    by_name = {clean_table(problem.name, state.table.name): state for state in sources}
    states = []
    for view in problem.views:
        name = feature_table(problem, view.name)
        past = versions(tables, name, clock)
        newest = tables.newest(name, EVENT) if past and not view.timeless else None
        states.append(ViewState(view, past, newest, by_name, loaded.get(view.name), clock))
    return states


def _text(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="seconds") if moment else None

"""Scheduled flows: whether they run on schedule, succeed, and take no longer than usual."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median
from typing import Any, Literal

from truecourse.monitoring.finding_causes import Cause
from truecourse.monitoring.findings import Finding
from truecourse.monitoring.health.freshness import pipeline_finding
from truecourse.monitoring.robust_stats import is_unusual
from truecourse.wording import format_duration

Outcome = Literal["completed", "failed", "crashed", "cancelled", "running", "waiting"]
GRACE = timedelta(minutes=10)
"""A run may start this late before its flow is overdue."""
EARLY = timedelta(minutes=1)
"""A run may start this early and still count: clocks differ, and workers fetch runs ahead."""
OFTEN = timedelta(hours=1)
"""A single failure of a flow that runs this often is not critical, because it soon runs again."""
SLOWER, SECONDS_MORE = 1.5, 10.0


FEW, BEYOND, LEAST, UNKNOWN = 3, 4.0, 600.0, 6 * 3600.0
"""With at least FEW earlier successes, a run is stuck after BEYOND times the longest of them, and at least LEAST
seconds; with fewer successes, after UNKNOWN seconds."""


def longest_run(past: Sequence[float]) -> float:
    """Return after how many seconds a run is stuck. `past`: the seconds that the flow's successful runs took."""
    return max(BEYOND * max(past), LEAST) if len(past) >= FEW else UNKNOWN


@dataclass(frozen=True)
class Run:
    """A flow run. `seconds`: how long it took, or has been running."""

    outcome: Outcome
    expected: datetime
    started: datetime | None
    seconds: float
    message: str = ""


@dataclass(frozen=True)
class ScheduledFlow:
    """A flow with a schedule.

    `due`: the last scheduled time whose grace period is over. `period`: the time between two runs. `since`: when the
    schedule was created. `runs`: newest first; None without a Prefect server. `workers`: how many could take its runs.
    `serving`: when the platform that runs it was started, if known."""

    name: str
    schedule: str
    due: datetime | None = None
    period: timedelta | None = None
    since: datetime | None = None
    runs: Sequence[Run] | None = None
    workers: int = 0
    serving: datetime | None = None

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs or () if run.outcome in ("completed", "failed", "crashed")]

    @property
    def succeeded(self) -> list[Run]:
        return [run for run in self.runs or () if run.outcome == "completed"]

    def findings(self, now: datetime) -> Iterable[Finding]:
        if self.runs is None:
            return
        if self.overdue(now):
            yield self._overdue(now)
        yield from self._failing()
        yield from self._slow()

    def overdue(self, now: datetime) -> bool:
        """Whether no run started since the last scheduled time, and none is still running that is not stuck.

        A platform that was started less than the grace period ago is not overdue: it is still catching up."""
        if self.serving is not None and now - self.serving < GRACE:
            return False
        if self.due is None or now - self.due < GRACE or (self.since is not None and self.since > self.due):
            return False
        earliest, patience = self.due - EARLY, longest_run([run.seconds for run in self.succeeded])
        return not any(
            (run.started and run.started >= earliest) or (run.outcome == "running" and run.seconds <= patience)
            for run in self.runs or ()
        )

    def _overdue(self, now: datetime) -> Finding:
        assert self.due is not None
        last = (
            f"its last success started {format_duration(now - _start_time(self.succeeded[0]))} ago"
            if self.succeeded
            else "it has never run"
        )
        why = "" if self.workers else "; there is no worker to run it"
        late = format_duration(now - self.due)
        what = f"The flow {self.name} is overdue: it should have started {late} ago, {last}{why}."
        cause: Cause = "overdue" if self.workers else "no worker"
        return pipeline_finding(f"flow {self.name}", cause, True, what, due=self.due.isoformat())

    def _failing(self) -> Iterable[Finding]:
        failed = 0
        while failed < len(self.finished) and self.finished[failed].outcome != "completed":
            failed += 1
        if not failed:
            return
        last = self.finished[0]
        page = failed > 1 or self.period is None or self.period > OFTEN
        times = f" {failed} times in a row" if failed > 1 else ""
        why = f": {_first_line(last.message)}" if last.message else "."
        what = f"The flow {self.name} {last.outcome}{times}, last at {_start_time(last):%Y-%m-%d %H:%M} UTC{why}"
        cause: Cause = "crashed" if last.outcome == "crashed" else "failed"
        yield pipeline_finding(f"flow {self.name}", cause, page, what, times=failed)

    def _slow(self) -> Iterable[Finding]:
        """Check the run in progress, or else the last successful run."""
        current = [run for run in (self.runs or ())[:1] if run.outcome in ("running", "completed")]
        for run in current:
            past = [one.seconds for one in self.succeeded if one is not run]
            if past and run.seconds > median(past) and is_unusual(run.seconds, past, SLOWER, SECONDS_MORE):
                what = "has been running for" if run.outcome == "running" else "took"
                usual = format_duration(median(past))
                message = f"The flow {self.name} {what} {format_duration(run.seconds)}; usually it takes {usual}."
                yield pipeline_finding(
                    f"flow {self.name}", "slow", False, message, seconds=run.seconds, usual=median(past)
                )

    def figures(self, now: datetime) -> dict[str, Any]:
        taken = [run.seconds for run in self.succeeded]
        newest = self.runs[0] if self.runs else None
        return {
            "flow": self.name,
            "schedule": self.schedule,
            "known": self.runs is not None,
            "due": self.due.isoformat() if self.due else None,
            "overdue": self.runs is not None and self.overdue(now),
            "last_success": _start_time(self.succeeded[0]).isoformat() if self.succeeded else None,
            "last": newest.outcome if newest else None,
            "seconds": taken[0] if taken else None,
            "usual_seconds": median(taken) if taken else None,
            "failed": sum(run.outcome != "completed" for run in self.finished),
            "finished": len(self.finished),
        }


def _start_time(run: Run) -> datetime:
    return run.started or run.expected


def _first_line(message: str) -> str:
    first = message.strip().splitlines()[0][:200]
    return first if first.endswith(".") else f"{first}."

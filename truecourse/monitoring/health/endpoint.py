"""Whether the endpoints of a problem keep their objectives, from their own meters."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from truecourse.errors import NotFound
from truecourse.hashing import sha256
from truecourse.monitoring.findings import Finding, Report
from truecourse.monitoring.health.counters import (
    MEASURED_PATHS,
    PROBES,
    UNANSWERED,
    CounterHistory,
    CounterIncrease,
    Reading,
)
from truecourse.monitoring.health.slo import (
    ALERTS,
    Alert,
    RequestCounts,
    budget_left,
    burn_rate,
    count_up_to,
    fires,
    quantile,
)
from truecourse.monitoring.wording import summarize
from truecourse.problem import Problem
from truecourse.problem.objectives import Objectives
from truecourse.storage.object_store import ObjectStore
from truecourse.wording import counted, format_duration

HOUR = timedelta(hours=1)
SHED_SHARE = 0.01
"""Refusals for overload above this share of the last hour's requests are worth knowing."""
MISS_RISE = 0.1
"""So much more of the keys looked up have no fresh value than before: worth knowing."""
LEAST_READS = 200


@dataclass(frozen=True)
class Probe:
    """What one look at an endpoint found. `name`: of its environment, or `local`. `error`: why there is no reading;
    `answers` even so where it answered, and told nothing."""

    name: str
    url: str
    reading: Reading | None
    error: str = ""
    answers: bool = True


def check_endpoint(problem: Problem, store: ObjectStore, looks: Sequence[Probe], at: datetime) -> Report:
    """`looks`: one at every endpoint that should serve the problem at `at` (UTC). Each is added to its endpoint's
    history in the store, which burn rates and budgets come from."""
    findings: list[Finding] = []
    figures: dict[str, Any] = {}
    for look in looks:
        counters = look.reading.counters if look.reading else None
        meters = _history(store, problem, look)
        if counters is not None or not look.answers:
            meters = meters.add(at, counters, problem.serving.objectives.window)
            store.put(_key(problem, look), meters.model_dump_json().encode())
        seen = _Seen(look, meters, at, problem.serving.objectives)
        findings += seen.findings()
        figures[look.name] = seen.figures()
    well = "No endpoint is expected to serve." if not looks else _well(figures)
    return Report(
        check="endpoint",
        problem=problem.name,
        at=at,
        sentence=summarize(findings, well),
        made=any(look.reading is not None or not look.answers for look in looks),
        findings=tuple(findings),
        figures={"endpoints": figures, "objectives": _told(problem.serving.objectives)},
    )


def _key(problem: Problem, look: Probe) -> str:
    return f"health/{problem.name}/endpoint-{look.name}-{sha256(look.url.encode())[:12]}.json"


def _history(store: ObjectStore, problem: Problem, look: Probe) -> CounterHistory:
    try:
        return CounterHistory.model_validate_json(store.get(_key(problem, look)))
    except NotFound:
        return CounterHistory()


def _told(objectives: Objectives) -> dict[str, float]:
    return {
        "availability": objectives.availability,
        "latency_seconds": objectives.latency.total_seconds(),
        "fast": objectives.fast,
        "window_seconds": objectives.window.total_seconds(),
    }


def _well(figures: dict[str, Any]) -> str:
    told = []
    for name, found in figures.items():
        if not any(slo["requests"] for slo in found["objectives"]):
            told.append(f"the endpoint {name} answers; nobody has asked it yet, so its objectives are unknown")
            continue
        left = min(slo["budget_left"] for slo in found["objectives"])
        said = f"the endpoint {name} keeps its objectives, with {left:.0%} of the tighter error budget left and "
        told.append(said + f"{counted(int(found['requests']), 'request')} in the last hour")
    text = "; ".join(told)
    return f"{text[0].upper()}{text[1:]}."


def availability(grown: CounterIncrease, covered: float) -> RequestCounts:
    """Requests, and those that failed by our fault: 5xx, and refused for overload."""
    bad = sum(grown.sum(f"requests:{path}:5xx") for path in MEASURED_PATHS) + grown.sum("refused:overload")
    return RequestCounts(grown.sum(*(f"requests:{path}:" for path in MEASURED_PATHS)), bad, covered)


def latency(grown: CounterIncrease, covered: float, limit: timedelta) -> RequestCounts:
    """Requests, and those that took longer."""
    buckets = grown.buckets()
    total = buckets[-1][1] if buckets else 0.0
    return RequestCounts(total, total - count_up_to(buckets, limit.total_seconds()), covered)


@dataclass(frozen=True)
class _Seen:
    """One endpoint at one moment."""

    look: Probe
    meters: CounterHistory
    at: datetime
    objectives: Objectives

    def findings(self) -> Iterable[Finding]:
        if not self.look.answers:
            what = f"The endpoint {self.look.name} does not answer at {self.look.url}: {self.look.error}."
            yield self._finding("reachability", "no answer", True, what, {"url": self.look.url})
        elif self.look.error:
            what = f"The endpoint {self.look.name} answers, and does not tell its meters: {self.look.error}."
            yield self._finding("meters", "not told", False, what, {"url": self.look.url})
        for name, objective in self._slos():
            yield from self._burning(name, objective)
        yield from self._saturation()
        yield from self._features()
        yield from self._gauges()

    def _finding(self, subject: str, cause: str, page: bool, sentence: str, figures: dict[str, Any]) -> Finding:
        return Finding(
            check="endpoint",
            subject=f"{self.look.name} {subject}",
            cause=cause,
            page=page,
            sentence=sentence,
            figures=figures,
        )

    def _slos(self) -> tuple[tuple[str, float], ...]:
        return ("availability", self.objectives.availability), ("latency", self.objectives.fast)

    def _counted(self, name: str, length: timedelta) -> RequestCounts:
        grown = self.meters.since(self.at, length)
        covered = grown.span / length
        return availability(grown, covered) if name == "availability" else self._slow(grown, covered)

    def _slow(self, grown: CounterIncrease, covered: float) -> RequestCounts:
        return latency(grown, covered, self.objectives.latency)

    def _burning(self, name: str, objective: float) -> Iterable[Finding]:
        """The fastest alert that fires; a budget that is spent, where none does."""
        window = self.objectives.window
        for alert in ALERTS:
            long, short = self._counted(name, alert.long), self._counted(name, alert.short)
            if fires(alert, long, short, objective, window):
                cause = "fast burn" if alert.page else "slow burn"
                figures = {"share": long.share, "burn_rate": burn_rate(long, objective), "requests": long.total}
                yield self._finding(name, cause, alert.page, self._burnt(name, alert, long, objective), figures)
                return
        whole = self._counted(name, window)
        left = budget_left(whole, objective)
        if left < 0 and whole.covered >= 0.1:
            what = f"The endpoint {self.look.name} broke its objective of {name}: {_bad(name, whole)} in "
            what += f"{format_duration(window * min(1.0, whole.covered))}, where {1 - objective:.2g} of them may."
            yield self._finding(name, "budget spent", False, what, {"share": whole.share, "budget_left": left})

    def _burnt(self, name: str, alert: Alert, long: RequestCounts, objective: float) -> str:
        rate = burn_rate(long, objective)
        seen = format_duration(alert.long * min(1.0, long.covered))
        window = self.objectives.window
        pace = f"at this pace a budget of {format_duration(window)} lasts {format_duration(window / rate)}"
        return f"The endpoint {self.look.name} burns its budget of {name}: {_bad(name, long)} in {seen}; {pace}."

    def _saturation(self) -> Iterable[Finding]:
        grown = self.meters.since(self.at, HOUR)
        requests, shed = availability(grown, 1.0).total, grown.sum("refused:overload")
        if requests and shed / requests > SHED_SHARE:
            what = f"The endpoint {self.look.name} is overloaded: it refused {shed / requests:.1%} of "
            what += f"{counted(int(requests), 'request')} in {format_duration(min(HOUR, grown.span))}."
            yield self._finding("saturation", "overload", False, what, {"share": shed / requests})

    def _features(self) -> Iterable[Finding]:
        """Views whose keys have no fresh value much more often in the last hour than before it."""
        now, before = self.meters.since(self.at, HOUR), self.meters.since(self.at, timedelta(days=3))
        for view in _views(now):
            reads, misses = now.sum(f"reads:{view}"), now.sum(f"misses:{view}")
            earlier = before.sum(f"reads:{view}") - reads, before.sum(f"misses:{view}") - misses
            if min(reads, earlier[0]) >= LEAST_READS and misses / reads > earlier[1] / earlier[0] + MISS_RISE:
                what = f"{misses / reads:.0%} of the keys of {view} have no fresh value online, "
                what += f"against {earlier[1] / earlier[0]:.0%} before: is it still loaded?"
                yield self._finding(f"features of {view}", "misses", False, what, {"share": misses / reads})
            failures = now.sum(f"failures:{view}")
            if failures:
                what = f"The online store did not answer {counted(int(failures), 'read')} of {view} in the last hour."
                yield self._finding(f"features of {view}", "no answer", False, what, {"failures": failures})

    def _gauges(self) -> Iterable[Finding]:
        gauges = self.look.reading.gauges if self.look.reading else {}
        for name, value in gauges.items():
            if name.startswith("dependency_up:") and not value:
                dependency = name.partition(":")[2].replace("_", " ")
                what = f"The endpoint {self.look.name} does not reach what it stands on: {dependency}."
                yield self._finding(dependency, "no answer", False, what, {})
        dropped = int(gauges.get("log_dropped", 0))
        if dropped:
            what = f"The endpoint {self.look.name} dropped {counted(dropped, 'record')} of the prediction log."
            yield self._finding("log", "dropped", True, what, {"dropped": dropped})

    def figures(self) -> dict[str, Any]:
        hour, whole = self.meters.since(self.at, HOUR), self.meters.since(self.at, self.objectives.window)
        shed = hour.sum("refused:overload")
        requests = availability(hour, 1.0).total
        return {
            "url": self.look.url,
            "answers": self.look.answers,
            "error": self.look.error,
            "looks": whole.values.get(PROBES, 0.0),
            "silent": whole.values.get(UNANSWERED, 0.0),
            "since": self.meters.began.isoformat() if self.meters.began else None,
            "hour_seconds": hour.span.total_seconds(),
            "requests": requests,
            "shed_share": shed / requests if requests else 0.0,
            "paths": {path: _latencies(hour, path) for path in MEASURED_PATHS},
            "objectives": [self._slo_figures(name, objective) for name, objective in self._slos()],
            "features": {view: _read(hour, view) for view in _views(hour)},
        }

    def _slo_figures(self, name: str, objective: float) -> dict[str, Any]:
        whole = self._counted(name, self.objectives.window)
        lengths = sorted({length for alert in ALERTS for length in (alert.short, alert.long)})
        return {
            "name": name,
            "objective": objective,
            "requests": whole.total,
            "bad": whole.bad,
            "budget_left": budget_left(whole, objective),
            "burn": {format_duration(length): burn_rate(self._counted(name, length), objective) for length in lengths},
        }


def _bad(name: str, counted_: RequestCounts) -> str:
    what = "failed" if name == "availability" else "were too slow"
    return f"{counted_.share:.2%} of {counted(int(counted_.total), 'request')} {what}"


def _views(grown: CounterIncrease) -> list[str]:
    return sorted(name.partition(":")[2] for name in grown.values if name.startswith("reads:"))


def _read(grown: CounterIncrease, view: str) -> dict[str, float]:
    reads = grown.values.get(f"reads:{view}", 0.0)
    return {"reads": reads, "miss_share": grown.values.get(f"misses:{view}", 0.0) / reads if reads else 0.0}


def _latencies(grown: CounterIncrease, path: str) -> dict[str, float | None]:
    buckets = grown.buckets(path)
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    return {"requests": buckets[-1][1] if buckets else 0.0} | {n: quantile(buckets, s) for n, s in shares.items()}

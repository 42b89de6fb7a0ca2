"""The endpoint check: whether a problem's endpoints meet their objectives, from their Prometheus metrics."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from truecourse.errors import NotFound
from truecourse.hashing import sha256
from truecourse.monitoring.finding_causes import Cause
from truecourse.monitoring.findings import Finding, Report, summarize
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
from truecourse.problem import Problem
from truecourse.problem.objectives import Objectives
from truecourse.storage.object_store import ObjectStore
from truecourse.wording import counted, format_duration

HOUR = timedelta(hours=1)
SHED_SHARE = 0.01
"""Share of the last hour's requests refused for overload, above which there is a finding."""
MISS_RISE = 0.1
"""Rise of the share of keys without a fresh value, above which there is a finding."""
LEAST_READS = 200


@dataclass(frozen=True)
class Probe:
    """The result of one scrape of an endpoint. `name`: of its environment, or `local`.

    `error`: why there is no reading. `answers`: whether the endpoint answered, even without metrics."""

    name: str
    url: str
    reading: Reading | None
    error: str = ""
    answers: bool = True


def check_endpoint(problem: Problem, store: ObjectStore, probes: Sequence[Probe], at: datetime) -> Report:
    """Check all endpoints of a problem. `probes`: one of every endpoint that should serve it at `at` (UTC).

    Each probe is added to its endpoint's stored history, from which burn rates and budgets are computed."""
    findings: list[Finding] = []
    figures: dict[str, Any] = {}
    for probe in probes:
        counters = probe.reading.counters if probe.reading else None
        history = _history(store, problem, probe)
        if counters is not None or not probe.answers:
            history = history.add(at, counters, problem.serving.objectives.window)
            store.put(_key(problem, probe), history.model_dump_json().encode())
        state = _EndpointState(probe, history, at, problem.serving.objectives)
        findings += state.findings()
        figures[probe.name] = state.figures()
    summary = "No endpoint is expected to serve." if not probes else _summary(figures)
    return Report(
        check="endpoint",
        problem=problem.name,
        at=at,
        sentence=summarize(findings, summary),
        made=any(probe.reading is not None or not probe.answers for probe in probes),
        findings=tuple(findings),
        figures={"endpoints": figures, "objectives": _objective_figures(problem.serving.objectives)},
    )


def _key(problem: Problem, probe: Probe) -> str:
    return f"health/{problem.name}/endpoint-{probe.name}-{sha256(probe.url.encode())[:12]}.json"


def _history(store: ObjectStore, problem: Problem, probe: Probe) -> CounterHistory:
    try:
        return CounterHistory.model_validate_json(store.get(_key(problem, probe)))
    except NotFound:
        return CounterHistory()


def _objective_figures(objectives: Objectives) -> dict[str, float]:
    return {
        "availability": objectives.availability,
        "latency_seconds": objectives.latency.total_seconds(),
        "fast": objectives.fast,
        "window_seconds": objectives.window.total_seconds(),
    }


def _summary(figures: dict[str, Any]) -> str:
    parts = []
    for name, endpoint in figures.items():
        if not any(slo["requests"] for slo in endpoint["objectives"]):
            parts.append(f"the endpoint {name} answers; it has had no requests, so its objectives are unknown")
            continue
        left = min(slo["budget_left"] for slo in endpoint["objectives"])
        objectives = f"the endpoint {name} meets its objectives, with {left:.0%} of the tighter error budget left and "
        parts.append(objectives + f"{counted(int(endpoint['requests']), 'request')} in the last hour")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def availability(grown: CounterIncrease, covered: float) -> RequestCounts:
    """Count requests, and those that failed on the server's side: status 5xx, or refused for overload."""
    bad = sum(grown.sum(f"requests:{path}:5xx") for path in MEASURED_PATHS) + grown.sum("refused:overload")
    return RequestCounts(grown.sum(*(f"requests:{path}:" for path in MEASURED_PATHS)), bad, covered)


def latency(grown: CounterIncrease, covered: float, limit: timedelta) -> RequestCounts:
    """Count requests, and those slower than `limit`."""
    buckets = grown.buckets()
    total = buckets[-1][1] if buckets else 0.0
    return RequestCounts(total, total - count_up_to(buckets, limit.total_seconds()), covered)


@dataclass(frozen=True)
class _EndpointState:
    """One endpoint at one moment."""

    probe: Probe
    history: CounterHistory
    at: datetime
    objectives: Objectives

    def findings(self) -> Iterable[Finding]:
        if not self.probe.answers:
            what = f"The endpoint {self.probe.name} does not answer at {self.probe.url}: {self.probe.error}."
            yield self._finding("reachability", "no answer", True, what, {"url": self.probe.url})
        elif self.probe.error:
            what = f"The endpoint {self.probe.name} answers, but its metrics cannot be read: {self.probe.error}."
            yield self._finding("metrics", "metrics unreadable", False, what, {"url": self.probe.url})
        for name, objective in self._slos():
            yield from self._burning(name, objective)
        yield from self._saturation()
        yield from self._features()
        yield from self._gauges()

    def _finding(self, subject: str, cause: Cause, page: bool, sentence: str, figures: dict[str, Any]) -> Finding:
        return Finding(
            check="endpoint",
            subject=f"{self.probe.name} {subject}",
            cause=cause,
            page=page,
            sentence=sentence,
            figures=figures,
        )

    def _slos(self) -> tuple[tuple[str, float], ...]:
        return ("availability", self.objectives.availability), ("latency", self.objectives.fast)

    def _counted(self, name: str, length: timedelta) -> RequestCounts:
        grown = self.history.since(self.at, length)
        covered = grown.span / length
        return availability(grown, covered) if name == "availability" else self._slow(grown, covered)

    def _slow(self, grown: CounterIncrease, covered: float) -> RequestCounts:
        return latency(grown, covered, self.objectives.latency)

    def _burning(self, name: str, objective: float) -> Iterable[Finding]:
        """Yield the fastest alert that fires; if none does, a finding when the budget is spent."""
        window = self.objectives.window
        for alert in ALERTS:
            long, short = self._counted(name, alert.long), self._counted(name, alert.short)
            if fires(alert, long, short, objective, window):
                cause: Cause = "fast burn" if alert.page else "slow burn"
                figures = {"share": long.share, "burn_rate": burn_rate(long, objective), "requests": long.total}
                yield self._finding(name, cause, alert.page, self._describe_burn(name, alert, long, objective), figures)
                return
        counts = self._counted(name, window)
        left = budget_left(counts, objective)
        if left < 0 and counts.covered >= 0.1:
            what = f"The endpoint {self.probe.name} missed its objective of {name}: {_describe_bad(name, counts)} in "
            what += f"{format_duration(window * min(1.0, counts.covered))}, {1 - objective:.2%} are allowed."
            yield self._finding(name, "budget spent", False, what, {"share": counts.share, "budget_left": left})

    def _describe_burn(self, name: str, alert: Alert, long: RequestCounts, objective: float) -> str:
        rate = burn_rate(long, objective)
        length = format_duration(alert.long * min(1.0, long.covered))
        window = self.objectives.window
        pace = f"at this pace a budget of {format_duration(window)} lasts {format_duration(window / rate)}"
        return (
            f"The endpoint {self.probe.name} burns its error budget of {name}: "
            f"{_describe_bad(name, long)} in {length}; {pace}."
        )

    def _saturation(self) -> Iterable[Finding]:
        grown = self.history.since(self.at, HOUR)
        requests, shed = availability(grown, 1.0).total, grown.sum("refused:overload")
        if requests and shed / requests > SHED_SHARE:
            what = f"The endpoint {self.probe.name} is overloaded: it refused {shed / requests:.1%} of "
            what += f"{counted(int(requests), 'request')} in {format_duration(min(HOUR, grown.span))}."
            yield self._finding("saturation", "overload", False, what, {"share": shed / requests})

    def _features(self) -> Iterable[Finding]:
        """Find views whose keys lack a fresh value much more often in the last hour than before it."""
        now, before = self.history.since(self.at, HOUR), self.history.since(self.at, timedelta(days=3))
        for view in _views(now):
            reads, misses = now.sum(f"reads:{view}"), now.sum(f"misses:{view}")
            earlier = before.sum(f"reads:{view}") - reads, before.sum(f"misses:{view}") - misses
            if min(reads, earlier[0]) >= LEAST_READS and misses / reads > earlier[1] / earlier[0] + MISS_RISE:
                what = f"{misses / reads:.0%} of the keys of {view} have no fresh value online, "
                what += f"{earlier[1] / earlier[0]:.0%} before: is it still loaded?"
                yield self._finding(f"features of {view}", "misses", False, what, {"share": misses / reads})
            failures = now.sum(f"failures:{view}")
            if failures:
                what = f"The online store did not answer {counted(int(failures), 'read')} of {view} in the last hour."
                yield self._finding(f"features of {view}", "no answer", False, what, {"failures": failures})

    def _gauges(self) -> Iterable[Finding]:
        gauges = self.probe.reading.gauges if self.probe.reading else {}
        for name, value in gauges.items():
            if name.startswith("dependency_up:") and not value:
                dependency = name.partition(":")[2].replace("_", " ")
                what = f"The endpoint {self.probe.name} cannot reach a dependency: {dependency}."
                yield self._finding(dependency, "no answer", False, what, {})
        dropped = int(gauges.get("log_dropped", 0))
        if dropped:
            what = f"The endpoint {self.probe.name} dropped {counted(dropped, 'record')} of the prediction log."
            yield self._finding("log", "dropped", True, what, {"dropped": dropped})

    def figures(self) -> dict[str, Any]:
        hour, window = self.history.since(self.at, HOUR), self.history.since(self.at, self.objectives.window)
        shed = hour.sum("refused:overload")
        requests = availability(hour, 1.0).total
        return {
            "url": self.probe.url,
            "answers": self.probe.answers,
            "error": self.probe.error,
            "looks": window.values.get(PROBES, 0.0),
            "silent": window.values.get(UNANSWERED, 0.0),
            "since": self.history.started.isoformat() if self.history.started else None,
            "hour_seconds": hour.span.total_seconds(),
            "requests": requests,
            "shed_share": shed / requests if requests else 0.0,
            "paths": {path: _latencies(hour, path) for path in MEASURED_PATHS},
            "objectives": [self._slo_figures(name, objective) for name, objective in self._slos()],
            "features": {view: _read(hour, view) for view in _views(hour)},
        }

    def _slo_figures(self, name: str, objective: float) -> dict[str, Any]:
        counts = self._counted(name, self.objectives.window)
        lengths = sorted({length for alert in ALERTS for length in (alert.short, alert.long)})
        return {
            "name": name,
            "objective": objective,
            "requests": counts.total,
            "bad": counts.bad,
            "budget_left": budget_left(counts, objective),
            "burn": {format_duration(length): burn_rate(self._counted(name, length), objective) for length in lengths},
        }


def _describe_bad(name: str, counted_: RequestCounts) -> str:
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

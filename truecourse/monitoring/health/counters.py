"""An endpoint's meters over time: what one scrape of /metrics read, and sums that survive a restart.

A counter begins at zero again with the process that keeps it, so two scrapes far apart say little. What grew between
two neighbours is added up as they come; a window is then a difference of two sums, and old sums can be thinned out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from pydantic import Field

from truecourse.errors import PlatformError
from truecourse.references import Reference

MEASURED_PATHS = ("/predict", "/explain")
"""The paths that objectives are about."""
PROBES, UNANSWERED = "looks", "silent"
"""How often the endpoint was asked for its meters, and how often it did not answer."""
_PREFIX = "truecourse_"
_RESOLUTIONS = (
    (timedelta(hours=1), timedelta(seconds=1)),
    (timedelta(hours=7), timedelta(minutes=4)),
    (timedelta(days=4), timedelta(hours=1)),
)
"""Up to which age sums are kept how close to each other; older ones are _COARSE apart."""
_COARSE = timedelta(hours=6)


@dataclass(frozen=True)
class Reading:
    """One scrape. `counters` by name and labels, "requests:/predict:2xx"; `gauges` by name, or name and label;
    `problem`: what the endpoint serves, empty if it does not say."""

    counters: Mapping[str, float]
    gauges: Mapping[str, float]
    problem: str


_COUNTERS = {
    "requests_total": ("requests", ("path", "status")),
    "request_seconds_bucket": ("seconds", ("path", "le")),
    "refused_total": ("refused", ("reason",)),
    "feature_reads_total": ("reads", ("view",)),
    "feature_misses_total": ("misses", ("view",)),
    "feature_failures_total": ("failures", ("view",)),
}
_GAUGES = {"log_lag_seconds": (), "log_dropped": (), "dependency_up": ("dependency",)}


def parse_metrics(text: str) -> Reading:
    """Our meters of an answer in Prometheus' text format. Raises PlatformError for anything else."""
    from prometheus_client.parser import text_string_to_metric_families

    counters: dict[str, float] = {}
    gauges: dict[str, float] = {}
    problem = ""
    try:
        samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    except ValueError as error:
        raise PlatformError(f"/metrics is not Prometheus' text: {error}") from None
    for sample in samples:
        name, labels = sample.name.removeprefix(_PREFIX), sample.labels
        if name in _COUNTERS and labels.get("path", MEASURED_PATHS[0]) in MEASURED_PATHS:
            short, wanted = _COUNTERS[name]
            counters[":".join([short, *(labels[label] for label in wanted)])] = sample.value
        elif name in _GAUGES:
            gauges[":".join([name, *(labels[label] for label in _GAUGES[name])])] = sample.value
        elif name == "model_info" and sample.value:
            problem = labels["problem"]
    return Reading(counters, gauges, problem)


@dataclass(frozen=True)
class CounterIncrease:
    """What the counters of a window grew by, and how long it really was: shorter where nobody looked so long ago,
    longer where nobody looked at its beginning."""

    values: Mapping[str, float]
    span: timedelta

    def sum(self, *prefixes: str) -> float:
        return sum(value for name, value in self.values.items() if name.startswith(prefixes))

    def buckets(self, path: str | None = None) -> list[tuple[float, float]]:
        """The histogram of the latencies (seconds) of one path, or of all."""
        found: dict[float, float] = {}
        for name, value in self.values.items():
            parts = name.split(":")
            if parts[0] == "seconds" and path in (None, parts[1]):
                found[float(parts[2])] = found.get(float(parts[2]), 0.0) + value
        return sorted(found.items())


class CounterHistory(Reference):
    """The history of one endpoint. `last`: its counters as they were read last. `samples`: the moment (Unix seconds),
    then the sum of each of `names` by then; names that came later were 0 before."""

    last: dict[str, float] = Field(default_factory=dict)
    names: tuple[str, ...] = ()
    samples: tuple[tuple[float, ...], ...] = ()

    def add(self, at: datetime, counters: Mapping[str, float] | None, keep: timedelta) -> Self:
        """The history with one more look at the endpoint; `counters` are None where it did not answer.

        Of the first look only the counters are known, not when they grew: it adds nothing. A look before the newest
        is not added at all. `keep`: how far back sums are kept."""
        if self.samples and at.timestamp() <= self.samples[-1][0]:
            return self
        grown = {} if counters is None else dict(_grown(self.last, counters)) if self.last else {}
        grown |= {PROBES: 1.0} | ({UNANSWERED: 1.0} if counters is None else {})
        names = (*self.names, *(name for name in grown if name not in self.names))
        before = dict(zip(self.names, self.samples[-1][1:], strict=False)) if self.samples else {}
        sums = tuple(before.get(name, 0.0) + grown.get(name, 0.0) for name in names)
        samples = _thinned((*self.samples, (at.timestamp(), *sums)), at, keep)
        last = self.last if counters is None else dict(counters)
        return self.model_copy(update={"last": last, "names": names, "samples": samples})

    def since(self, at: datetime, length: timedelta) -> CounterIncrease:
        """What grew from `length` before `at` on, at the newest look until `at`."""
        seen = [sample for sample in self.samples if sample[0] <= at.timestamp()]
        if not seen:
            return CounterIncrease({}, timedelta(0))
        begin = (at - length).timestamp()
        first = max((sample for sample in seen if sample[0] <= begin), default=seen[0])
        ends = [dict(zip(self.names, sample[1:], strict=False)) for sample in (first, seen[-1])]
        values = {name: ends[1].get(name, 0.0) - ends[0].get(name, 0.0) for name in self.names}
        return CounterIncrease(values, timedelta(seconds=seen[-1][0] - first[0]))

    @property
    def began(self) -> datetime | None:
        return datetime.fromtimestamp(self.samples[0][0], UTC) if self.samples else None


def _grown(before: Mapping[str, float], now: Mapping[str, float]) -> Mapping[str, float]:
    """Where any counter fell, the process is another one, and all of them began at zero since."""
    if any(now.get(name, 0.0) < value for name, value in before.items()):
        return now
    return {name: value - before.get(name, 0.0) for name, value in now.items()}


def _thinned(samples: tuple[tuple[float, ...], ...], at: datetime, keep: timedelta) -> tuple[tuple[float, ...], ...]:
    """The first sum of each stretch of time, stretches being longer the older they are, and the newest."""
    kept: dict[tuple[float, int], tuple[float, ...]] = {}
    for sample in samples[:-1]:
        age = timedelta(seconds=at.timestamp() - sample[0])
        if age <= keep + _COARSE:
            step = next((step for most, step in _RESOLUTIONS if age <= most), _COARSE).total_seconds()
            kept.setdefault((step, int(sample[0] // step)), sample)
    return (*kept.values(), samples[-1])

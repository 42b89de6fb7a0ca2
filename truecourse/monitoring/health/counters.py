"""The history of an endpoint's Prometheus counters: scrapes of /metrics, added up to sums that survive restarts.

A counter restarts at zero with its process, so two scrapes far apart cannot be subtracted. The increases between
neighbouring scrapes are added up as they come. The increase over a window is then the difference of two sums, and old
sums can be thinned out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from pydantic import Field

from truecourse.errors import PlatformError
from truecourse.references import StoredRecord

MEASURED_PATHS = ("/predict", "/explain")
"""The paths that the objectives cover."""
PROBES, UNANSWERED = "looks", "silent"
"""Counters of scrapes, and of scrapes without an answer."""
_PREFIX = "truecourse_"
_RESOLUTIONS = (
    (timedelta(hours=1), timedelta(seconds=1)),
    (timedelta(hours=7), timedelta(minutes=4)),
    (timedelta(days=4), timedelta(hours=1)),
)
"""(age, distance): sums up to this age are kept this far apart; older ones are _COARSE apart."""
_COARSE = timedelta(hours=6)


@dataclass(frozen=True)
class Reading:
    """One scrape. `counters`: by name and labels ("requests:/predict:2xx"). `gauges`: by name, or name and label.

    `problem`: that the endpoint serves; empty if /metrics does not have it."""

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
    """Read Truecourse's metrics from Prometheus' text format. Raises PlatformError for any other text."""
    from prometheus_client.parser import text_string_to_metric_families

    counters: dict[str, float] = {}
    gauges: dict[str, float] = {}
    problem = ""
    try:
        samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    except ValueError as error:
        raise PlatformError(f"/metrics is not in Prometheus' text format: {error}") from None
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
    """The increases of the counters over a window, and the time between the scrapes used.

    `span` is shorter than the window if the history is, and longer if there was no scrape at its start."""

    values: Mapping[str, float]
    span: timedelta

    def sum(self, *prefixes: str) -> float:
        return sum(value for name, value in self.values.items() if name.startswith(prefixes))

    def buckets(self, path: str | None = None) -> list[tuple[float, float]]:
        """Return the latency histogram (upper bound in seconds, count) of one path, or of all."""
        counts: dict[float, float] = {}
        for name, value in self.values.items():
            parts = name.split(":")
            if parts[0] == "seconds" and path in (None, parts[1]):
                counts[float(parts[2])] = counts.get(float(parts[2]), 0.0) + value
        return sorted(counts.items())


class CounterHistory(StoredRecord):
    """The history of one endpoint. `last`: the counters of its last scrape.

    `samples`: (time in Unix seconds, then the sum of each of `names` by that time). Names that were added later were 0
    before."""

    last: dict[str, float] = Field(default_factory=dict)
    names: tuple[str, ...] = ()
    samples: tuple[tuple[float, ...], ...] = ()

    def add(self, at: datetime, counters: Mapping[str, float] | None, keep: timedelta) -> Self:
        """Return the history with one more scrape. `counters`: None if the endpoint did not answer.

        The first scrape adds no increase, because it does not show when the counters grew. A scrape that is older than
        the newest sample is ignored. `keep`: how far back sums are kept."""
        if self.samples and at.timestamp() <= self.samples[-1][0]:
            return self
        grown = {} if counters is None else dict(_increases(self.last, counters)) if self.last else {}
        grown |= {PROBES: 1.0} | ({UNANSWERED: 1.0} if counters is None else {})
        names = (*self.names, *(name for name in grown if name not in self.names))
        before = dict(zip(self.names, self.samples[-1][1:], strict=False)) if self.samples else {}
        sums = tuple(before.get(name, 0.0) + grown.get(name, 0.0) for name in names)
        samples = _thin_out((*self.samples, (at.timestamp(), *sums)), at, keep)
        last = self.last if counters is None else dict(counters)
        return self.model_copy(update={"last": last, "names": names, "samples": samples})

    def since(self, at: datetime, length: timedelta) -> CounterIncrease:
        """Return the increases in the window of `length` up to `at`, by the newest scrape until `at`."""
        past = [sample for sample in self.samples if sample[0] <= at.timestamp()]
        if not past:
            return CounterIncrease({}, timedelta(0))
        begin = (at - length).timestamp()
        first = max((sample for sample in past if sample[0] <= begin), default=past[0])
        ends = [dict(zip(self.names, sample[1:], strict=False)) for sample in (first, past[-1])]
        values = {name: ends[1].get(name, 0.0) - ends[0].get(name, 0.0) for name in self.names}
        return CounterIncrease(values, timedelta(seconds=past[-1][0] - first[0]))

    @property
    def started(self) -> datetime | None:
        return datetime.fromtimestamp(self.samples[0][0], UTC) if self.samples else None


def _increases(before: Mapping[str, float], now: Mapping[str, float]) -> Mapping[str, float]:
    """Return the increases between two scrapes. If any counter fell, the process restarted and all started at zero."""
    if any(now.get(name, 0.0) < value for name, value in before.items()):
        return now
    return {name: value - before.get(name, 0.0) for name, value in now.items()}


def _thin_out(samples: tuple[tuple[float, ...], ...], at: datetime, keep: timedelta) -> tuple[tuple[float, ...], ...]:
    """Keep the first sum of each interval, with longer intervals for older sums, and the newest sum."""
    kept: dict[tuple[float, int], tuple[float, ...]] = {}
    for sample in samples[:-1]:
        age = timedelta(seconds=at.timestamp() - sample[0])
        if age <= keep + _COARSE:
            step = next((step for most, step in _RESOLUTIONS if age <= most), _COARSE).total_seconds()
            kept.setdefault((step, int(sample[0] // step)), sample)
    return (*kept.values(), samples[-1])

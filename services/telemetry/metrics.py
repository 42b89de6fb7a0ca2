"""What Prometheus is told, of all workers together. Every label has few values: an unknown path is `other`.

Bento's own request metrics are off: they label by whatever path a client sends, so that a scan fills the memory.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from truecourse.settings import multiprocess_folder

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
AGES = (1, 10, 60, 600, 3600, 6 * 3600, 86400, 7 * 86400, 30 * 86400)
CHALLENGERS = ("challenger", "shadow")
REASONS = (
    "unauthenticated", "forbidden", "anonymous", "keys", "rate", "overload", "timeout", "hidden", "connections",
    "header", "malformed",
)  # fmt: skip
TOGETHER = 256
"""So many numbers are kept until the meters are moved: each by itself is a write into a file that workers share."""


class Metrics:
    """The meters of this worker process. prometheus_client keeps them in files that all workers' answers are added
    up from, as long as PROMETHEUS_MULTIPROC_DIR is set, which Bento does."""

    def __init__(self, paths: Iterable[str], registry: CollectorRegistry | None = None) -> None:
        self._paths = frozenset(paths)
        self._registry = registry or CollectorRegistry()
        self._labelled: dict[tuple[Any, ...], Any] = {}
        self._views: dict[str, tuple[Counter, Counter, Histogram]] = {}
        self._kept: deque[tuple[Any, float]] = deque()
        kept: dict[str, Any] = {"registry": self._registry, "namespace": "truecourse"}
        latest: dict[str, Any] = kept | {"multiprocess_mode": "livemax"}
        self.requests = Counter("requests", "requests answered", ["path", "status"], **kept)
        self.latency = Histogram("request_seconds", "from header to answer", ["path"], buckets=SECONDS, **kept)
        self.rows = Counter("rows", "rows that kept the contract", ["path"], **kept)
        self.refused = Counter("refused", "requests refused before they were read", ["reason"], **kept)
        self.reads = Counter("feature_reads", "keys looked up", ["view"], **kept)
        self.misses = Counter("feature_misses", "keys that had no value fresh enough", ["view"], **kept)
        self.age = Histogram(
            "feature_age_seconds", "age of the oldest value of a request", ["view"], buckets=AGES, **kept
        )
        self.failures = Counter("feature_failures", "reads that the online store did not answer", ["view"], **kept)
        self.challenged = Counter("challenger_failures", "requests that it raised on", ["role"], **kept)
        self.model = Gauge("model_info", "1 for the version that answers", ["problem", "version", "sha256"], **latest)
        self.log_lag = Gauge("log_lag_seconds", "age of the oldest record not yet shipped", **latest)
        self.log_dropped = Gauge("log_dropped", "records dropped since the worker began", **latest)
        self.up = Gauge("dependency_up", "1 if it answered when last asked", ["dependency"], **latest)
        for reason in REASONS:  # a rate needs a zero to start from
            self.refused.labels(reason)
        for role in CHALLENGERS:
            self.challenged.labels(role)

    def count_request(self, path: str, status: int, seconds: float) -> None:
        label = path if path in self._paths else "other"
        self._keep(self.requests, 1, label, f"{status // 100}xx")
        self._keep(self.latency, seconds, label)

    def count_refusal(self, reason: str) -> None:
        self._keep(self.refused, 1, reason)

    def count_rows(self, path: str, rows: int) -> None:
        self._keep(self.rows, rows, path)

    def record_lookup(self, view: str, keys: int, missed: int, oldest: float | None) -> None:
        """So many keys of a view, of which so many had no value fresh enough. `oldest`: of those that had, seconds."""
        found = self._views.get(view)
        if found is None:
            meters = self.reads.labels(view), self.misses.labels(view), self.age.labels(view)
            found = self._views.setdefault(view, meters)
        reads, misses, age = found
        self._kept.append((reads, keys))
        if missed:
            self._kept.append((misses, missed))
        if oldest is not None:
            self._kept.append((age, oldest))

    def _keep(self, meter: Counter | Histogram, number: float, *labels: str) -> None:
        key = (meter, *labels)
        found = self._labelled.get(key)
        if found is None:
            found = self._labelled[key] = meter.labels(*labels)
        self._kept.append((found, number))
        if len(self._kept) >= TOGETHER:
            self.flush()

    def flush(self) -> None:
        """Move the meters by what was kept; to be called every few seconds, from any thread."""
        sums: dict[Any, float] = {}
        with suppress(IndexError):
            while True:
                meter, number = self._kept.popleft()
                if meter.__class__ is Histogram:  # isinstance() asks its metaclass, at ten times the cost
                    meter.observe(number)
                else:
                    sums[meter] = sums.get(meter, 0) + number
        for meter, number in sums.items():
            meter.inc(number)

    def record_unavailable(self, views: Iterable[str]) -> None:
        """The online store did not answer for these views."""
        for view in views:
            self.failures.labels(view).inc()

    def count_challenger_failure(self, role: str) -> None:
        """The challenger raised: where it was to answer, or as a shadow. The champion answered."""
        if role in CHALLENGERS:
            self.challenged.labels(role).inc()

    def exposition(self) -> bytes:
        """All workers' meters in Prometheus' text format; what the others keep is not in it yet."""
        self.flush()
        folder = multiprocess_folder()
        if folder is None:
            return generate_latest(self._registry)
        _bury(folder)
        everything = CollectorRegistry()
        everything.register(_Ours(folder))
        return generate_latest(everything)


class _Ours(Collector):
    """Of all workers' meters ours: Feast, imported, adds dozens of its own that nobody moves."""

    def __init__(self, folder: Path) -> None:
        self._all = multiprocess.MultiProcessCollector(None, str(folder))  # type: ignore[no-untyped-call]

    def collect(self) -> Iterator[Metric]:
        for metric in self._all.collect():  # type: ignore[no-untyped-call]
            if metric.name.startswith("truecourse_"):
                # The format wants a histogram's buckets first; they come last.
                metric.samples.sort(key=lambda sample: not sample.name.endswith("_bucket"))
                yield metric


def _bury(folder: Path) -> None:
    """Forget the gauges of workers that were killed: nobody else does."""
    for file in folder.glob("gauge_live*_*.db"):
        found = re.search(r"_(\d+)\.db$", file.name)
        if found and not Path("/proc", found[1]).exists() and Path("/proc").is_dir():
            file.unlink(missing_ok=True)

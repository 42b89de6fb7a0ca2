"""Prometheus metrics of all workers. Every label has few values: an unknown path is `other`.

BentoML's own request metrics are off: they label by any path that a client sends, so a scan would fill the memory.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.compat import prometheus_files
from truecourse.settings import multiprocess_folder

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
AGES = (1, 10, 60, 600, 3600, 6 * 3600, 86400, 7 * 86400, 30 * 86400)
CHALLENGERS = ("challenger", "shadow")
REASONS: Mapping[str, str] = {
    "unauthenticated": "the key is missing or not valid",
    "forbidden": "the key lacks the scope",
    "anonymous": "an endpoint without keys was called from another machine",
    "keys": "the keys are not loaded yet",
    "rate": "the caller exceeded its rate limit",
    "overload": "the request would have waited too long",
    "timeout": "the header did not arrive in time",
    "hidden": "the metrics are switched off",
    "connections": "there were too many open connections",
    "header": "the header is too long",
    "malformed": "the request is not HTTP",
}
"""Why a request is refused before its body is read."""
LABELS: Mapping[str, str] = {
    "path": "path of the request; other for a path that the endpoint does not have",
    "status": "class of the response's status, such as 2xx",
    "reason": "why the request was refused",
    "view": "name of the feature view",
    "role": "challenger, or shadow for one that is evaluated beside the champion",
    "problem": "name of the problem",
    "version": "number of the version in the registry",
    "sha256": "digest of the model",
    "dependency": "storage, keys, online_store or prediction_log",
}
"""What each label holds."""
FLUSH_AT = 256
"""Increments that are buffered before they are added to the metrics: each addition writes to a shared file."""


class Metrics:
    """The metrics of this worker process. With PROMETHEUS_MULTIPROC_DIR, which BentoML sets, prometheus_client keeps
    them in files, from which all workers' values are added up."""

    def __init__(self, paths: Iterable[str], registry: CollectorRegistry | None = None) -> None:
        self._paths = frozenset(paths)
        self.registry = registry or CollectorRegistry()
        self._labelled: dict[tuple[Any, ...], Any] = {}
        self._views: dict[str, tuple[Counter, Counter, Histogram]] = {}
        self._buffer: deque[tuple[Any, float]] = deque()
        options: dict[str, Any] = {"registry": self.registry, "namespace": "truecourse"}
        latest: dict[str, Any] = options | {"multiprocess_mode": "livemax"}
        self.requests = Counter("requests", "requests that got a response", ["path", "status"], **options)
        self.latency = Histogram(
            "request_seconds", "seconds from header to response", ["path"], buckets=SECONDS, **options
        )
        self.rows = Counter("rows", "valid rows in requests", ["path"], **options)
        self.refused = Counter("refused", "requests refused before they were read", ["reason"], **options)
        self.reads = Counter("feature_reads", "keys looked up in the online store", ["view"], **options)
        self.misses = Counter("feature_misses", "keys without a value, or with one past its ttl", ["view"], **options)
        self.age = Histogram(
            "feature_age_seconds",
            "age in seconds of the oldest value of a request at its decision",
            ["view"],
            buckets=AGES,
            **options,
        )
        self.failures = Counter("feature_failures", "failed reads of the online store", ["view"], **options)
        self.challenged = Counter(
            "challenger_failures", "requests on which the challenger failed; the champion answered", ["role"], **options
        )
        self.model = Gauge("model_info", "1 for each model in use", ["problem", "version", "sha256"], **latest)
        self.log_lag = Gauge(
            "log_lag_seconds", "age in seconds of the oldest log record that is not shipped yet", **latest
        )
        self.log_dropped = Gauge("log_dropped", "log records dropped since the worker started", **latest)
        self.up = Gauge(
            "dependency_up", "1 if the dependency answered the last check, else 0", ["dependency"], **latest
        )
        for reason in REASONS:  # so that rates start from zero
            self.refused.labels(reason)
        for role in CHALLENGERS:
            self.challenged.labels(role)

    def count_request(self, path: str, status: int, seconds: float) -> None:
        label = path if path in self._paths else "other"
        self._add(self.requests, 1, label, f"{status // 100}xx")
        self._add(self.latency, seconds, label)

    def count_refusal(self, reason: str) -> None:
        self._add(self.refused, 1, reason)

    def count_rows(self, path: str, rows: int) -> None:
        self._add(self.rows, rows, path)

    def record_lookup(self, view: str, keys: int, missed: int, oldest: float | None) -> None:
        """Count a read of a view: `keys` looked up, `missed` without a fresh value. `oldest`: age of the oldest value
        in seconds."""
        found = self._views.get(view)
        if found is None:
            metrics = self.reads.labels(view), self.misses.labels(view), self.age.labels(view)
            found = self._views.setdefault(view, metrics)
        reads, misses, age = found
        self._buffer.append((reads, keys))
        if missed:
            self._buffer.append((misses, missed))
        if oldest is not None:
            self._buffer.append((age, oldest))

    def _add(self, metric: Counter | Histogram, number: float, *labels: str) -> None:
        key = (metric, *labels)
        found = self._labelled.get(key)
        if found is None:
            found = self._labelled[key] = metric.labels(*labels)
        self._buffer.append((found, number))
        if len(self._buffer) >= FLUSH_AT:
            self.flush()

    def flush(self) -> None:
        """Add the buffered increments to the metrics; called every few seconds, from any thread."""
        sums: dict[Any, float] = {}
        with suppress(IndexError):
            while True:
                metric, number = self._buffer.popleft()
                if metric.__class__ is Histogram:  # isinstance() is ten times slower: it calls the metaclass
                    metric.observe(number)
                else:
                    sums[metric] = sums.get(metric, 0) + number
        for metric, number in sums.items():
            metric.inc(number)

    def record_unavailable(self, views: Iterable[str]) -> None:
        """Count a failed read of these views."""
        for view in views:
            self.failures.labels(view).inc()

    def count_challenger_failure(self, role: str) -> None:
        """Count a failure of the challenger, or of the shadow; the champion answered instead."""
        if role in CHALLENGERS:
            self.challenged.labels(role).inc()

    def exposition(self) -> bytes:
        """All workers' metrics in Prometheus' text format, without what other workers have buffered."""
        self.flush()
        folder = multiprocess_folder()
        if folder is None:
            return generate_latest(self.registry)
        prometheus_files.remove_dead_gauges(folder)
        registry = CollectorRegistry()
        registry.register(_OwnMetrics(folder))
        return generate_latest(registry)


class _OwnMetrics(Collector):
    """Our metrics of all workers: importing Feast adds dozens that are never used."""

    def __init__(self, folder: Path) -> None:
        self._all = prometheus_files.collector(folder)

    def collect(self) -> Iterator[Metric]:
        for metric in self._all.collect():
            if metric.name.startswith("truecourse_"):
                # The format requires a histogram's buckets first.
                metric.samples.sort(key=lambda sample: not sample.name.endswith("_bucket"))
                yield metric

"""Buffered metrics: no count is lost or counted twice."""

import threading

import pytest
from prometheus_client import CollectorRegistry

from services.telemetry.prometheus_metrics import FLUSH_AT, Metrics


def sample_value(registry: CollectorRegistry, name: str, **labels: str) -> float:
    return registry.get_sample_value(f"truecourse_{name}", labels) or 0


def test_counts_of_many_threads_add_up() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(["/predict"], registry)
    before = sample_value(registry, "requests_total", path="/predict", status="2xx")
    rounds = 10 * FLUSH_AT + 7

    def worker() -> None:
        for i in range(rounds):
            metrics.count_request("/predict", 200, 0.001)
            metrics.record_lookup("a view", 2, i % 2, 5.0)
            if i % 50 == 0:
                metrics.flush()

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    metrics.flush()
    metrics.flush()
    assert sample_value(registry, "requests_total", path="/predict", status="2xx") - before == 4 * rounds
    assert sample_value(registry, "feature_reads_total", view="a view") == 8 * rounds
    assert sample_value(registry, "feature_misses_total", view="a view") == 4 * (rounds // 2)
    assert sample_value(registry, "request_seconds_count", path="/predict") == 4 * rounds
    assert sample_value(registry, "feature_age_seconds_sum", view="a view") == 20 * rounds


def test_buffered_counts_are_flushed_when_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "services.telemetry.prometheus_metrics.multiprocess_folder", lambda: None
    )  # another test's server may have one
    registry = CollectorRegistry()
    metrics = Metrics(["/explain"], registry)
    for _ in range(3):
        metrics.count_request("/explain", 422, 0.001)
    before = sample_value(registry, "requests_total", path="/explain", status="4xx")
    metrics.exposition()
    assert sample_value(registry, "requests_total", path="/explain", status="4xx") == before + 3

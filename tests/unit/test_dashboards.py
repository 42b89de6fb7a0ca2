"""Prometheus rules and the Grafana dashboard use series that the service exports."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from services.telemetry.prometheus_metrics import REASONS, Metrics
from tests.conftest import REPOSITORY

RULES = REPOSITORY / "deployments" / "prometheus" / "rules.yml"
DASHBOARD = REPOSITORY / "deployments" / "grafana" / "endpoints.json"
SELECTOR = re.compile(r"(truecourse_\w+)(?:\{([^}]*)\})?")


@pytest.fixture(scope="module")
def exported() -> dict[str, dict[str, set[str]]]:
    """All samples of a service that has counted everything once: labels and their values."""
    registry = CollectorRegistry()
    metrics = Metrics(["/predict", "/explain"], registry)
    for path in ("/predict", "/explain"):
        metrics.count_request(path, 503, 0.1)
        metrics.rows.labels(path).inc()
    metrics.flush()
    metrics.record_unavailable(["a view"])
    for counter in (metrics.reads, metrics.misses):
        counter.labels("a view").inc()
    metrics.age.labels("a view").observe(1)
    metrics.model.labels("deliveries", "1", "abc").set(1)
    metrics.up.labels("storage").set(1)
    samples: dict[str, dict[str, set[str]]] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            for name, value in sample.labels.items():
                samples.setdefault(sample.name, {}).setdefault(name, set()).add(value)
            samples.setdefault(sample.name, {})
    return samples


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in rules())
    yield from (target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel["targets"])


def test_every_queried_series_and_label_exists(exported: dict[str, dict[str, set[str]]]) -> None:
    asked = {(name, chosen) for expr in expressions() for name, chosen in SELECTOR.findall(expr)}
    assert len(asked) > 20
    for name, chosen in asked:
        assert name in exported, name
        for label, how, value in re.findall(r'(\w+)(=~|=)"([^"]*)"', chosen):
            if label == "job":
                continue  # Prometheus adds it
            assert label in exported[name], (name, label)
            wanted = value.split("|") if how == "=~" else [value]
            assert set(wanted) <= exported[name][label] | set(REASONS), (name, label, value)
    for expr in expressions():
        for labels in re.findall(r"by \(([^)]*)\)", expr):
            series = SELECTOR.findall(expr)
            known = {label for name, _ in series for label in exported[name]} | {"job"}
            assert {label.strip() for label in labels.split(",")} <= known, expr


def test_alerts_use_recorded_series_and_brackets_match() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    asked = {name for rule in rules() for name in re.findall(r"truecourse:[\w:]+", rule["expr"])}
    assert asked == recorded
    for expr in expressions():
        assert all(expr.count(a) == expr.count(b) for a, b in ("()", "[]", "{}")), expr
    alerts = [rule for rule in rules() if "alert" in rule]
    assert all(rule["labels"]["severity"] in ("page", "ticket") and rule["annotations"]["summary"] for rule in alerts)


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        wide, high = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        cells = {(x, y) for x in wide for y in high}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells

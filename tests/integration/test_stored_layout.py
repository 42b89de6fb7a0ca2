"""The page on the stored layout describes every kind of path that a real home has."""

from pathlib import Path

from tests.integration.conftest import Endpoint, Trained
from tests.stored_layout import PAGE, described, matches, patterns_of

ROW = {
    "courier": "c07", "depot": "north", "promised": 45, "distance": 6.5, "decision_time": "2024-03-01T18:00:00Z",
}  # fmt: skip
ELSEWHERE = {
    "tuning/<problem>/<snapshot>.json", "tuning/<problem>-<digest>.db",  # the problem declares no search
    "models/<problem>/tries/<version>/",  # there is one version
    "manifests/<environment>/<problem>/<version>/<file>", "deployments/<environment>/<problem>/<number>.json",
    "deployments/<environment>/", "keys/<number>.json", "rejected/<problem>/",
    "checked/<problem>/drift.json", "health/<problem>/endpoint-<name>-<digest>.json",
    "areas/<area>.json",  # the problem uses no feature area
    "backup/format-1/",  # nothing was migrated
    "forgotten/entries/<number>.json", "forgotten/salt", "forgotten/open/<hash>.json",
    "forgotten/objects/",  # no subject was forgotten
    "alarms/<problem>.json", "alarms/<problem>/<number>.json",  # the only alarm may be one of a busy machine
    "endpoints/<port>.json", "flow-deployments.json", "flowruns/<run>", "up.json",  # `truecourse up` does not run
    "openlineage/pending/<time>.json", "openlineage/refused/<time>.json", "openlineage/outage.json",
    "openlineage/lock",  # lineage events are off
    "reports/explore-<name>.html", "reports/explore-<name>.json",  # nothing was explored
    "calibration.json", "replay/<problem>/", "benchmarks/<name>.json", "logs/", "tmp/",
    "prefect/",  # the tests' Prefect server has its own home
    "tables/<problem>/quarantine/<table>/", "predictions_log/<problem>/",  # no row is faulty; the log may still be open
}  # fmt: skip
"""Paths that this home need not have."""


def test_every_path_is_described(endpoint: Endpoint, trained: Trained) -> None:
    from flows.health import health
    from flows.monitor import monitor
    from flows.score import score
    from flows.ship import ship

    endpoint.answers("/predict", ROW)
    for flow in (ship, score, monitor, health):
        flow("deliveries")
    seen = patterns_of(trained.home)
    assert not [file for file, patterns in seen.items() if not patterns]
    assert {*described("Storage root"), *described("Home")} - set().union(*seen.values()) <= {*ELSEWHERE, "storage/"}


def test_a_path_matches_only_its_own_kind() -> None:
    assert matches("models/<problem>/newest", "models/shops/newest")
    assert matches("logs/", "logs/a/b.log")
    assert matches("bentos/<problem>/<version>-<digest>.bento", "bentos/shops/1-0a.bento")
    assert not matches("models/<problem>/newest", "models/shops/runs/newest")
    assert not matches("mlflow.db", "mlflowxdb")


def test_the_page_is_read_whole() -> None:
    assert len(described("Storage root")) > 30
    assert "aliases/<problem>/<number>.json" in described("Storage root")
    assert "mlflow.db" in described("Home")
    assert Path(PAGE).is_file()

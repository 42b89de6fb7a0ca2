"""The whole lifecycle with everything in S3, on a real server that checks credentials."""

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.ingest import ingest
from flows.lifecycle import lifecycle
from tasks.training.trace import trace_model, trace_prediction
from tests import simulated_deliveries
from tests.conftest import S3Server, existing
from truecourse.errors import AccessDenied
from truecourse.registry import versions as registry
from truecourse.storage.delta_tables import Tables
from truecourse.storage.object_store import open_store


def test_the_lifecycle_runs_on_s3(
    tmp_path: Path, home: Path, configure: Callable[..., None], seaweed: S3Server, prefect_server: str
) -> None:
    simulated_deliveries.install(tmp_path)
    configure(problems=tmp_path, problem="deliveries", **seaweed.settings(f"life-{uuid.uuid4().hex[:8]}"))
    summary = lifecycle()
    assert summary["champion"] is not None
    keys = list(open_store().list(""))
    for place in ("tables/", "features/", "snapshots/", "bentos/", "predictions/", "reports/", "mlflow/"):
        assert any(key.startswith(place) for key in keys), place
    assert not (home / "storage").exists()
    assert len(Tables().read(summary["score"])) > 0
    links = trace_model("deliveries", existing(registry.champion("deliveries")).version)["links"]
    assert links
    assert all(link["verified"] for link in links)
    _trace_a_prediction(Tables().read(summary["score"], ["id"])["id"][0].as_py())


def _trace_a_prediction(id: str) -> None:
    traced = trace_prediction("deliveries", id)
    assert traced["verified"], [link for link in traced["links"] if not link["verified"]]
    store, file = open_store(), traced["prediction"]["file"]
    kept = store.get(file)
    store.put(file, kept.replace(b"parquet-rs", b"parquet-RS"))  # in the footer: the rows stay readable
    broken = [link["link"] for link in trace_prediction("deliveries", id)["links"] if not link["verified"]]
    assert broken == ["prediction file"]
    store.put(file, kept)


def test_bad_credentials_are_refused_with_a_hint(
    tmp_path: Path, home: Path, configure: Callable[..., None], seaweed: S3Server, prefect_server: str
) -> None:
    simulated_deliveries.install(tmp_path)
    settings = seaweed.settings("denied") | {"s3_secret_access_key": "wrong"}
    configure(problems=tmp_path, problem="deliveries", **settings)
    with pytest.raises(AccessDenied, match="TRUECOURSE_S3_ACCESS_KEY_ID"):
        ingest()

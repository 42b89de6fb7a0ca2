"""Which endpoints are expected to answer: running ones and dead ones, but not stopped ones."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.process.scrape import scrape_endpoint
from tests.conftest import free_ports
from truecourse.deployment import deployment_history as deployments
from truecourse.deployment.deployment_history import RunningServer
from truecourse.deployment.endpoints import ExpectedEndpoint, announce_endpoint, expected_endpoints
from truecourse.errors import PlatformError
from truecourse.references import ArtifactRef, ModelVersion

LOCAL = ExpectedEndpoint(name="local", url="http://127.0.0.1:3000", problem="deliveries")


def test_a_stopped_endpoint_is_not_expected_and_a_dead_one_is(home: Path) -> None:
    assert expected_endpoints("deliveries") == []
    with announce_endpoint("deliveries", LOCAL.url):
        assert expected_endpoints("deliveries") == [LOCAL]
        assert expected_endpoints("wine") == []
    assert expected_endpoints("deliveries") == []
    with pytest.raises(KeyboardInterrupt), announce_endpoint("deliveries", LOCAL.url):
        raise KeyboardInterrupt
    assert expected_endpoints("deliveries") == []
    with pytest.raises(PlatformError), announce_endpoint("deliveries", LOCAL.url):
        raise PlatformError("ended with status -9")
    assert expected_endpoints("deliveries") == [LOCAL]


def test_deployed_and_configured_endpoints_are_expected(home: Path, configure: Callable[..., None]) -> None:
    configure(endpoints="https://a.example.com, http://b.example.com:3000/")
    version = ModelVersion(problem="deliveries", version=1, run_id="r", model_sha256="s")
    bento = ArtifactRef(key="k", sha256="s", bytes=1)
    (home / "deployments" / "dev").mkdir(parents=True)
    running = RunningServer(
        server=1, version=version, bento=bento, config_sha256="c", host="127.0.0.1", port=3100, folder=home,
        since=datetime(2024, 5, 6, tzinfo=UTC),
    )  # fmt: skip
    deployments.record_running_server("dev", running)
    found = {one.name: one.url for one in expected_endpoints("deliveries")}
    assert found == {
        "dev": "http://127.0.0.1:3100",
        "a.example.com": "https://a.example.com",
        "b.example.com-3000": "http://b.example.com:3000",
    }
    assert "dev" not in {one.name for one in expected_endpoints("wine")}


def test_an_endpoint_that_is_not_running_does_not_answer() -> None:
    (port,) = free_ports(1)
    found = scrape_endpoint(LOCAL.model_copy(update={"url": f"http://127.0.0.1:{port}"}))
    assert (found.reading, found.answers, found.error) == (None, False, "Connection refused")

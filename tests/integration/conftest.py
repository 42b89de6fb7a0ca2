"""The deliveries problem, trained and served once for all tests that change neither; and fixtures of several files."""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.process import endpoint_process
from tests import simulated_deliveries, stored_layout, traced_home
from tests.bentos import build_variant
from tests.conftest import free_ports, stop
from tests.monitored_champion import trained_champion
from tests.one_table import World
from tests.workers import MakeVersion
from truecourse.references import ModelVersion
from truecourse.registry import versions as registry
from truecourse.settings import get_settings


@dataclass(frozen=True)
class Trained:
    home: Path
    problems: Path
    version: ModelVersion


@pytest.fixture(scope="session")
def _trained(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> Iterator[Trained]:
    from flows.ingest import ingest
    from flows.materialize import materialize
    from flows.register import register
    from flows.train import train
    from flows.validate import validate

    home, problems = tmp_path_factory.mktemp("trained") / ".truecourse", tmp_path_factory.mktemp("problems")
    simulated_deliveries.install(problems)
    with pytest.MonkeyPatch.context() as patch:
        set_environment(patch, home, problems)
        for flow in (ingest, validate, materialize, train):
            flow("deliveries")
        version = register("deliveries")
    get_settings.cache_clear()
    yield Trained(home, problems, version)
    left = [file for file, patterns in stored_layout.patterns_of(home).items() if not patterns]
    assert not left, f"tests left files that the page on the stored layout does not describe: {left}"


def set_environment(patch: pytest.MonkeyPatch, home: Path, problems: Path) -> None:
    for name, value in (("HOME", home), ("PROBLEMS", problems), ("PROBLEM", "deliveries")):
        patch.setenv(f"TRUECOURSE_{name}", str(value))
    get_settings.cache_clear()


@pytest.fixture
def trained(_trained: Trained, configure: Callable[..., None]) -> Trained:
    """A registered champion of the deliveries, in the current settings. Tests may add to its home, not damage it."""
    configure(home=_trained.home, problems=_trained.problems, problem="deliveries")
    return _trained


@dataclass(frozen=True)
class Endpoint:
    client: httpx.Client
    folder: Path
    log: Path

    def post(self, path: str, *rows: dict[str, Any]) -> httpx.Response:
        return self.client.post(path, json={"rows": rows})

    def answers(self, path: str, *rows: dict[str, Any]) -> list[dict[str, Any]]:
        response = self.post(path, *rows)
        assert response.status_code == 200, response.text
        answers: list[dict[str, Any]] = response.json()["predictions"]
        ids = [answer.pop("prediction_id") for answer in answers]  # unique in each answer: not comparable
        assert all(re.fullmatch("[0-9a-f]{32}", one) for one in ids)
        assert len(set(ids)) == len(rows)
        return answers


@pytest.fixture(scope="session")
def _endpoint(_trained: Trained) -> Iterator[Endpoint]:
    with serve_champion(_trained, fast_path=True) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def _application_endpoint(_trained: Trained) -> Iterator[Endpoint]:
    with serve_champion(_trained, fast_path=False) as endpoint:
        yield endpoint


@dataclass(frozen=True)
class TracedWorld:
    """A home of this test alone. `folder`: the problem's."""

    folder: Path
    version: ModelVersion


@pytest.fixture(scope="session")
def _traced_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("traced")
    (folder / "problems").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        set_environment(patch, folder / "home", folder / "problems")
        traced_home.build(folder / "problems")
    get_settings.cache_clear()
    return folder


@pytest.fixture
def traced_world(_traced_world: Path, tmp_path: Path, configure: Callable[..., None]) -> TracedWorld:
    """Two files of deliveries with a correction and an invalid row; a model; batch predictions."""
    for name in ("home", "problems"):
        shutil.copytree(_traced_world / name, tmp_path / name)
    configure(home=tmp_path / "home", problems=tmp_path / "problems", problem="deliveries")
    return TracedWorld(tmp_path / "problems" / "deliveries", registry.version("deliveries", 1))


@contextmanager
def serve_champion(trained: Trained, fast_path: bool) -> Iterator[Endpoint]:
    """Package the champion, and serve it until the block ends."""
    from flows.package import package

    (port,) = free_ports(1)
    log = trained.home.parent / f"endpoint-{port}.log"  # a home holds nothing but what the product writes
    with pytest.MonkeyPatch.context() as patch:  # only for the start: each test has its own settings
        set_environment(patch, trained.home, trained.problems)
        patch.setenv("TRUECOURSE_FAST_PATH", str(fast_path))
        get_settings.cache_clear()
        package("deliveries")
        folder = endpoint_process.prepare("deliveries")
        server = endpoint_process.start(folder, port, log)
    get_settings.cache_clear()
    try:
        endpoint_process.wait_ready(server, port)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield Endpoint(client, folder, log)
    finally:
        stop(server.process)


@pytest.fixture
def endpoint(_endpoint: Endpoint, trained: Trained) -> Endpoint:
    """A real server of the packaged champion."""
    return _endpoint


@pytest.fixture(params=["_endpoint", "_application_endpoint"], ids=["fast path", "application"])
def each_endpoint(request: pytest.FixtureRequest, trained: Trained) -> Endpoint:
    """Two real servers of the packaged champion, one after the other: with the fast path, and without it."""
    served: Endpoint = request.getfixturevalue(request.param)
    return served


@pytest.fixture
def make_version(endpoint: Endpoint, trained: Trained, tmp_path: Path, configure: Callable[..., None]) -> MakeVersion:
    """A home for this test alone with the packaged champion, and a function that makes more versions in it."""
    home = tmp_path / ".truecourse"
    for name in ("storage/bentos", "storage/aliases", "feast", "serving"):
        shutil.copytree(trained.home / name, home / name, ignore=shutil.ignore_patterns("bentoml-*"))
    configure(home=home)
    return lambda number, **changes: build_variant("deliveries", number, tmp_path / f"variant{number}", **changes)


@pytest.fixture
def world(home: Path, tmp_path: Path) -> World:
    """A problem with one table, without data."""
    return World(tmp_path)


@pytest.fixture(scope="module")
def _monitored_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("monitored")
    simulated_deliveries.install(folder / "problems")
    return folder


@pytest.fixture
def champion(_monitored_folder: Path, configure: Callable[..., None]) -> ModelVersion:
    """A champion of the deliveries without predictions, trained once for all tests of a file."""
    return trained_champion(_monitored_folder, configure)


@pytest.fixture
def problems(tmp_path: Path, home: Path, configure: Callable[..., None]) -> Path:
    """An empty problems folder."""
    configure(problems=tmp_path / "problems")
    return tmp_path / "problems"

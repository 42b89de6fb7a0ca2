"""The page on the stored layout describes every kind of path that a real home has."""

import re
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.integration.conftest import Endpoint, Trained

PAGE = REPOSITORY / "docs" / "reference" / "storage.md"
ROW = {
    "courier": "c07", "depot": "north", "promised": 45, "distance": 6.5, "decision_time": "2024-03-01T18:00:00Z",
}  # fmt: skip
ELSEWHERE = {
    "tuning/<problem>/<snapshot>.json", "tuning/<problem>-<digest>.log",  # the problem declares no search
    "models/<problem>/tries/<version>/",  # there is one version
    "manifests/<environment>/<problem>/<version>/<file>", "deployments/<environment>/<problem>/<number>.json",
    "deployments/<environment>/", "keys/<number>.json", "rejected/<problem>/",
    "checked/<problem>/drift.json", "health/<problem>/endpoint-<name>-<digest>.json",
    "backup/format-1/",  # nothing was migrated
    "alarms/<problem>.json", "alarms/<problem>/<number>.json",  # the only alarm may be one of a busy machine
    "endpoints/<port>.json", "flow-deployments.json", "flowruns/<run>", "up.json",  # `truecourse up` does not run
    "replay/<problem>/", "benchmarks/<name>.json", "logs/", "tmp/",
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
    storage, home = described("Storage root"), described("Home")
    files = [path.relative_to(trained.home).as_posix() for path in trained.home.rglob("*") if path.is_file()]
    files = [file for file in files if not re.fullmatch(r"endpoint-\d+\.log", file)]  # the tests' own
    seen = {}
    for file in files:
        key, patterns = (file.removeprefix("storage/"), storage) if file.startswith("storage/") else (file, home)
        seen[file] = {each for each in patterns if matches(each, key)}
    assert not [file for file, patterns in seen.items() if not patterns]
    assert {*storage, *home} - set().union(*seen.values()) <= {*ELSEWHERE, "storage/"}


def described(title: str) -> list[str]:
    """The paths in the tables of a section of the page."""
    section = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    (text,) = (part for part in section if part.startswith(f"{title}\n"))
    return list(paths_in(text))


def paths_in(text: str) -> Iterator[str]:
    yield from re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


def matches(pattern: str, path: str) -> bool:
    """Whether a path is of the described kind: `<name>` is a part of one name, and a final slash all that is below."""
    expression = re.sub(r"<\w+>", "[^/]+", re.escape(pattern).replace(r"\<", "<").replace(r"\>", ">"))
    return re.fullmatch(f"{expression}.+" if pattern.endswith("/") else expression, path) is not None


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

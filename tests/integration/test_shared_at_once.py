"""Problems that use the same shared view at the same time, or are killed meanwhile, on local and on real servers."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from tests import shared_area
from tests.conftest import S3Server
from truecourse.data.validation_report import in_order_of_reference
from truecourse.features.definition_digests import feature_table
from truecourse.features.feature_tables import compute_view
from truecourse.ingestion.ingest import ingest_sources
from truecourse.ingestion.validate import validate_new
from truecourse.problem.loader import load_area, load_problem
from truecourse.references import TableVersion
from truecourse.settings import REPOSITORY, child_environment
from truecourse.storage.delta_tables import Tables

UNTIL, USERS = datetime(2025, 1, 1, tzinfo=UTC), ("leaving", "growth")
COMPUTE = """
import sys
from truecourse.features import feature_tables
from truecourse.problem.loader import load_problem
from truecourse.storage.delta_tables import Tables

problem, dies = load_problem(sys.argv[1]), sys.argv[2] == "dies"
append = Tables.replace

def written(*arguments, **names):
    print("writes", flush=True)
    if dies:
        sys.stdin.read()
    return append(*arguments, **names)

Tables.replace = written
print("ready", flush=True)
sys.stdin.readline()
print(feature_tables.compute_view(problem, Tables(), "orders"), flush=True)
"""


@pytest.fixture
def root(tmp_path: Path, configure: Callable[..., None]) -> Path:
    configure(home=tmp_path / ".truecourse", problems=shared_area.install(tmp_path), problem="leaving")
    return tmp_path


def fill() -> None:
    """Store the area's tables as the flows do."""
    area, tables = load_area("customers"), Tables()
    for table in area.tables:
        ingest_sources(area, table, tables)
    for table in in_order_of_reference(area):
        validate_new(area, table, tables, UNTIL.replace(tzinfo=None))


def start(problem: str, *, dies: bool = False) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COMPUTE, problem, "dies" if dies else "lives"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=child_environment(PYTHONPATH=str(REPOSITORY)), text=True,
    )  # fmt: skip


def begin(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def lines(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return process.stdout


def test_two_processes_compute_a_shared_view_once_and_a_killed_one_leaves_it_whole(root: Path) -> None:
    fill()
    with start("leaving", dies=True) as killed:
        assert lines(killed).readline() == "ready\n"
        begin(killed)
        assert lines(killed).readline() == "writes\n"  # it has computed, holds the lock, and has not committed
        killed.kill()
    processes = [start(name) for name in USERS]
    for process in processes:
        assert lines(process).readline() == "ready\n"
    for process in processes:
        begin(process)
    answers = [process.communicate()[0].split() for process in processes]
    name = feature_table(load_problem("leaving"), "orders")
    assert sorted(answers) == [[f"{name}@0"], ["writes", f"{name}@0"]]
    tables = Tables()
    assert len(tables.commits(name)) == 1
    whole = compute_view(load_problem("growth"), tables, "orders", full=True)
    first, again = (tables.read(TableVersion(name=name, version=number)).to_pylist() for number in (0, whole.version))
    assert whole.version == 1
    assert sorted(map(str, first)) == sorted(map(str, again))


def test_definitions_are_registered_with_feast_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Feast writes a registry in place: of two processes that do, one could read half of it, or replace it."""
    from feast import FeatureStore

    from feature_repo.store import apply, open_feature_store

    registered, register, together = [], FeatureStore.apply, Barrier(4)

    def counted(store: Any, objects: Any, **options: Any) -> None:
        registered.append(store.project)
        register(store, objects, **options)

    def work(name: str) -> None:
        problem = load_problem(name)
        together.wait()
        apply(problem)

    monkeypatch.setattr(FeatureStore, "apply", counted)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, USERS * 2))
    assert len(registered) == len(set(registered)) == 3  # orders and last_order of the area, announced of growth
    for owner in load_problem("leaving").view_owners:
        assert [view.name for view in open_feature_store(owner).list_feature_views()] == [
            view.name for view in owner.own_views
        ]


def load_all(names: tuple[str, ...], view: str) -> list[int]:
    """Load a view for several problems at once; returns the number of keys that each wrote."""
    from feature_repo.online_loading import load_online

    together = Barrier(len(names))

    def load(name: str) -> int:
        problem = load_problem(name)
        together.wait()
        return load_online(problem, Tables(), view, UNTIL)

    with ThreadPoolExecutor(len(names)) as pool:
        return list(pool.map(load, names))


@pytest.mark.parametrize("servers", [False, True], ids=["local", "servers"])
def test_a_shared_view_is_loaded_once_and_an_interrupted_load_is_finished(
    servers: bool, root: Path, configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch,
    seaweed: S3Server, valkey: str,
) -> None:  # fmt: skip
    """The servers are SeaweedFS and Valkey."""
    from feature_repo.online import OnlineReader
    from feature_repo.online_loading import Target

    if servers:
        configure(**seaweed.settings(f"areas-{root.name}"), online_store=valkey)
    fill()
    tables, area = Tables(), load_area("customers")
    for view in ("orders", "facts"):
        compute_view(area, tables, view)
    with monkeypatch.context() as patch:
        patch.setattr(Target, "write_mark", lambda self, mark: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            load_all(("growth",), "orders")
    written = load_all((*USERS, *USERS), "orders")
    customers = set(tables.read(tables.version(feature_table(area, "orders")))["customer"].to_pylist())  # type: ignore[arg-type]
    assert sorted(written) == [0, 0, 0, len(customers)]
    assert sorted(load_all(("segments", "segments"), "facts"))[0] == 0
    read = OnlineReader(load_problem("segments")).read({"customer": ["c001", "none"]}, None, 2).values
    assert read["region"] == ["south", None]

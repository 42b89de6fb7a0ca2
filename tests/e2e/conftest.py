"""The lifecycle of the shipped problem, run once for all end-to-end tests and all worker processes of pytest."""

import fcntl
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from truecourse.settings import get_settings


@dataclass(frozen=True)
class FinishedRun:
    """A finished lifecycle: its home, and what the flow returned."""

    home: Path
    summary: dict[str, Any]


@pytest.fixture(scope="session")
def _finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str, prefect_server: str) -> FinishedRun:
    """A copy, for this worker process, of the home that the first of them fills."""
    base = tmp_path_factory.getbasetemp()
    shared = (base if worker_id == "master" else base.parent) / "finished"
    shared.mkdir(exist_ok=True)
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "summary").exists():
            (shared / "summary").write_bytes(pickle.dumps(_run_lifecycle(shared / "home")))
    home = tmp_path_factory.mktemp("finished-copy") / ".truecourse"
    shutil.copytree(shared / "home", home)
    return FinishedRun(home, pickle.loads((shared / "summary").read_bytes()))


def _run_lifecycle(home: Path) -> dict[str, Any]:
    from flows.lifecycle import lifecycle

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRUECOURSE_HOME", str(home))
        get_settings.cache_clear()
        summary: dict[str, Any] = lifecycle("flight_delays")
    get_settings.cache_clear()
    return summary


@pytest.fixture
def finished(_finished: FinishedRun, configure: Callable[..., None]) -> FinishedRun:
    """The finished lifecycle of the flights, as the current settings. Tests may add to it, but not damage it."""
    configure(home=_finished.home, problem="flight_delays")
    return _finished

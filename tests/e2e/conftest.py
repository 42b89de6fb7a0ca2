"""The lifecycle of the shipped problem, run once for all end-to-end tests, in its own home."""

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
def _finished(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> FinishedRun:
    from flows.lifecycle import lifecycle

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRUECOURSE_HOME", str(tmp_path_factory.mktemp("finished") / ".truecourse"))
        get_settings.cache_clear()
        summary = lifecycle("flight_delays")
        home = get_settings().home
    get_settings.cache_clear()
    return FinishedRun(home, summary)


@pytest.fixture
def finished(_finished: FinishedRun, configure: Callable[..., None]) -> FinishedRun:
    """The finished lifecycle of the flights, as the current settings. Tests may add to it, but not damage it."""
    configure(home=_finished.home, problem="flight_delays")
    return _finished

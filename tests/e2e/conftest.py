"""The shipped problem run once for all end-to-end tests, in a home of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from truecourse.settings import get_settings


@dataclass(frozen=True)
class Flown:
    """A finished lifecycle: where it lives, and what it returned."""

    home: Path
    summary: dict[str, Any]


@pytest.fixture(scope="session")
def _flown(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> Flown:
    from flows.lifecycle import lifecycle

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRUECOURSE_HOME", str(tmp_path_factory.mktemp("flown") / ".truecourse"))
        get_settings.cache_clear()
        summary = lifecycle("flight_delays")
        home = get_settings().home
    get_settings.cache_clear()
    return Flown(home, summary)


@pytest.fixture
def flown(_flown: Flown, configure: Callable[..., None]) -> Flown:
    """The finished lifecycle of the flights, with the settings pointing at it. Tests may add to it, not spoil it."""
    configure(home=_flown.home, problem="flight_delays")
    return _flown

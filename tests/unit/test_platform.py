"""Descriptions of the processes of `truecourse up`: a sentence for each state, a finding for each fault."""

import os
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services.process import platform_state
from services.process.platform_state import Platform
from services.process.platform_supervisor import State
from truecourse.processes import started_at

NOW = datetime(2024, 5, 6, 12, tzinfo=UTC)


def part(standing: Any, **more: Any) -> dict[str, Any]:
    state: dict[str, Any] = {"since": NOW - timedelta(minutes=3)} | more
    return State(standing, **state).to_document("mlflow")


def running(home: Path, *parts: dict[str, Any], pid: int | None = None) -> Platform:
    home.mkdir(exist_ok=True)
    process = pid or os.getpid()
    made = Platform(process, started_at(os.getpid()) or "", "http://p", "", "", "", NOW.isoformat(), list(parts))
    platform_state.write_platform(made)
    return made


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (part("up", restarts=2), "mlflow is up for 3.0 minutes, restarted 2 times."),
        (part("starting"), "mlflow is starting for 3.0 minutes."),
        (part("waiting", cause="needs prefect, which is down"),
         "mlflow is waiting for 3.0 minutes: needs prefect, which is down."),
        (part("silent", cause="it does not answer", last_line="serving"),
         'mlflow does not answer for 3.0 minutes: it does not answer; last log line: "serving".'),
        (part("down", cause="ended by signal 9", restarts=1, last_line="no database"),
         'mlflow is down for 3.0 minutes: ended by signal 9, restarted 1 time; last log line: "no database".'),
    ],
)  # fmt: skip
def test_each_state_is_described_by_a_sentence(state: dict[str, Any], sentence: str) -> None:
    assert platform_state.sentence(state, NOW) == sentence.replace("3.0 minutes", "3 minutes")


def test_only_parts_that_are_down_or_silent_are_findings(home: Path) -> None:
    faults = [part("down", cause="ended with status 1"), part("silent", cause="it does not answer")]
    running(home, *faults, part("up", restarts=3), part("waiting"), part("starting"))
    found = platform_state.findings(NOW, "")
    assert [(one.subject, one.cause, one.page) for one in found] == [
        ("platform mlflow", "down", True), ("platform mlflow", "silent", True),
    ]  # fmt: skip
    assert found[0].figures["restarts"] == 0


def test_killed_and_running_platforms_are_recognised(home: Path) -> None:
    assert platform_state.state() is None
    made = running(home, part("up"))
    assert platform_state.running_platform() == made
    assert platform_state.serving_since("http://p/api") == NOW
    assert platform_state.serving_since("http://another/api") is None
    running(home, part("up"), pid=2**22 + 1)
    assert platform_state.running_platform() is None
    assert platform_state.findings(NOW, "") == []
    state = platform_state.state()
    assert state is not None
    assert (state["alive"], state["left"], state["parts"]) == (False, [], [])
    assert asdict(made)["parts"], "its last report is outdated"

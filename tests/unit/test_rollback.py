"""Rollback goes back through the former champions, step by step, and never in a cycle."""

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.main import execute
from truecourse.errors import ModelError
from truecourse.references import Aliases, ModelVersion
from truecourse.registry import aliases
from truecourse.registry import versions as registry


def version(number: int) -> ModelVersion:
    return ModelVersion(problem="wine", version=number, run_id=f"run{number}", model_sha256="0" * 64)


def promote(number: int, **changes: object) -> Aliases:
    return aliases.move(aliases.current("wine"), "wine", "promote", f"{number}", champion=version(number), **changes)


def back(to: int | None = None) -> int:
    entry = aliases.roll_back("wine", "it answers nonsense", to)
    assert entry.champion is not None
    assert entry == aliases.current("wine")
    return entry.champion.version


def test_each_rollback_goes_one_champion_further_back(home: Path) -> None:
    with pytest.raises(ModelError, match="no champion to roll back"):
        back()
    for number in (1, 2, 3):
        promote(number)
    assert [back(), back()] == [2, 1]
    with pytest.raises(ModelError, match="no version was champion before version 1"):
        back()
    assert len(aliases.history("wine")) == 5


def test_a_rolled_back_version_is_skipped(home: Path) -> None:
    promote(1)
    promote(2)
    back()
    promote(3)
    assert [back(), aliases.current("wine").champion] == [1, version(1)]


def test_a_given_version_must_be_a_former_champion_and_a_rollback_can_be_undone(home: Path) -> None:
    promote(1)
    aliases.move(aliases.current("wine"), "wine", "register", "a gate failed", challenger=version(2))
    promote(3)
    with pytest.raises(ModelError, match="version 2 was never champion"):
        back(to=2)
    with pytest.raises(ModelError, match="version 3 is already champion"):
        back(to=3)
    assert [back(to=1), back(to=3), back()] == [1, 3, 1]


def test_the_challenger_stays_without_traffic(home: Path, configure: Callable[..., None]) -> None:
    configure(author="ann")
    promote(1)
    promote(2, challenger=version(3), shadow=True, share=0.25)
    back()
    now = aliases.current("wine")
    assert (now.champion, now.challenger, now.shadow, now.share) == (version(1), version(3), False, 0.0)
    assert (now.action, now.reason, now.author) == ("rollback", "it answers nonsense", "ann")


@pytest.mark.parametrize("given", [{"share": 0.25}, {"shadow": True}, {"share": 1.0, "shadow": True}])
def test_a_canary_or_shadow_is_stopped_and_the_champion_stays(
    home: Path, configure: Callable[..., None], given: dict[str, object]
) -> None:
    configure(author="ann")
    promote(1, challenger=version(2), **given)
    stopped = aliases.stop_canary("wine", "it is slow")
    assert stopped == aliases.current("wine")
    assert (stopped.champion, stopped.challenger, stopped.shadow, stopped.share) == (version(1), version(2), False, 0.0)
    assert (stopped.action, stopped.reason, stopped.author) == ("canary stop", "it is slow", "ann")
    assert aliases.ended_canary(aliases.history("wine")) == stopped


def test_nothing_is_stopped_where_no_challenger_gets_requests(home: Path) -> None:
    with pytest.raises(ModelError, match="no shadow is running; there is no champion"):
        aliases.stop_canary("wine", "it is slow")
    promote(1, challenger=version(2))
    with pytest.raises(ModelError, match="no shadow is running; version 1 is champion"):
        aliases.stop_canary("wine", "it is slow")
    assert len(aliases.history("wine")) == 1


WIDENED = """
import time
from truecourse.registry import aliases
from truecourse.registry import versions as registry
until = time.monotonic() + 20
while (now := aliases.current("wine")).share and time.monotonic() < until:
    aliases.move(now, "wine", "widen", "no errors", share=min(now.share + 0.01, 1.0))
"""


def test_a_stop_wins_against_a_process_that_widens(home: Path) -> None:
    """The other process raises an error if the stop is first; the stop is tried again if the other one is first."""
    promote(1, challenger=version(2), share=0.01)
    with subprocess.Popen([sys.executable, "-c", WIDENED], stderr=subprocess.PIPE, text=True) as widening:
        while len(aliases.history("wine")) < 5:
            assert widening.poll() is None
        aliases.stop_canary("wine", "it is slow")
        _, errors = widening.communicate(timeout=60)
    assert not errors or "ModelError" in errors
    now = aliases.current("wine")
    assert (now.action, now.champion, now.share) == ("canary stop", version(1), 0.0)


def entries(moves: list[tuple[str, int]]) -> list[Aliases]:
    signed = {"reason": "", "author": "", "at": datetime.now(UTC)}
    return [
        Aliases(number=i, action=action, champion=version(number), **signed)
        for i, (action, number) in enumerate(moves, start=1)
    ]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=12))
def test_repeated_rollbacks_reverse_the_promotions(promoted: list[int]) -> None:
    moves = [("promote", number) for number in promoted]
    line = [number for i, number in enumerate(promoted) if i == 0 or promoted[i - 1] != number]
    walked = []
    while before := aliases.previous_champions(entries(moves)):
        walked.append(before[-1].version)
        moves.append(("rollback", walked[-1]))
    assert walked == line[-2::-1] if len(line) > 1 else walked == []


def test_the_command_needs_neither_mlflow_nor_prefect(home: Path, configure: Callable[..., None]) -> None:
    configure(problems=Path(__file__).parents[1] / "problems", problem="wine", mlflow_uri="http://127.0.0.1:9")
    for number in (1, 2):
        entry = registry.RegisteredVersion(number=number, action="register", reason="-", run_id=f"run{number}",
                                           model_sha256="0" * 64, record_sha256="", **aliases.signature())  # fmt: skip
        registry.ledger("wine").append(entry)
        promote(number)
    words = ["rollback", "--reason", "it answers nonsense", "--json"]
    script = f"import sys; from cli.main import main; sys.argv[1:] = {words}; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["champion"], answer["before"], answer["mirrored"]) == (1, 2, False)
    assert aliases.current("wine").champion == version(1)
    again = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert again.returncode == 1
    assert "no version was champion before version 1" in json.loads(again.stdout)["error"]["what"]


def test_a_version_that_retention_removed_does_not_become_champion(
    home: Path, configure: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    configure(problems=Path(__file__).parents[1] / "problems", problem="wine")
    promote(1)
    promote(2)
    assert execute(["rollback", "--reason", "it answers nonsense", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["what"] == "no version 1"
    assert aliases.current("wine").champion == version(2)

"""The alias ledger, in a folder and on a real S3 server: one of several concurrent moves succeeds."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import S3Server
from truecourse.errors import ModelError
from truecourse.references import ModelVersion
from truecourse.registry import aliases

Configure = Callable[..., None]


def version(number: int) -> ModelVersion:
    return ModelVersion(problem="wine", version=number, run_id=f"run{number}", model_sha256="0" * 64)


def race(racers: int) -> tuple[list[int], list[str]]:
    """All threads read the aliases, then move them; the winners' numbers and the others' error messages."""
    before, start = aliases.current("wine"), threading.Barrier(racers)
    winners: list[int] = []
    errors: list[str] = []

    def run(number: int) -> None:
        start.wait()
        try:
            aliases.move(before, "wine", "promote", f"racer {number}", champion=version(number))
        except ModelError as error:
            errors.append(str(error))
        else:
            winners.append(number)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(1, racers + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return winners, errors


@pytest.mark.parametrize("place", ["folder", "s3"])
def test_of_racing_moves_exactly_one_wins(place: str, home: Path, configure: Configure, seaweed: S3Server) -> None:
    configure(author="ann", **(seaweed.settings("aliases") if place == "s3" else {}))
    for number in range(1, 51):
        winners, errors = race(4)
        assert len(winners) == 1
        now = aliases.current("wine")
        assert (now.number, now.champion) == (number, version(winners[0]))
        assert all(f"ann was first, at {now.at:%Y-%m-%d}" in text and now.reason in text for text in errors)
    assert [entry.number for entry in aliases.history("wine")] == list(range(1, 51))


def test_there_is_no_champion_at_first(home: Path) -> None:
    assert aliases.history("wine") == []
    assert aliases.current("wine").champion is None

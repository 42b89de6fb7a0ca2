"""Logs of servers: kept across restarts, rotated by size, and with one traceback of each cause."""

import io
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from truecourse import logfiles
from truecourse.processes import start
from truecourse.repeats import Repeats


def test_a_restart_appends_and_tells_only_what_was_said_since(home: Path, tmp_path: Path) -> None:
    for word in ("first", "second"):
        child = start(word, [sys.executable, "-c", f"print('{word} words')"], os.environ, tmp_path / "log")
        child.process.wait(30)
    assert child.tail() == "second words"
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line for line in lines if "words" in line] == ["first words", "second words"]
    assert lines[0].startswith("=== ")


def test_a_log_that_grows_is_rotated_under_its_writer(
    home: Path, tmp_path: Path, configure: Callable[..., None]
) -> None:
    configure(server_log_size=0.001, server_log_files=2)
    log = tmp_path / "log"
    with log.open("ab") as writer:
        for number in range(4):
            writer.write(f"{number}".encode() * 2000)
            writer.flush()
            assert logfiles.rotate(log)
        writer.write(b"after")
    assert log.read_bytes() == b"after", "the writer goes on at the beginning"
    assert {path.name: path.read_bytes()[:1] for path in tmp_path.glob("log.*")} == {"log.1": b"3", "log.2": b"2"}
    assert not logfiles.rotate(log)
    assert logfiles.tail(log, 5, start=9000) == "after", "an offset from before the rotation"


def written(every: float, times: int, log: Callable[[logging.Logger, int], None]) -> str:
    text, logger = io.StringIO(), logging.Logger("one")
    handler = logging.StreamHandler(text)
    handler.addFilter(Repeats(every=every))
    logger.addHandler(handler)
    for number in range(times):
        log(logger, number)
    return text.getvalue()


def failing(logger: logging.Logger, number: int) -> None:
    try:
        raise ValueError(f"number {number}")
    except ValueError:
        logger.exception("request %d failed", number)


def test_a_cause_is_written_once_and_counted() -> None:
    said = written(600, 1000, failing)
    assert said.count("Traceback") == 1
    assert "number 0" in said
    counted = written(0, 5, failing)
    assert counted.count("Traceback") == 1
    assert counted.count("[again 1 times") == 4


def test_different_causes_and_what_is_no_fault_are_all_written() -> None:
    assert written(600, 3, lambda logger, n: logger.warning("%s is down", "abc"[n])).count("is down") == 3
    assert written(600, 3, lambda logger, n: logger.warning("port %d is taken", n)).count("taken") == 1
    assert written(600, 3, lambda logger, n: logger.info("the same")).count("the same") == 3

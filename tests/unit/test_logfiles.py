"""Logs of servers: kept across restarts, rotated by size, with one traceback per cause."""

import io
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from truecourse import log_files
from truecourse.processes import start
from truecourse.repeats import Repeats


def test_a_restart_appends_and_the_tail_shows_only_new_lines(home: Path, tmp_path: Path) -> None:
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
            assert log_files.rotate(log)
        writer.write(b"after")
    assert log.read_bytes() == b"after", "the writer goes on at the beginning"
    assert {path.name: path.read_bytes()[:1] for path in tmp_path.glob("log.*")} == {"log.1": b"3", "log.2": b"2"}
    assert not log_files.rotate(log)
    assert log_files.tail(log, 5, start=9000) == "after", "an offset from before the rotation"


def write_log(every: float, times: int, log: Callable[[logging.Logger, int], None]) -> str:
    text, logger = io.StringIO(), logging.Logger("one")
    handler = logging.StreamHandler(text)
    handler.addFilter(Repeats(every=every))
    logger.addHandler(handler)
    for number in range(times):
        log(logger, number)
    return text.getvalue()


def log_failure(logger: logging.Logger, number: int) -> None:
    try:
        raise ValueError(f"number {number}")
    except ValueError:
        logger.exception("request %d failed", number)


def test_a_cause_is_written_once_and_counted() -> None:
    log = write_log(600, 1000, log_failure)
    assert log.count("Traceback") == 1
    assert "number 0" in log
    counted = write_log(0, 5, log_failure)
    assert counted.count("Traceback") == 1
    assert counted.count("[again 1 times") == 4


def test_different_causes_and_ordinary_lines_are_all_written() -> None:
    assert write_log(600, 3, lambda logger, n: logger.warning("%s is down", "abc"[n])).count("is down") == 3
    assert write_log(600, 3, lambda logger, n: logger.warning("port %d is taken", n)).count("taken") == 1
    assert write_log(600, 3, lambda logger, n: logger.info("the same")).count("the same") == 3


FAILING = """
import sys
for number in range(5):
    try:
        raise OSError(f"database is locked ({number})")
    except OSError:
        logger.exception("request %d failed", number)
"""


def test_prefect_s_server_writes_a_cause_once(home: Path) -> None:
    from cli.platform.server_logs import prefect_logging

    begin = "from prefect.logging.configuration import setup_logging; setup_logging()\n"
    begin += "import logging; logger = logging.getLogger('prefect.server')"
    environment = os.environ | prefect_logging() | {"PREFECT_SERVER_LOGGING_LEVEL": "WARNING"}
    done = subprocess.run([sys.executable, "-c", begin + FAILING], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Traceback") == 1
    assert "database is locked (0)" in done.stderr


def test_mlflow_s_server_writes_a_cause_once_and_no_line_for_each_request(home: Path) -> None:
    from cli.platform.server_logs import mlflow_logging

    words, variables = mlflow_logging()
    assert variables == {"MLFLOW_CONFIGURE_LOGGING": "false"}
    file = words[1].split()[1]
    begin = f"import json, logging.config; logging.config.dictConfig(json.load(open({file!r})))\n"
    begin += "logging.getLogger('uvicorn.access').info('GET /health'); logger = logging.getLogger('mlflow.server')"
    done = subprocess.run([sys.executable, "-c", begin + FAILING], env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Traceback") == 1
    assert "GET" not in done.stderr

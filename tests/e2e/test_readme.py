"""The examples of the README are correct."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, free_ports
from tests.e2e.conftest import FinishedRun
from tests.pages import blocks

pytestmark = pytest.mark.timeout(1200)


STAND_INS = {"make demo": "", "make test": "", "source .venv/bin/activate": ""}
"""Lines that are not run: the fixture has run the demo, these are the tests, and the environment is on the path."""


def script(block: str, port: int) -> str:
    """A block as a script that stops at the first failure; the endpoint listens on another port."""
    lines = [STAND_INS.get(line, line) for line in block.splitlines()]
    return "set -euo pipefail\n" + "\n".join(lines).replace("localhost:3000", f"localhost:{port}")


def test_the_blocks_of_the_readme_run_in_order(finished: FinishedRun, tmp_path: Path, prefect_server: str) -> None:
    page = REPOSITORY / "README.md"
    shell = [block.text for block in blocks(page) if block.language == "sh"]
    assert len(re.findall(r"^```", page.read_text(), re.M)) == 2 * len(shell), (
        "every fenced block is marked sh, and is run"
    )
    assert shell[0].splitlines() == ["make demo", "make test"]
    problems, (port,) = tmp_path / "problems", free_ports(1)
    shutil.copytree(REPOSITORY / "problems", problems)
    environment = os.environ | {
        "TRUECOURSE_HOME": str(finished.home),
        "TRUECOURSE_PROBLEMS": str(problems),
        "TRUECOURSE_ENDPOINT_PORT": str(port),
        "PREFECT_API_URL": prefect_server,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }

    def run(command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    for block in shell:
        if "curl" not in block:
            run(script(block, port))
            continue
        with serving(environment, tmp_path):
            assert '"predictions"' in run(script(block, port))
    assert (problems / "wine" / "problem.py").is_file()
    assert (finished.home / "reports" / "index.html").is_file()


@contextmanager
def serving(environment: dict[str, str], folder: Path) -> Iterator[None]:
    """Run `truecourse serve` until the block ends."""
    command = ["truecourse", "serve", "--json"]
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline(), (folder / "serve.log").read_text()
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=90)


def test_the_two_commands_of_the_readme_are_targets() -> None:
    text = (REPOSITORY / "README.md").read_text()
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in re.findall(r"`?make ([a-z-]+)", text):
        assert re.search(rf"^{target}:", makefile, re.M), target

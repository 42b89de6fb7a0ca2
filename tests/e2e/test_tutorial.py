"""The tutorial, word for word: every file and command of its pages in an empty folder, every output compared."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, free_ports
from tests.pages import FOLDER, Session, blocks, differences, open_session

pytestmark = pytest.mark.timeout(1200)
TUTORIAL = REPOSITORY / "docs" / "tutorial"
PAGES = [TUTORIAL / "index.md", *sorted(TUTORIAL.glob("[0-9]*.md"))]


@pytest.fixture
def reader(prefect_server: str) -> Iterator[Session]:
    """A reader's folder, with the script that the tutorial links to; another port, and the tests' Prefect server.

    Its path is as long as the one that the pages show, so that tables are as wide."""
    folder = Path(tempfile.mkdtemp(prefix="s", dir="/tmp"))
    assert len(str(folder)) == len(FOLDER)
    shutil.copy(TUTORIAL / "make_shop.py", folder)
    (port,) = free_ports(1)
    session = open_session(folder, port, PREFECT_API_URL=prefect_server)
    try:
        yield session
    finally:
        subprocess.run(
            ["truecourse", "deploy", "--env", "dev", "--stop"], cwd=folder, env=dict(session.environment), check=False
        )
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.skipif(
    sys.version_info >= (3, 12),
    reason="from Python 3.12 on, the lock has another XGBoost, with other figures",
)
def test_the_tutorial_is_true_word_for_word(reader: Session) -> None:
    for page in PAGES:
        found = next(differences(reader, page), "")
        assert not found, found


def test_every_block_of_the_tutorial_is_run_or_written() -> None:
    for page in PAGES:
        assert page.read_text().count("\n```") == 2 * len(blocks(page)), f"{page.name}: a block without language"
        for block in blocks(page):
            assert block.title or block.language == "console", f"{page.name}:{block.line}"

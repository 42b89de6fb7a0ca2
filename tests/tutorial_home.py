"""The tutorial's problem, trained without its commands and servers: a home for the notebook of the documentation."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests import traced_home
from tests.conftest import REPOSITORY
from tests.pages import blocks

TUTORIAL = REPOSITORY / "docs" / "tutorial"


def build(folder: Path) -> None:
    """Write the tutorial's files into a folder, whose `problems` and home are in the settings; train two versions."""
    shutil.copy(TUTORIAL / "make_shop.py", folder)
    subprocess.run([sys.executable, "make_shop.py", "--until", "2025-07-01"], cwd=folder, check=True)
    for page in sorted(TUTORIAL.glob("[1-3]*.md")):
        for block in blocks(page):
            if block.title.startswith("problems/"):
                path = folder / block.title
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text)
    traced_home.refresh("churn")
    traced_home.train("churn")
    problem = folder / "problems" / "churn" / "problem.py"
    problem.write_text(problem.read_text().replace("max_depth=3", "max_depth=6"))
    traced_home.train("churn")


def main(folder: Path) -> None:
    """Build the home in a new folder: `python -m tests.tutorial_home FOLDER`, with the settings of its folders."""
    folder.mkdir(parents=True)
    build(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

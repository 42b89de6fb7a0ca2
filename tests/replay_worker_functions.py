"""Functions that tests run in a replay's worker process, which imports them by module and name."""

import os
import time

from truecourse.errors import FeatureError
from truecourse.problem import Problem
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables


def describe_context(problem: Problem, tables: Tables, word: str) -> tuple[int, str, str, str]:
    return os.getpid(), problem.name, tables.store.root, word


def raise_feature_error(problem: Problem, tables: Tables) -> None:
    raise FeatureError("no such day", where=problem.name, hint="ask for another")


def busy(problem: Problem, tables: Tables) -> None:
    """Run for five minutes, and write a file when it has started."""
    home = get_settings().home
    home.mkdir(parents=True, exist_ok=True)
    (home / "mark").write_text(str(os.getpid()))
    (home / "mark").rename(home / "busy")
    end = time.monotonic() + 300
    while time.monotonic() < end:
        pass

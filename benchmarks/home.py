"""The home that benchmarks read: the settings' own, with missing steps run first."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness import measure
from truecourse.errors import NotFound, TruecourseError
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.registry import versions as registry
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables


def ensure_steps(until: str) -> Problem:
    """The settings' problem, after running every missing step up to `until` (`materialize`, `register` or `score`)."""
    problem = load_problem()
    if not _has(problem, until):
        measure("benchmarks.home:prepare", problem=problem.name, until=until)
    return problem


@contextmanager
def copied_home() -> Iterator[Path]:
    """A copy of the settings' home at another path, without logs of servers; removed after the block."""
    folder = Path(tempfile.mkdtemp(prefix="truecourse-bench-"))
    ignored = shutil.ignore_patterns("benchmarks", "bentoml-*", "prefect", "tmp")
    try:
        shutil.copytree(get_settings().home, folder / "moved", ignore=ignored, symlinks=True)
        yield folder / "moved"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _has(problem: Problem, until: str) -> bool:
    from tasks.features.decision_frame import feature_versions
    from truecourse.data.sql import clean_versions
    from truecourse.serving.batch_scoring import predictions_table

    tables = Tables()
    try:
        feature_versions(problem, tables, clean_versions(problem, tables))
    except (NotFound, TruecourseError):
        return False
    if until == "materialize":
        return True
    if registry.champion(problem.name) is None:
        return False
    return until != "score" or tables.exists(predictions_table(problem.name))


def prepare(problem: str, until: str) -> Callable[[], None]:
    from tasks.planning import stages

    return lambda: stages.prepare(problem, until)

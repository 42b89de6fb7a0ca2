"""The home that benchmarks read: the settings' own, with missing steps run first."""

from collections.abc import Callable

from benchmarks.harness import measure
from truecourse.errors import NotFound, TruecourseError
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.registry import versions as registry
from truecourse.storage.delta_tables import Tables


def ensure_steps(until: str) -> Problem:
    """The settings' problem, after running every missing step up to `until` (`materialize`, `register` or `score`)."""
    problem = load_problem()
    if not _has(problem, until):
        measure("benchmarks.home:prepare", problem=problem.name, until=until)
    return problem


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
    from benchmarks.pipeline import steps

    return lambda: steps.prepare(problem, until)

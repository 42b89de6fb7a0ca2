"""Start a version that passed its gates as a canary, with a part of the traffic."""

import logging

from prefect import task

from tasks.release.package import package_version
from tasks.retry import RETRY
from truecourse.errors import ModelError
from truecourse.monitoring.canary.decision import logging_off_reason
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.problem.promotion import Canary
from truecourse.references import Aliases, ModelVersion
from truecourse.registry import aliases
from truecourse.registry import versions as registry
from truecourse.registry.aliases import CANARY

log = logging.getLogger("truecourse.problem.promotion")


def starts_as_canary(problem: Problem, before: Aliases, version: ModelVersion) -> bool:
    """Whether the problem requires a canary, and there is a champion to compare it with."""
    return problem.promotion.canary is not None and before.champion is not None and before.champion != version


@task(name="start canary", **RETRY)
def start_canary(before: Aliases, version: ModelVersion, reason: str) -> Aliases:
    """Make the version challenger with the traffic weight of the first step. `before`: the aliases at its evaluation.

    The version is packaged first if needed, so that endpoints can load it. Raises ModelError if the aliases
    changed, or if no endpoint logs predictions: the log is the only input of a canary's
    evaluation."""
    problem, now = load_problem(version.problem), aliases.current(version.problem)
    if (now.number, now.challenger, now.action, now.reason) == (before.number + 1, version, CANARY, reason):
        registry.mirror_aliases(problem.name)  # an earlier attempt was interrupted here
        return now
    if why := logging_off_reason(problem.name):
        hint = "turn the prediction log on, or leave `canary` out of the problem's Promotion"
        raise ModelError(f"a canary needs the prediction log, which is off: {why}", where=problem.name, hint=hint)
    package_version(problem, version)
    share = (problem.promotion.canary or Canary()).steps[0]
    changes = {"challenger": version, "shadow": False, "share": share}
    entry = registry.move_aliases(before, problem.name, CANARY, reason, **changes)
    log.info("version %d serves %.0f%% of the entities: %s", version.version, 100 * share, reason)
    return entry

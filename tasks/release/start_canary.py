"""Let a version that came through its gates answer a share of the requests, before it is champion."""

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


def starts_as_canary(problem: Problem, seen: Aliases, version: ModelVersion) -> bool:
    """Whether the problem asks for a canary, and there is a champion to hold it against."""
    return problem.promotion.canary is not None and seen.champion is not None and seen.champion != version


@task(name="start canary", **RETRY)
def start_canary(seen: Aliases, version: ModelVersion, reason: str) -> Aliases:
    """The version is challenger, and has the share of the first step. `seen`: the aliases as they were when it was
    judged. It is packaged first, unless it was: an endpoint cannot follow otherwise.

    Raises ModelError if the problem has changed since it was trained, the aliases have moved, or no endpoint logs what
    it answers, which is all that a canary is judged by."""
    problem, now = load_problem(version.problem), aliases.current(version.problem)
    if (now.number, now.challenger, now.action, now.reason) == (seen.number + 1, version, CANARY, reason):
        registry.mirror_aliases(problem.name)  # tried before, and cut off after
        return now
    if why := logging_off_reason(problem.name):
        hint = "switch the prediction log on, or leave `canary` out of the problem's Promotion"
        raise ModelError(
            f"a canary is judged by the prediction log, which is off: {why}", where=problem.name, hint=hint
        )
    package_version(problem, version)
    share = (problem.promotion.canary or Canary()).steps[0]
    changes = {"challenger": version, "shadow": False, "share": share}
    entry = registry.move_aliases(seen, problem.name, CANARY, reason, **changes)
    log.info("version %d answers %.0f%% of the entities: %s", version.version, 100 * share, reason)
    return entry

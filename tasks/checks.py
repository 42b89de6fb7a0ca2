"""The checks of a problem: each is made whatever becomes of the others, and one that cannot be made says so."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from truecourse.errors import FeatureError, ModelError, NotFound
from truecourse.monitoring.findings import Check, Finding, Report

log = logging.getLogger("truecourse.monitor")
_NOT_YET = (NotFound, ModelError, FeatureError)
"""What a check raises where there is nothing to look at yet: no champion, no predictions."""


def made(check: Check, task: Callable[..., Report], problem: str, *arguments: Any) -> Report:
    """The task's report. Where there is nothing yet to check, one that says so; where the check itself breaks, one that
    pages: a watchman who is gone is missed."""
    try:
        return task(problem, *arguments)
    except _NOT_YET as error:
        log.warning("%s: %s", check, error.what)
        return _unmade(check, problem, f"Not checked: {error.what}.")
    except Exception as error:
        log.exception("the check of %s broke", check)
        told = f"The check of {check} broke: {type(error).__name__}."
        broken = Finding(check=check, subject="check", cause="check broken", page=True, sentence=told)
        return _unmade(check, problem, told, broken)


def _unmade(check: Check, problem: str, sentence: str, *findings: Finding) -> Report:
    return Report(
        check=check, problem=problem, at=datetime.now(UTC), sentence=sentence, made=False, findings=tuple(findings)
    )

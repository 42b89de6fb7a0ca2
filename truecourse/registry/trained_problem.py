"""The problem as a model version was trained on it: the version reads rows by this declaration until it is replaced.

An edit of the problem changes neither the columns, types and limits by which a trained version reads a file, a request
or a decision, nor the definitions of its features. The declaration is archived with the training run.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from truecourse.data.sources import scratch
from truecourse.errors import ModelError, NotFound
from truecourse.problem import Problem
from truecourse.problem.loader import EVALUATION_PARTS, load_problem, problem_document
from truecourse.references import ModelVersion, TrainedRun
from truecourse.registry import run_archive, runs

UNSERVED = EVALUATION_PARTS | {"split", "model", "serving", "description"}
"""Parts of a problem that do not affect predictions (the limits of `serving` are in the contract)."""


@contextmanager
def trained_problem(problem: Problem, version: ModelVersion | TrainedRun) -> Iterator[Problem]:
    """Yield the problem by which a version reads rows. Files of an archived one exist until the block ends.

    It is `problem` itself if no part that affects predictions has changed since the training; otherwise the problem
    that was archived with the training run. Raises ModelError if none was archived."""
    changed = changed_parts(problem, version)
    if not changed:
        yield problem
        return
    with scratch() as folder:
        try:
            own = archived_problem(version, folder)
        except NotFound:
            what = f"the problem has changed since training ({', '.join(changed)}), and none was archived with the run"
            hint = f"restore the problem, or `truecourse run train --problem {problem.name}` and register that"
            raise ModelError(what, where=f"run {version.run_id} of problem {problem.name}", hint=hint) from None
        yield own


def archived_problem(version: ModelVersion | TrainedRun, folder: Path) -> Problem:
    """Load the problem as archived with a version's training, unpacked into `folder`."""
    run_archive.unpack_folder(runs.artifact(version.run_id, run_archive.FOLDER), folder / version.problem)
    return load_problem(version.problem, folder)


def changed_parts(problem: Problem, version: ModelVersion | TrainedRun) -> list[str]:
    """Return the parts of the problem that have changed since a version was trained and affect predictions."""
    recorded, now = json.loads(runs.artifact(version.run_id, "model/problem.json")), problem_document(problem)
    return [name for name in sorted({*now, *recorded} - UNSERVED) if now.get(name) != recorded.get(name)]

"""Compare two problems: folders, or the code that model versions were trained with."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tasks.features.trained_features import archived_problem_of
from tasks.training.compare_models import archived_files, file_diffs, version_number
from truecourse.deployment.bento import code_files
from truecourse.lineage.snapshot_diff import changed_fields
from truecourse.problem.loader import EVALUATION_PARTS, load_problem, problem_document, problem_names
from truecourse.registry import versions as registry
from truecourse.registry.trained_problem import UNSERVED


@dataclass(frozen=True)
class _Side:
    name: str
    files: Mapping[str, bytes]
    document: Mapping[str, Any]


def compare_problems(problem: str, one: str, other: str) -> dict[str, Any]:
    """Compare two problems: {"kind": "problem", "from", "to", "affects", "declared", "code"}.

    A side is a folder of problems/, or names a version of `problem` by number or alias: then it is the archive of its
    training run. `declared`: the fields whose declarations differ. `affects`: what an edit from the first to the second
    changes. `code`: a unified diff by file. Raises ProblemError for an unknown folder, ModelError for an unknown
    version."""
    with _side(problem, one) as before, _side(problem, other) as after:
        declared = changed_fields(before.document, after.document)
        return {
            "kind": "problem",
            "from": before.name,
            "to": after.name,
            "affects": _affects({str(item["field"]).partition(".")[0] for item in declared}),
            "declared": declared,
            "code": file_diffs(before.files, after.files),
        }


@contextmanager
def _side(problem: str, text: str) -> Iterator[_Side]:
    if text.isdigit() or (text in ("champion", "challenger") and text not in problem_names()):
        version = registry.version(problem, version_number(problem, text))
        with archived_problem_of(version) as archived:
            name = f"version {version.version} of {problem}"
            yield _Side(name, archived_files(version), problem_document(archived))
        return
    spec = load_problem(text)
    yield _Side(f"problems/{text}", dict(code_files(spec.folder)), problem_document(spec))


def _affects(parts: set[str]) -> str:
    if not parts:
        return "nothing"
    if parts <= EVALUATION_PARTS | {"description"}:
        return "gates, monitoring or descriptions; training gives the same model"
    if parts <= UNSERVED:
        return "training; a packaged model serves as before"
    return "training and the endpoint: a model must be trained and packaged anew"

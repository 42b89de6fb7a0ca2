"""Problems that `init` drafts from a file, for tests of what it recognizes."""

from pathlib import Path

from truecourse.authoring.checks.run_checks import check_problem
from truecourse.authoring.scaffold.create import Draft, scaffold
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.problem.schema import Files

CASES = Path(__file__).parent / "data" / "cases"


def draft_problem(data: Path | str, label: str) -> tuple[Problem, Draft]:
    draft = scaffold("drafted", data, label)
    problem = load_problem("drafted")
    assert check_problem(problem) == []
    return problem, draft


def kinds(problem: Problem) -> dict[str, type]:
    return {name: type(column) for name, column in problem.tables[0].columns.items()}


def source(problem: Problem) -> Files:
    files = problem.tables[0].source
    assert isinstance(files, Files)
    return files


def write_file(path: Path, lines: list[str], encoding: str = "utf-8") -> Path:
    path.write_bytes("\n".join(lines).encode(encoding))
    return path

"""Finding a problem by name, and the document and digest that identify what it says."""

import dataclasses
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Mapping
from datetime import date, timedelta
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

from pydantic import ValidationError

import truecourse.problem
from truecourse.digests import sha256, sha256_json
from truecourse.errors import Fault, ProblemError, SettingsError
from truecourse.problem import Problem
from truecourse.settings import get_settings
from truecourse.wording import nearest, suggestion


def problem_names() -> list[str]:
    return sorted(path.parent.name for path in get_settings().problems.glob("*/problem.py"))


def default_problem() -> str:
    """The problem that is meant where none is named: the settings', or the only one there is where the settings' own
    default is not there. Raises SettingsError where that leaves none or several."""
    settings, names = get_settings(), problem_names()
    if settings.problem in names or "problem" in settings.model_fields_set:
        return settings.problem
    if len(names) == 1:
        return names[0]
    if not names:
        raise SettingsError(
            "no problem is there", where=str(settings.problems), cure="truecourse init NAME --data FILE --label COLUMN"
        )
    what = f"no problem is named, and there are {len(names)}: {', '.join(names)}"
    raise SettingsError(what, where=str(settings.problems), cure="name one by --problem, or in TRUECOURSE_PROBLEM")


def load_problem(name: str | None = None, problems: Path | None = None) -> Problem:
    """The PROBLEM of `<problems>/<name>/problem.py`, of the settings' problems unless others are given. Raises
    ProblemError with a place and a cure."""
    name = name or default_problem()
    folder = (problems or get_settings().problems) / name
    file = folder / "problem.py"
    if not file.is_file():
        raise ProblemError(name, [Fault(str(file), "no such file", _known_problems(name))])
    problem = getattr(_import(name, file), "PROBLEM", None)
    if not isinstance(problem, Problem):
        raise ProblemError(name, [Fault(str(file), "defines no PROBLEM", "end it with PROBLEM = Problem(...)")])
    if problem.name != name:
        raise ProblemError(
            name, [Fault(str(file), f"its name is {problem.name!r}", f"name it {name!r}, as its folder")]
        )
    return dataclasses.replace(problem, folder=folder)


def _known_problems(name: str) -> str:
    names = problem_names()
    close = suggestion(name, names)
    known = f"known problems: {', '.join(names) or 'none'}; or `truecourse init {name}`"
    return f"{close} {known}" if close else known


class _AsWritten(SourceFileLoader):
    """Compiles what the file says now. Python's bytecode cache knows a file by its size and second: it would give the
    problem of before where an edit changes a digit right after a run."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _import(name: str, file: Path) -> Any:
    module_name = f"problems.{name}.problem"
    loader = _AsWritten(module_name, str(file))
    spec = importlib.util.spec_from_file_location(module_name, file, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # so that its functions can be pickled and inspected
    try:
        loader.exec_module(module)
    except ValidationError as error:
        where = f"{file}:{_line_of(error, file)} {error.title}"
        raise ProblemError(
            name, [Fault(_place(where, e["loc"]), e["msg"], _cure(e, error.title)) for e in error.errors()]
        ) from None
    except Exception as error:
        fault = Fault(f"{file}:{_line_of(error, file)}", f"{type(error).__name__}: {error}", _misspelt(error))
        raise ProblemError(name, [fault]) from error
    return module


def _place(where: str, location: tuple[int | str, ...]) -> str:
    return f"{where}.{'.'.join(map(str, location))}" if location else where


def _cure(error: Any, kind: str) -> str:
    """`kind`: the name of the class that did not take the value."""
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        made = getattr(truecourse.problem, kind, None)
        names = [field.name for field in dataclasses.fields(made)] if dataclasses.is_dataclass(made) else []
        close = suggestion(str(error["loc"][-1]), names)
        return close or (f"{kind} takes {', '.join(names)}" if names else "remove it")
    return f"got {error['input']!r:.80}"


def _misspelt(error: Exception) -> str:
    """What may have been meant where a name of truecourse.problem does not exist."""
    if isinstance(error, ImportError) and error.name == truecourse.problem.__name__:
        wrong = re.search(r"cannot import name '(\w+)'", str(error))
        return nearest(wrong[1], truecourse.problem.__all__) if wrong else ""
    return suggestion(error.name, truecourse.problem.__all__) if isinstance(error, NameError) and error.name else ""


def _line_of(error: BaseException, file: Path) -> int:
    if isinstance(error, SyntaxError):
        return error.lineno or 0
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return lines[-1] or 0 if lines else 0


def problem_document(problem: Problem) -> dict[str, Any]:
    """Everything the problem says, as JSON: values that are not defaults, digests of the SQL and functions it names."""
    document: dict[str, Any] = _document(dataclasses.replace(problem, folder=Path()))
    names = [problem.spine, problem.label.sql, *problem.relations.values(), *(view.sql for view in problem.views)]
    document["sql"] = {name: sha256(problem.text(name).encode()) for name in sorted({n for n in names if n})}
    return document


def problem_digest(problem: Problem) -> str:
    return sha256_json(problem_document(problem))


def _document(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        defaults = {f.name: f.default for f in dataclasses.fields(value)}
        said = {k: _document(v) for k, v in fields.items() if isinstance(v, bool) or v != defaults[k]}
        return {"is": type(value).__name__, **said}
    if isinstance(value, Mapping):
        return {str(k): _document(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_document(v) for v in value]
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, date | Path):
        return str(value)
    if callable(value):
        return {"function": value.__name__, "sha256": sha256(inspect.getsource(value).encode())}
    return value

"""Finding a problem by name, and the document and digest that identify what it says."""

import ast
import dataclasses
import importlib.util
import inspect
import re
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from pydantic import ValidationError

import truecourse.problem.definition
from truecourse.errors import Fault, ProblemError, SettingsError
from truecourse.hashing import sha256, sha256_json
from truecourse.problem.definition import Problem
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
            "no problem is there", where=str(settings.problems), hint="truecourse init NAME --data FILE --label COLUMN"
        )
    what = f"no problem is named, and there are {len(names)}: {', '.join(names)}"
    raise SettingsError(what, where=str(settings.problems), hint="name one by --problem, or in TRUECOURSE_PROBLEM")


def load_problem(name: str | None = None, problems: Path | None = None) -> Problem:
    """The PROBLEM of `<problems>/<name>/problem.py`, of the settings' problems unless others are given. Raises
    ProblemError with a place and a hint."""
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


class _Beside(MetaPathFinder):
    """Finds the modules beside a problem.py: `from .helpers import x` reads helpers.py of the problem's folder."""

    @staticmethod
    def find_spec(fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        name = fullname.rpartition(".")[2]
        for folder in map(Path, path or () if fullname.startswith("problems.") else ()):
            for file, places in ((folder / f"{name}.py", None), (folder / name / "__init__.py", [str(folder / name)])):
                if file.is_file():
                    loader = _AsWritten(fullname, str(file))
                    return importlib.util.spec_from_file_location(
                        fullname, file, loader=loader, submodule_search_locations=places
                    )
        return None


sys.meta_path.insert(0, _Beside())
_importing = threading.RLock()


def _import(name: str, file: Path) -> Any:
    """The module, and those of its folder that it imports, as they are written now."""
    with _importing:
        package = f"problems.{name}"
        for known in [module for module in sys.modules if module == package or module.startswith(f"{package}.")]:
            del sys.modules[known]
        folder = ModuleSpec(package, None, is_package=True)
        folder.submodule_search_locations = [str(file.parent)]
        sys.modules[package] = importlib.util.module_from_spec(folder)
        return _executed(name, f"{package}.problem", file)


def _executed(name: str, module_name: str, file: Path) -> Any:
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
            name, [Fault(_place(where, e["loc"]), e["msg"], _hint(e, error.title)) for e in error.errors()]
        ) from None
    except Exception as error:
        fault = Fault(
            f"{file}:{_line_of(error, file)}",
            f"{type(error).__name__}: {error}",
            _beside(error, file) or _misspelt(error),
        )
        raise ProblemError(name, [fault]) from error
    return module


def _beside(error: Exception, file: Path) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name and (file.parent / f"{error.name}.py").is_file():
        return f"{error.name}.py lies beside it: from .{error.name} import ..."
    return ""


def _place(where: str, location: tuple[int | str, ...]) -> str:
    return f"{where}.{'.'.join(map(str, location))}" if location else where


def _hint(error: Any, kind: str) -> str:
    """`kind`: the name of the class that did not take the value."""
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        made = getattr(truecourse.problem, kind, None)
        names = [field.name for field in dataclasses.fields(made)] if dataclasses.is_dataclass(made) else []
        close = suggestion(str(error["loc"][-1]), names)
        return close or (f"{kind} takes {', '.join(names)}" if names else "remove it")
    return f"got {error['input']!r:.80}"


def _misspelt(error: Exception) -> str:
    """What may have been meant where a name of truecourse.problem.definition does not exist."""
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
    """Everything the problem says, as JSON: values that are not defaults, digests of the SQL that it names, of its
    functions with all that they reach in their file, and of every other Python file of its folder."""
    document: dict[str, Any] = declaration_document(dataclasses.replace(problem, folder=Path()))
    names = [problem.spine, problem.label.sql, *problem.relations.values(), *(view.sql for view in problem.views)]
    code = {path: sha256(data) for path, data in python_files(problem.folder).items() if path != "problem.py"}
    if code:
        document["code"] = code
    document["sql"] = {name: sha256(problem.text(name).encode()) for name in sorted({n for n in names if n})}
    return document


def python_files(folder: Path) -> dict[str, bytes]:
    """The Python below a problem's folder, by path; not its data, nor what is hidden."""
    found = {}
    for path in sorted(folder.rglob("*.py")) if folder != Path() else ():
        name = path.relative_to(folder)
        hidden = any(part.startswith((".", "__pycache__")) for part in name.parts)
        if path.is_file() and not hidden and name.parts[0] != "data":
            found[name.as_posix()] = path.read_bytes()
    return found


def problem_digest(problem: Problem) -> str:
    return sha256_json(problem_document(problem))


EVALUATION_PARTS = frozenset({"gates", "promotion", "monitoring"})
"""Parts of a problem by which models are judged and watched, and on which no training depends."""


def training_document(problem: Problem) -> dict[str, Any]:
    """What frames, models and their contracts depend on: problem_document() without JUDGING, and without the
    objectives of serving."""
    document = {name: part for name, part in problem_document(problem).items() if name not in EVALUATION_PARTS}
    serving = {name: part for name, part in document.pop("serving", {}).items() if name != "objectives"}
    return document | ({"serving": serving} if len(serving) > 1 else {})


def training_digest(problem: Problem) -> str:
    return sha256_json(training_document(problem))


def evaluation_digest(problem: Problem) -> str:
    """Of what a trained model is judged by before its promotion."""
    document = problem_document(problem)
    slices = document.get("monitoring", {}).get("slices")
    return sha256_json([document.get("gates"), document.get("promotion"), slices])


def declaration_document(value: Any) -> Any:
    """What a declaration says, as JSON: values that are not defaults, functions by all that they reach."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        defaults = {f.name: f.default for f in dataclasses.fields(value)}
        said = {k: declaration_document(v) for k, v in fields.items() if isinstance(v, bool) or v != defaults[k]}
        return {"is": type(value).__name__, **said}
    if isinstance(value, Mapping):
        return {str(k): declaration_document(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [declaration_document(v) for v in value]
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, date | Path):
        return str(value)
    if callable(value):
        return {"function": value.__name__, "sha256": sha256_json(function_statements(value))}
    return value


def function_statements(function: Callable[..., Any]) -> list[str]:
    """The statements that a function of a file consists of and, from one to the next, those of the file that bind a
    name they use: functions it calls, constants it reads, imports. Comments and layout are not among them."""
    file, name = inspect.getsourcefile(function), getattr(function, "__name__", "")
    statements = ast.parse(Path(file).read_bytes()).body if file else []
    bound: dict[str, list[int]] = {}
    for place, statement in enumerate(statements):
        for known in _bound(statement):
            bound.setdefault(known, []).append(place)
    if name not in bound:
        return [inspect.getsource(function)]
    taken: set[int] = set()
    wanted = [name]
    while wanted:
        places = [place for place in bound.get(wanted.pop(), ()) if place not in taken]
        taken.update(places)
        for place in places:
            wanted += [node.id for node in ast.walk(statements[place]) if isinstance(node, ast.Name)]
    return [ast.dump(statements[place]) for place in sorted(taken)]


def _bound(statement: ast.stmt) -> set[str]:
    """Names that a statement of a file binds, in its blocks too."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    found: set[str] = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            found |= {part.id for part in ast.walk(node.value) if isinstance(part, ast.Name)}
    if isinstance(statement, ast.Expr):  # a call that may change what it is given: TABLE.update(...)
        found |= {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
    return found

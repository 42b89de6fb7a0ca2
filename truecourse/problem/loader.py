"""Load a problem by name, and compute the document and digest of its definition."""

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
from truecourse.stored_format import with_former_names
from truecourse.wording import nearest, suggestion


def problem_names() -> list[str]:
    return sorted(path.parent.name for path in get_settings().problems.glob("*/problem.py"))


def default_problem() -> str:
    """The problem to use if none is named: that of the settings, or, if the built-in default does not exist, the only
    existing one. Raises SettingsError if there are none or several."""
    settings, names = get_settings(), problem_names()
    if settings.problem in names or "problem" in settings.model_fields_set:
        return settings.problem
    if len(names) == 1:
        return names[0]
    if not names:
        raise SettingsError(
            "there is no problem", where=str(settings.problems), hint="truecourse init NAME --data FILE --label COLUMN"
        )
    what = f"no problem was given, and there are {len(names)}: {', '.join(names)}"
    raise SettingsError(what, where=str(settings.problems), hint="choose one with --problem or TRUECOURSE_PROBLEM")


def load_problem(name: str | None = None, problems: Path | None = None) -> Problem:
    """Load PROBLEM from `<problems>/<name>/problem.py`. `problems`: the folder of problems, by default the settings'.
    Raises ProblemError with a place and a hint."""
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


class _UncachedLoader(SourceFileLoader):
    """Compiles the current source. Python's bytecode cache compares size and modification second, so it would miss an
    edit of one digit right after a run."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


class _ProblemFolderFinder(MetaPathFinder):
    """Finds modules in a problem's folder: `from .helpers import x` reads helpers.py next to problem.py."""

    @staticmethod
    def find_spec(fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        name = fullname.rpartition(".")[2]
        for folder in map(Path, path or () if fullname.startswith("problems.") else ()):
            for file, places in ((folder / f"{name}.py", None), (folder / name / "__init__.py", [str(folder / name)])):
                if file.is_file():
                    loader = _UncachedLoader(fullname, str(file))
                    return importlib.util.spec_from_file_location(
                        fullname, file, loader=loader, submodule_search_locations=places
                    )
        return None


sys.meta_path.insert(0, _ProblemFolderFinder())
_importing = threading.RLock()


def _import(name: str, file: Path) -> Any:
    """Import problem.py and the modules that it imports from its folder, without cached versions."""
    with _importing:
        package = f"problems.{name}"
        for known in [module for module in sys.modules if module == package or module.startswith(f"{package}.")]:
            del sys.modules[known]
        folder = ModuleSpec(package, None, is_package=True)
        folder.submodule_search_locations = [str(file.parent)]
        sys.modules[package] = importlib.util.module_from_spec(folder)
        return _execute(name, f"{package}.problem", file)


def _execute(name: str, module_name: str, file: Path) -> Any:
    loader = _UncachedLoader(module_name, str(file))
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
            _local_import_hint(error, file) or _misspelt(error),
        )
        raise ProblemError(name, [fault]) from error
    return module


def _local_import_hint(error: Exception, file: Path) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name and (file.parent / f"{error.name}.py").is_file():
        return f"{error.name}.py is in the same folder: from .{error.name} import ..."
    return ""


def _place(where: str, location: tuple[int | str, ...]) -> str:
    return f"{where}.{'.'.join(map(str, location))}" if location else where


def _hint(error: Any, kind: str) -> str:
    """A hint for a validation error. `kind`: the name of the class that rejected the value."""
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        declared = getattr(truecourse.problem, kind, None)
        names = [field.name for field in dataclasses.fields(declared)] if dataclasses.is_dataclass(declared) else []
        close = suggestion(str(error["loc"][-1]), names)
        return close or (f"{kind} takes {', '.join(names)}" if names else "remove it")
    return f"got {error['input']!r:.80}"


def _misspelt(error: Exception) -> str:
    """Suggest names of truecourse.problem for one that does not exist."""
    if isinstance(error, ImportError) and error.name == truecourse.problem.__name__:
        unknown = re.search(r"cannot import name '(\w+)'", str(error))
        return nearest(unknown[1], truecourse.problem.__all__) if unknown else ""
    return suggestion(error.name, truecourse.problem.__all__) if isinstance(error, NameError) and error.name else ""


def _line_of(error: BaseException, file: Path) -> int:
    if isinstance(error, SyntaxError):
        return error.lineno or 0
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return lines[-1] or 0 if lines else 0


def problem_document(problem: Problem) -> dict[str, Any]:
    """The problem's definition as JSON: non-default values, and digests of its SQL files, of its functions with the
    statements that they depend on in their file, and of the other Python files of its folder.

    Owners and tags are left out: an edit of them changes no model."""
    document: dict[str, Any] = _without_owners(declaration_document(dataclasses.replace(problem, folder=Path())))
    code = {path: sha256(data) for path, data in python_files(problem.folder).items() if path != "problem.py"}
    if code:
        document["code"] = code
    document["sql"] = {name: sha256(problem.text(name).encode()) for name in sorted(problem.sql_files)}
    return document


def _without_owners(document: dict[str, Any]) -> dict[str, Any]:
    """The document of a problem without the owners and tags of the problem, its views and its request features."""
    kept = {name: part for name, part in document.items() if name != "owner"}
    if "views" in kept:
        kept["views"] = [without_owner(view) for view in kept["views"]]
    if isinstance(kept.get("request_features"), dict):
        kept["request_features"] = without_owner(kept["request_features"])
    return kept


def without_owner(document: dict[str, Any]) -> dict[str, Any]:
    """The document of a view or of request features without `owner` and `tags`."""
    return {name: part for name, part in document.items() if name not in ("owner", "tags")}


def python_files(folder: Path) -> dict[str, bytes]:
    """The Python files below a problem's folder, by path, without its data folder and hidden files."""
    files = {}
    for path in sorted(folder.rglob("*.py")) if folder != Path() else ():
        name = path.relative_to(folder)
        hidden = any(part.startswith((".", "__pycache__")) for part in name.parts)
        if path.is_file() and not hidden and name.parts[0] != "data":
            files[name.as_posix()] = path.read_bytes()
    return files


def problem_digest(problem: Problem) -> str:
    return sha256_json(problem_document(problem))


def former_problem_digest(problem: Problem) -> str:
    """problem_digest() of the definition with the names of format 1, as in the Bentos of that format."""
    return sha256_json(with_former_names(problem_document(problem)))


EVALUATION_PARTS = frozenset({"gates", "promotion", "monitoring"})
"""Parts of a problem for evaluation and monitoring of models, on which no training depends."""


def training_document(problem: Problem) -> dict[str, Any]:
    """The part of the definition on which training frames, models and contracts depend: problem_document() without
    EVALUATION_PARTS and the serving objectives."""
    document = {name: part for name, part in problem_document(problem).items() if name not in EVALUATION_PARTS}
    serving = {name: part for name, part in document.pop("serving", {}).items() if name != "objectives"}
    return document | ({"serving": serving} if len(serving) > 1 else {})


def training_digest(problem: Problem) -> str:
    return sha256_json(training_document(problem))


def evaluation_digest(problem: Problem) -> str:
    """Digest of the rules for evaluating a trained model before its promotion."""
    document = problem_document(problem)
    slices = document.get("monitoring", {}).get("slices")
    return sha256_json([document.get("gates"), document.get("promotion"), slices])


def declaration_document(value: Any) -> Any:
    """A declaration as JSON: non-default values, and digests of functions with the statements they depend on."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        defaults = {f.name: f.default for f in dataclasses.fields(value)}
        values = {k: declaration_document(v) for k, v in fields.items() if isinstance(v, bool) or v != defaults[k]}
        return {"is": type(value).__name__, **values}
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
    """The statements of a function and, transitively, those of its file that bind a name they use: called functions,
    constants, imports. Comments and layout are ignored."""
    file, name = inspect.getsourcefile(function), getattr(function, "__name__", "")
    statements = ast.parse(Path(file).read_bytes()).body if file else []
    bound: dict[str, list[int]] = {}
    for number, statement in enumerate(statements):
        for bound_name in _bound_names(statement):
            bound.setdefault(bound_name, []).append(number)
    if name not in bound:
        return [inspect.getsource(function)]
    taken: set[int] = set()
    wanted = [name]
    while wanted:
        numbers = [number for number in bound.get(wanted.pop(), ()) if number not in taken]
        taken.update(numbers)
        for number in numbers:
            wanted += [node.id for node in ast.walk(statements[number]) if isinstance(node, ast.Name)]
    return [ast.dump(statements[number]) for number in sorted(taken)]


def _bound_names(statement: ast.stmt) -> set[str]:
    """The names that a statement binds, including its nested blocks."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    names: set[str] = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            names |= {part.id for part in ast.walk(node.value) if isinstance(part, ast.Name)}
    if isinstance(statement, ast.Expr):  # a call that may change its arguments: TABLE.update(...)
        names |= {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
    return names

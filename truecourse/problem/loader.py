"""Load problems and feature areas by name, and compute documents and digests of their definitions."""

import ast
import dataclasses
import importlib.util
import inspect
import re
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from pydantic import ValidationError

import truecourse.problem.definition
from truecourse.errors import AreaError, Fault, ProblemError, SettingsError
from truecourse.hashing import sha256, sha256_json
from truecourse.problem.definition import Problem
from truecourse.problem.namespace import AREAS, FeatureArea, Namespace
from truecourse.settings import get_settings
from truecourse.stored_format import with_former_names
from truecourse.wording import nearest, suggestion

_SHARED = "problem.py shared_views"


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
        hint = f"{_known(name, problem_names(), 'problems')}; or `truecourse init {name}`"
        raise ProblemError(name, [Fault(str(file), "no such file", hint)])
    if problems is None:
        _require_unique(name)
    problem = getattr(_import("problems", name, file), "PROBLEM", None)
    if not isinstance(problem, Problem):
        raise ProblemError(name, [Fault(str(file), "defines no PROBLEM", "end it with PROBLEM = Problem(...)")])
    _require_name(problem, name, file)
    return _with_shared_views(dataclasses.replace(problem, folder=folder))


def _require_name(namespace: Namespace, name: str, file: Path) -> None:
    if namespace.name != name:
        fault = Fault(str(file), f"its name is {namespace.name!r}", f"name it {name!r}, as its folder")
        raise ProblemError(name, [fault])


def _require_unique(name: str) -> None:
    if name in problem_names() and name in area_names():
        hint = "rename one of the folders: tables and features are stored under this name"
        what = f"there are a problem and a feature area called {name!r}"
        raise ProblemError(name, [Fault(str(_areas_folder() / name), what, hint)])


def _areas_folder() -> Path:
    return get_settings().problems.parent / AREAS


def area_names() -> list[str]:
    return sorted(path.parent.name for path in _areas_folder().glob("*/area.py"))


def load_area(name: str, areas: Path | None = None) -> FeatureArea:
    """Load AREA from `<areas>/<name>/area.py`. `areas`: the folder of feature areas, by default the settings'.

    Raises AreaError with a place and a hint."""
    folder = (areas or _areas_folder()) / name
    file = folder / "area.py"
    if not file.is_file():
        raise AreaError(name, [Fault(str(file), "no such file", _known(name, area_names(), "feature areas"))])
    if areas is None:
        _require_unique(name)
    area = getattr(_import(AREAS, name, file), "AREA", None)
    if not isinstance(area, FeatureArea):
        raise AreaError(name, [Fault(str(file), "defines no AREA", "end it with AREA = FeatureArea(...)")])
    _require_name(area, name, file)
    return dataclasses.replace(area, folder=folder)


def load_namespace(name: str) -> Namespace:
    """Load a problem or, if there is none of this name, a feature area."""
    return load_area(name) if name not in problem_names() and name in area_names() else load_problem(name)


def load_problem_or_area(problem: str | None, area: str | None) -> Namespace:
    """Load a problem, or a feature area if one is named. Raises SettingsError if both are named."""
    if area is None:
        return load_problem(problem)
    if problem is not None:
        raise SettingsError("a problem and an area were given", where="--area", hint="leave one of them out")
    return load_area(area)


def _with_shared_views(problem: Problem) -> Problem:
    """The problem with its shared views and their areas. Those in its own folder, as in an archive, come first."""
    parts = [name.split(".") for name in problem.shared_views]
    areas = {area: _used_area(problem, area) for area, _ in parts}
    faults = [
        Fault(_SHARED, f"feature area {area} has no view {view!r}", nearest(view, [v.name for v in areas[area].views]))
        for area, view in parts
        if view not in {known.name for known in areas[area].views}
    ]
    names = Counter([*(view.name for view in problem.views), *(view for _, view in parts)])
    faults += [
        Fault(_SHARED, f"two views of the problem are called {name!r}", "rename one, or use only one")
        for name in dict.fromkeys(view for _, view in parts)
        if names[name] > 1
    ]
    if faults:
        raise ProblemError(problem.name, faults)
    used = {name: [view for area, view in parts if area == name] for name in areas}
    restricted = {name: area.restricted(used[name]) for name, area in areas.items()}
    shared = [areas[area].view(view) for area, view in parts]
    return dataclasses.replace(problem, views=[*problem.views, *shared], areas=restricted)


def _used_area(problem: Problem, name: str) -> FeatureArea:
    own = problem.folder / AREAS
    if (own / name).is_dir():
        return load_area(name, own)
    if name not in area_names():
        fault = Fault(_SHARED, f"there is no feature area {name!r}", _known(name, area_names(), "feature areas"))
        raise ProblemError(problem.name, [fault])
    return load_area(name)


def _known(name: str, names: Sequence[str], what: str) -> str:
    close, known = suggestion(name, names), f"known {what}: {', '.join(names) or 'none'}"
    return f"{close} {known}" if close else known


class _UncachedLoader(SourceFileLoader):
    """Compiles the current source. Python's bytecode cache compares size and modification second, so it would miss an
    edit of one digit right after a run."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


class _FolderFinder(MetaPathFinder):
    """Finds modules in the folder of a problem or area: `from .helpers import x` reads helpers.py in it."""

    @staticmethod
    def find_spec(fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        name = fullname.rpartition(".")[2]
        for folder in map(Path, path or () if fullname.startswith(("problems.", f"{AREAS}.")) else ()):
            for file, places in ((folder / f"{name}.py", None), (folder / name / "__init__.py", [str(folder / name)])):
                if file.is_file():
                    loader = _UncachedLoader(fullname, str(file))
                    return importlib.util.spec_from_file_location(
                        fullname, file, loader=loader, submodule_search_locations=places
                    )
        return None


sys.meta_path.insert(0, _FolderFinder())
_importing = threading.RLock()


def _import(parent: str, name: str, file: Path) -> Any:
    """Import problem.py or area.py, and the modules that it imports from its folder, without cached versions."""
    with _importing:
        package = f"{parent}.{name}"
        for known in [module for module in sys.modules if module == package or module.startswith(f"{package}.")]:
            del sys.modules[known]
        folder = ModuleSpec(package, None, is_package=True)
        folder.submodule_search_locations = [str(file.parent)]
        sys.modules[package] = importlib.util.module_from_spec(folder)
        return _execute(name, f"{package}.{file.stem}", file)


def _execute(name: str, module_name: str, file: Path) -> Any:
    loader = _UncachedLoader(module_name, str(file))
    spec = importlib.util.spec_from_file_location(module_name, file, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # so that its functions can be pickled and inspected
    kind = AreaError if file.stem == "area" else ProblemError
    try:
        loader.exec_module(module)
    except ValidationError as error:
        where = f"{file}:{_line_of(error, file)} {error.title}"
        raise kind(
            name, [Fault(_place(where, e["loc"]), e["msg"], _hint(e, error.title)) for e in error.errors()]
        ) from None
    except Exception as error:
        fault = Fault(
            f"{file}:{_line_of(error, file)}",
            f"{type(error).__name__}: {error}",
            _local_import_hint(error, file) or _misspelt(error),
        )
        raise kind(name, [fault]) from error
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
    statements that they depend on in their file, and of the other Python files of its folder. The areas of its shared
    views have documents of their own, without what the views cannot depend on.

    Owners, tags and the card are left out: an edit of them changes no model."""
    bare = dataclasses.replace(problem, folder=Path(), views=problem.own_views, areas={})
    document: dict[str, Any] = _without_owners(declaration_document(bare))
    del document["areas"]
    if problem.areas:
        document["areas"] = {name: _area_document(area) for name, area in problem.areas.items()}
    code = {path: sha256(data) for path, data in python_files(problem.folder).items() if path != "problem.py"}
    if code:
        document["code"] = code
    document["sql"] = {name: sha256(problem.text(name).encode()) for name in sorted(problem.sql_files)}
    return document


def _without_owners(document: dict[str, Any]) -> dict[str, Any]:
    """The document of a problem without its card, and owners and tags of itself, its views and request features."""
    kept = {name: part for name, part in document.items() if name not in ("owner", "card")}
    if "views" in kept:
        kept["views"] = [without_owner(view) for view in kept["views"]]
    if isinstance(kept.get("request_features"), dict):
        kept["request_features"] = without_owner(kept["request_features"])
    return kept


def without_owner(document: dict[str, Any]) -> dict[str, Any]:
    """The document of a view or of request features without `owner` and `tags`."""
    return {name: part for name, part in document.items() if name not in ("owner", "tags")}


def _area_document(area: FeatureArea) -> dict[str, Any]:
    """An area's definition as JSON, without the texts about the whole area."""
    document = _without_owners(declaration_document(dataclasses.replace(area, folder=Path(), description="", tags=())))
    return document | {"sql": {name: sha256(area.text(name).encode()) for name in sorted(area.sql_files)}}


def python_files(folder: Path) -> dict[str, bytes]:
    """The Python files below a problem's folder, by path, without hidden files and the folders of data and areas."""
    files = {}
    for path in sorted(folder.rglob("*.py")) if folder != Path() else ():
        name = path.relative_to(folder)
        hidden = any(part.startswith((".", "__pycache__")) for part in name.parts)
        if path.is_file() and not hidden and name.parts[0] not in ("data", AREAS):
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

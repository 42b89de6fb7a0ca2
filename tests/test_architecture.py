"""The packages, and what may be imported between them."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

from tests.conftest import REPOSITORY

PACKAGES = ("truecourse", "tasks", "flows", "feature_repo", "services", "cli", "benchmarks")
HEAVY = ("mlflow", "feast", "great_expectations", "evidently", "optuna", "bentoml", "matplotlib", "sklearn")
WATCHED = """
import json, sys
seen = []
def hook(event, arguments):
    if event in ("socket.connect", "subprocess.Popen", "os.mkdir", "os.rename", "os.remove"):
        seen.append(f"{event} {arguments[0]}")
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        seen.append(f"open {arguments[0]}")
import pydantic, numpy, pandas, pyarrow.dataset, prefect, duckdb, deltalake, rich, typer
light, heavy = json.loads(sys.argv[1])
sys.addaudithook(hook)
for name in light:
    __import__(name)
loaded = sorted({module.partition(".")[0] for module in sys.modules})
watched, seen = seen, []
import feast  # writes to the temporary folder when it is imported
seen = []
for name in heavy:
    __import__(name)
events = [event for event in watched + seen if "__pycache__" not in event and "/dev/null" not in event]
print(json.dumps({"events": events, "modules": loaded}))
"""


def files(*packages: str) -> Iterator[Path]:
    for package in packages or PACKAGES:
        yield from sorted((REPOSITORY / package).rglob("*.py"))


def modules(*packages: str) -> list[str]:
    names = [path.relative_to(REPOSITORY).with_suffix("").as_posix().replace("/", ".") for path in files(*packages)]
    return [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]


def name(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def test_every_import_contract_holds() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_compiled_functions_call_only_those_of_their_own_file() -> None:
    """Numba's cache on disk does not notice that a function of another file changed: the old one would run."""
    compiled = {path: list(_compiled(ast.parse(path.read_text()))) for path in files("truecourse")}
    known = {function.name for functions in compiled.values() for function in functions}
    assert len(known) > 2
    for path, functions in compiled.items():
        here = {function.name for function in functions}
        for function in functions:
            called = {node.func.id for node in ast.walk(function) if isinstance(node, ast.Call)
                      if isinstance(node.func, ast.Name)}  # fmt: skip
            assert called & known <= here, f"{name(path)}: {function.name}"


def _compiled(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and any("njit" in ast.unparse(one) for one in node.decorator_list):
            yield node


def test_each_package_has_a_docstring_and_lists_what_others_import() -> None:
    """`__all__` of a package lists the modules that are imported from outside it; all others are private."""
    known, imported = set(modules()), list(imports())
    for path in files("truecourse", "services", "tasks", "cli"):
        if path.name != "__init__.py" or path.parent.name in ("truecourse", "client", "problem"):  # those export names
            continue
        tree, package = ast.parse(path.read_text()), module_name(path)
        assert 2 <= len((ast.get_docstring(tree) or "").splitlines()) <= 5, package
        listed = [ast.literal_eval(value) for value in map(_all_of, tree.body) if value is not None]
        below = {to.removeprefix(f"{package}.").partition(".")[0] for by, to in imported
                 if to.startswith(f"{package}.") and not _within(by, package)}  # fmt: skip
        used = {child for child in below if f"{package}.{child}" in known}
        assert listed == [sorted(used)], package


def imports() -> Iterator[tuple[str, str]]:
    """(module, imported name) of every import in our code."""
    for path in files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                yield from ((module_name(path), f"{node.module}.{alias.name}") for alias in node.names)
            elif isinstance(node, ast.Import):
                yield from ((module_name(path), alias.name) for alias in node.names)


def module_name(path: Path) -> str:
    return name(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def _all_of(node: ast.stmt) -> ast.expr | None:
    """The value that a statement assigns to `__all__`, if it does."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    named = any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets)
    return node.value if named and isinstance(node, ast.Assign | ast.AnnAssign) else None


def test_the_environment_is_read_in_one_file() -> None:
    readers = [name(path) for path in files() if {"environ", "getenv"} & used_names(path)]
    assert readers == ["truecourse/settings.py"]


def used_names(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} | {
        alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
    }


def test_no_code_names_a_concrete_problem() -> None:
    problems = {path.parent.name for path in (REPOSITORY / "problems").glob("*/problem.py")}
    assert problems
    mentions = {name(path): word for path in files() for word in problems if word in path.read_text()}
    # The default problem, which a setting overrides.
    assert set(mentions) <= {"truecourse/settings.py"}


def test_importing_does_nothing(tmp_path: Path) -> None:
    """An import writes no file, opens no connection, starts no process and loads no slow library."""
    skipped = {
        "feature_repo.definitions",
        "services.service",
        "services.process.build",
        "benchmarks.serving.bento_rival",
    }
    # Feast's and BentoML's tools load these.
    light = [module for module in modules() if module not in skipped and not module.startswith("feature_repo.")]
    heavy = [module for module in modules("feature_repo") if module not in skipped]
    # A first import would cache bytecode: -B.
    command = [sys.executable, "-B", "-c", WATCHED, json.dumps([light, heavy])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["events"] == []
    assert list(tmp_path.iterdir()) == []
    assert not set(result["modules"]) & set(HEAVY)


def test_every_imported_distribution_is_declared() -> None:
    """A transitive dependency may disappear with the next release of the package that depends on it."""
    document = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    declared = {distribution(line) for line in document["project"]["dependencies"]}
    of_tests = declared | {distribution(line) for line in document["dependency-groups"]["dev"]}
    installed = packages_distributions()
    missing = {
        imported: name(path)
        for package in (*PACKAGES, "tests", "docs")
        for path in files(package)
        for imported in imported_packages(path) - sys.stdlib_module_names - {*PACKAGES, "tests", "docs"}
        if not {distribution(each) for each in installed.get(imported, [imported])}
        & (of_tests if package in ("tests", "benchmarks", "docs") else declared)
    }
    assert missing == {}


def distribution(requirement: str) -> str:
    """The normal form of a requirement's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", requirement_name(requirement)).lower()


def requirement_name(requirement: str) -> str:
    match = re.match(r"[\w.-]+", requirement)
    assert match, requirement
    return match[0]


def imported_packages(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules = plain | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {module.partition(".")[0] for module in modules}


INTERNAL = (
    "bentoml_cli", "circus", "feast.infra.key_encoding_utils", "feast.infra.online_stores",
    "great_expectations.data_context", "mlflow.store", "prefect.server", "prefect.utilities.asyncutils",
    "prefect.utilities.callables", "prometheus_client.mmap_dict", "prometheus_client.multiprocess",
    "prometheus_client.values", "typeguard", "uvicorn.config", "uvicorn.protocols", "xgboost.core",
)  # fmt: skip
"""Modules of libraries that their documentation does not name, though their names have no underscore."""


def test_internals_of_libraries_are_used_in_compat_only() -> None:
    """Private names and internal modules of libraries, and assignments to their attributes."""
    trees = {path: ast.parse(path.read_text()) for path in files()}
    own = {one for tree in trees.values() for one in defined_names(tree)}
    found = {(name(path), use) for path, tree in trees.items() for use in internal_uses(tree, own)}
    outside = {(file, use) for file, use in found if "/compat/" not in file}
    exits = ("tasks/planning/measurement.py", "truecourse/processes.py")
    assert outside == {(file, "os._exit") for file in exits}
    assert len(found) > 30, "it finds those in the compat packages"


def defined_names(tree: ast.Module) -> Iterator[str]:
    """The attributes of `self`, functions and classes of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self", "cls"):
            yield node.attr


def internal_uses(tree: ast.Module, own: set[str]) -> Iterator[str]:
    """Uses of internals of libraries. `own`: the names that our code defines."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    libraries: set[str] = set()
    for node in imports:
        module = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
        for alias in node.names:
            dotted = f"{module}{alias.name}"
            if dotted.partition(".")[0] in PACKAGES:
                continue
            libraries.add((alias.asname or alias.name).partition(".")[0])
            if is_private(dotted) or any(_within(dotted, internal) for internal in INTERNAL):
                yield dotted
    for part in ast.walk(tree):
        if isinstance(part, ast.Attribute) and is_private(part.attr) and part.attr not in own:
            yield ast.unparse(part)
        for target in part.targets if isinstance(part, ast.Assign) else ():
            changed = ast.unparse(target)
            if re.fullmatch(r"(\w+)(\.\w+)+", changed) and changed.partition(".")[0] in libraries:
                yield changed


def is_private(dotted: str) -> bool:
    return any(part.startswith("_") and not part.endswith("__") for part in dotted.split("."))


def test_our_code_reads_no_pickle() -> None:
    """Unpickling runs code that the file contains."""
    pickles = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    imported = {
        (name(path), alias.name.partition(".")[0])
        for path in files()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in ([ast.alias(node.module or "")] if isinstance(node, ast.ImportFrom) else node.names)
    }
    assert not {found for found in imported if found[1] in pickles}


def test_files_and_functions_stay_small() -> None:
    sizes = {name(path): len(path.read_text().splitlines()) for path in files(*PACKAGES, "docs")}
    assert {file: size for file, size in sizes.items() if size > 400} == {}
    long_functions = {
        f"{name(path)}:{node.name}": size
        for path in files(*PACKAGES, "docs")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (size := (node.end_lineno or 0) - node.lineno + 1) > 60
    }
    assert long_functions == {}


def test_file_names_are_specific() -> None:
    assert not [name(p) for p in files() if p.stem in {"utils", "helpers", "common", "misc", "manager"}]


def test_every_flow_is_a_deployment_and_a_command() -> None:
    import yaml

    from cli.commands.run import FLOWS

    flows = {path.stem for path in files("flows")} - {"__init__"}
    assert flows == set(FLOWS)
    deployments = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
    assert {d["name"]: d["entrypoint"] for d in deployments} == {flow: f"flows.{flow}.{flow}" for flow in flows}
    for each in deployments:
        assert each["tags"][0] == "truecourse"
        assert each["concurrency_limit"] == 1
        assert each["work_pool"]["name"] == "truecourse"


def test_flows_import_no_data_library() -> None:
    """A flow only lists its tasks; tasks read and write the data."""
    data = {"pandas", "polars", "pyarrow", "duckdb", "numpy"}
    for path in files("flows"):
        imported = {
            (node.module or "").partition(".")[0] if isinstance(node, ast.ImportFrom) else alias.name.partition(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        assert not imported & data, name(path)


def test_test_files_have_unique_names() -> None:
    """pytest cannot collect both in one run."""
    names = Counter(path.name for path in (REPOSITORY / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []

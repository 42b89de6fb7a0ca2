"""The generated reference is complete: no name, field, option, setting, path, cause or metric is left out."""

import ast
import dataclasses
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args, get_type_hints

import jsonschema
import pytest
import typer

import truecourse.problem as problem_api
from cli.main import COMMANDS, app
from cli.terminal.output import INTERRUPTED, WRONG_USE
from docs.hooks import checks_page, command_line_page, http_page, metrics_page, problem_page, settings_page
from docs.hooks.problem_page import FieldDoc, field_docs, member
from services.http.authentication import OPEN
from services.http.refusals import Refusal
from services.http.routes import METHODS
from services.telemetry.prometheus_metrics import LABELS, REASONS
from tests.conftest import REPOSITORY
from truecourse.monitoring.finding_causes import CAUSES, ROLLBACKS, STATES, SUBJECTS, Cause, RollbackCause
from truecourse.monitoring.findings import BROKEN, PREREQUISITES, Check, State
from truecourse.settings import Settings

NAMES = [name for names in problem_page.GROUPS.values() for name in names]
CLASSES = [member(name) for name in NAMES if inspect.isclass(member(name))]
FIELDS = [(owner, field) for owner in CLASSES for field in field_docs(owner)]
PROBLEM_PAGE = problem_page.page()
SPACE: dict[str, Any] = {
    **{name: getattr(problem_api, name) for name in problem_api.__all__},
    "Path": Path,
    "speed_features": lambda columns: columns,
}
"""What an example may name."""


def test_every_exported_name_has_a_section() -> None:
    assert sorted(NAMES) == sorted({*problem_api.__all__, *(base.__name__ for base in problem_page.BASES)})
    for name in NAMES:
        assert f"\n### {name}\n" in PROBLEM_PAGE


def test_every_class_that_a_problem_takes_has_a_section() -> None:
    assert set(classes_below(problem_api.Problem)) == {*CLASSES} - {*problem_page.BASES}


def classes_below(owner: type, seen: frozenset[type] = frozenset()) -> Iterator[type]:
    """The class and those that its fields take, also in lists and unions."""
    if owner in seen:
        return
    yield owner
    for hint in get_type_hints(owner, include_extras=True).values():
        for found in dataclasses_in(hint):
            yield from classes_below(found, seen | {owner})


def dataclasses_in(hint: Any) -> Iterator[type]:
    if inspect.isclass(hint) and dataclasses.is_dataclass(hint):
        yield hint
    for argument in get_args(hint):
        yield from dataclasses_in(argument)


@pytest.mark.parametrize("owner", CLASSES, ids=lambda owner: owner.__name__)
def test_every_field_is_documented(owner: type) -> None:
    documented = {field.name for each in owner.__mro__ if each in CLASSES for field in field_docs(each)}
    assert documented == {field.name for field in dataclasses.fields(owner)}  # type: ignore[arg-type]
    assert inspect.getdoc(owner)
    for field in field_docs(owner):
        assert field.meaning, f"{owner.__name__}.{field.name} has no docstring"
        assert field.example.startswith(f"{field.name}="), f"{owner.__name__}.{field.name} has no example"
        assert field.type
        assert field.default
        assert f"| `{field.name}` | {field.type} | {field.default} | {field.meaning}<br>" in PROBLEM_PAGE


@pytest.mark.parametrize(
    ("owner", "field"), FIELDS, ids=lambda each: getattr(each, "__name__", getattr(each, "name", ""))
)
def test_every_example_is_valid(owner: type, field: FieldDoc) -> None:
    required = [each.example for each in field_docs(owner) if each.default == "required" and each.name != field.name]
    arguments = eval(f"dict({', '.join([*required, field.example])})", dict(SPACE))
    built = owner(**arguments)
    given, default = (
        getattr(built, field.name),
        {each.name: each for each in dataclasses.fields(owner)}[field.name].default,
    )  # type: ignore[arg-type]
    assert given != default, "the example shows the default"


def test_durations_are_documented() -> None:
    for name in problem_page.GROUPS["Durations"]:
        meaning, example = problem_page.split_example(member(name).__doc__)
        assert meaning
        assert isinstance(eval(example, dict(SPACE)), timedelta)


def test_every_command_has_a_section() -> None:
    page, documented = command_line_page.page(), command_line_page.commands()
    assert {each.name.split()[1] for each in documented[1:]} == set(COMMANDS)
    for each in documented:
        assert f"\n### {each.name}\n" in page
        assert each.command.help


def test_every_argument_and_option_is_explained() -> None:
    for each in command_line_page.commands():
        names = [parameter.name for parameter in each.parameters]
        assert each.is_group or "json" in names, each.name
        for parameter in each.parameters:
            assert command_line_page.meaning(parameter), f"{each.name} {parameter.name}"


def test_the_usage_shows_what_the_command_takes() -> None:
    usages = {each.name: command_line_page.usage(each) for each in command_line_page.commands()}
    assert usages["truecourse promote"] == "truecourse promote [OPTIONS] [VERSION]"
    assert usages["truecourse init"] == "truecourse init [OPTIONS] NAME"
    assert usages["truecourse trace"] == "truecourse trace COMMAND"


def test_every_guide_belongs_to_a_command() -> None:
    names = {each.name.removeprefix("truecourse ") for each in command_line_page.commands()}
    assert set(command_line_page.GUIDES) <= names


def test_every_exit_status_is_explained() -> None:
    assert set(command_line_page.EXIT_STATUSES) == {0, 1, WRONG_USE, INTERRUPTED}
    assert typer.main.get_command(app).name is not None


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_explained(name: str) -> None:
    field = Settings.model_fields[name]
    assert f"| `TRUECOURSE_{name.upper()}` |" in settings_page.page()
    assert settings_page.meaning(field)
    assert settings_page.describe(field)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_documented_default_is_the_default(name: str) -> None:
    field = Settings.model_fields[name]
    if shown := re.fullmatch("`(.*)`", settings_page.default(field)):
        read, wanted = (getattr(Settings.model_validate({name: each}), name) for each in (shown[1], field.default))
        assert read == wanted


def test_every_path_of_the_endpoint_is_listed() -> None:
    document = http_page.example_document()
    described = http_page.paths(document)
    assert set(described) == {*METHODS, *OPEN}
    assert {path: method for path, (method, _) in described.items() if path in METHODS} == METHODS
    page = http_page.page()
    for path, (method, what) in described.items():
        assert what
        assert f"| `{path}` | {method} |" in page


def test_every_status_of_the_endpoint_is_listed() -> None:
    found = {
        status
        for path in [
            *(REPOSITORY / "services" / "http").glob("*.py"),
            *(REPOSITORY / "truecourse" / "serving").glob("*.py"),
        ]
        for status in statuses(path)
    }
    assert {400, 404, 429, 503} <= found
    page = http_page.page()
    assert not {status for status in found if f"`{status}`" not in page}


def statuses(path: Path) -> Iterator[int]:
    """The error statuses that a module names: keywords `status=` and arguments of `Refusal`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            named = [keyword.value for keyword in node.keywords if keyword.arg == "status"]
            given = node.args[1:2] if getattr(node.func, "id", "") == "Refusal" else []
            values = [each.value for each in [*named, *given] if isinstance(each, ast.Constant)]
            yield from (value for value in values if isinstance(value, int) and value >= 400)


def test_every_header_of_a_refusal_is_listed() -> None:
    sent = {name.decode() for status in (401, 408, 429) for name, _ in Refusal("x", status, "", "", 1).reply.headers}
    assert sent <= set(http_page.HEADERS)


@pytest.mark.parametrize("path", http_page.RESPONSES)
def test_the_examples_of_responses_are_valid(path: str) -> None:
    document = http_page.example_document()
    operation = document["paths"][path]["post"]
    for status, example in (("200", http_page.RESPONSES[path]), ("422", http_page.REFUSAL)):
        schema = operation["responses"][status]["content"]["application/json"]["schema"]
        jsonschema.validate(example, {**schema, "components": document["components"]})


def test_the_example_of_a_request_is_valid() -> None:
    document = http_page.example_document()
    schema = {"$ref": "#/components/schemas/Request", "components": document["components"]}
    jsonschema.validate({"rows": [http_page.ROW]}, schema)


def test_every_schema_has_a_section() -> None:
    page = http_page.page()
    for name, schema in http_page.example_document()["components"]["schemas"].items():
        assert f"\n### {name}\n" in page
        assert all(f"| `{member}` |" in page for member in schema.get("properties", {}))


def test_every_state_check_and_cause_is_explained() -> None:
    assert set(STATES) == set(get_args(State))
    assert set(CAUSES) == set(SUBJECTS) == set(PREREQUISITES) == set(get_args(Check))
    assert {BROKEN, *(cause for causes in CAUSES.values() for cause in causes)} == set(get_args(Cause))
    assert set(ROLLBACKS) == set(get_args(RollbackCause))
    page = checks_page.page()
    for name in (*get_args(State), *get_args(Cause), *get_args(RollbackCause)):
        assert f"| `{name}` |" in page


def test_every_finding_has_a_cause_of_its_check() -> None:
    """Most causes are typed; a finding that is built in place names its check and its cause."""
    found = [pair for path in sources() for pair in checks_and_causes(path)]
    assert len(found) > 5
    known = {(str(check), str(cause)) for check, causes in CAUSES.items() for cause in causes}
    assert set(found) <= known


def checks_and_causes(path: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding":
            named = {each.arg: each.value.value for each in node.keywords if isinstance(each.value, ast.Constant)}
            if "check" in named and "cause" in named:
                yield str(named["check"]), str(named["cause"])


def test_every_cause_is_used() -> None:
    texts = {
        node.value
        for path in sources()
        if path.name != "finding_causes.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert not set(get_args(Cause)) - texts


def sources() -> Iterator[Path]:
    for package in ("truecourse", "services", "tasks"):
        yield from (REPOSITORY / package).rglob("*.py")


def test_the_causes_of_retraining_exist() -> None:
    policy = problem_api.Retraining()
    assert {*policy.causes, *policy.blockers} <= set(get_args(Cause))


def test_every_metric_is_explained() -> None:
    code = (
        "from prometheus_client import CollectorRegistry; from services.telemetry.prometheus_metrics import Metrics; "
        "print(Metrics(['/predict'], CollectorRegistry()).exposition().decode())"
    )
    # In a process of its own: importing Feast makes the metrics those of several processes.
    environment = {name: value for name, value in os.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"}
    command = [sys.executable, "-c", code]
    exposed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", exposed, re.MULTILINE))
    # A single process also exports the times of creation; the workers of an endpoint do not.
    wanted = {name: kind for name, kind in types.items() if not name.endswith("_created")}
    assert {each.name: each.type for each in metrics_page.metrics()} == wanted
    page = metrics_page.page()
    for each in metrics_page.metrics():
        assert f"| `{each.name}` | {each.type} |" in page
        assert each.meaning
        assert set(each.labels) <= set(LABELS)
        assert bool(each.buckets) == (each.type == "histogram")
    assert all(f"| `{reason}` | " in page for reason in REASONS)

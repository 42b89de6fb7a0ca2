"""`run`: flows as commands, with the parameters of their signatures as options."""

import importlib
import inspect
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from cli.lazy import LIGHT, OPTIONS, declaration, with_name
from cli.terminal.output import Answer, Json, command, complete_area, complete_problem
from truecourse.settings import prefect_environment

if TYPE_CHECKING:
    from cli.terminal.progress import Progress

STEPS = ["ingest", "validate", "materialize", "train", "register", "package", "score", "monitor"]
"""The flows that `lifecycle` runs, in order."""
FLOWS = [
    *STEPS[:4], "tune", "retrain", "register", "promote", "package", "deploy", *STEPS[6:],
    "audit", "health", "guard", "ship", "lifecycle",
]  # fmt: skip


def load_flow(name: str) -> Any:
    prefect_environment()
    return getattr(importlib.import_module(f"flows.{name}"), name)


def run_flow(name: str, parameters: Mapping[str, Any], progress: "Progress") -> Any:
    """Run the flow and report to the Prefect server; returns and raises what the flow does."""
    from cli.platform.prefect_server import prefect_api
    from cli.terminal.progress import report_runs

    steps = STEPS if name == "lifecycle" else [name]
    with prefect_api(lambda: load_flow(name)):
        flow = load_flow(name)
        with report_runs(progress, [load_flow(step) for step in steps]):
            return flow(**parameters)


def _answer(name: str, parameters: Mapping[str, Any]) -> Answer:
    from cli.terminal.progress import Progress
    from truecourse.problem.loader import load_problem_or_area

    problem = load_problem_or_area(parameters.get("problem"), parameters.get("area")).name  # before a server is started
    started = time.monotonic()
    with Progress(STEPS if name == "lifecycle" else [name]) as progress:
        result = run_flow(name, parameters, progress)
    took = round(time.monotonic() - started, 3)
    document = {"flow": name, "problem": problem, "seconds": took, "result": result}
    view: str | Text = ""
    if name in ("lifecycle", "monitor"):
        view = lifecycle_result(result) if name == "lifecycle" else findings_view(result)
    # Exit status 1 if rows of a file were rejected.
    return Answer(document, view, ok=not getattr(result, "rejected", 0))


def lifecycle_result(result: Mapping[str, Any]) -> str:
    """Notes on the lifecycle's result, besides the lines of its steps."""
    lines = [nothing_new(result)] if result["nothing_new"] else []
    if changed := result["champion_outdated"]:
        lines.append(
            f"version {result['register'].version} is not champion. Champion version {result['champion'].version} was "
            f"trained before the change of {', '.join(changed)}: its package still serves, and it was not packaged or "
            "scored again. Improve the change until its version passes the gates, or undo it"
        )
    return "\n".join(lines)


def findings_view(result: Mapping[str, Any]) -> Text:
    """Every finding, by check, with its severity; for a check without findings its state and sentence."""
    lines = []
    for check, report in result["reports"].items():
        rows = [("critical" if one.page else "warning", one.sentence) for one in report.findings]
        lines += [f"{check:<9}  {state:<8}  {text}" for state, text in rows or [(report.state, report.sentence)]]
    return Text("\n".join(lines))


def nothing_new(result: Mapping[str, Any]) -> str:
    run, version = result["train"], result["register"]
    snapshot, model = run.snapshot.sha256[:12], run.model_sha256[:12]
    return f"nothing new: snapshot {snapshot}, model {model} and version {version.version} are unchanged"


def flow_command(name: str) -> Any:
    """Build a command from a flow: its parameters are options, its docstring the help. Running it imports Prefect."""
    declared = declaration(f"flows.{name}", name)
    assert declared is not None, f"the signature of flows/{name}.py takes more than {', '.join(sorted(LIGHT))}"
    summary, helps = parse_docstring(declared.__doc__ or "")

    def run(**values: Any) -> Answer:
        values.pop("json")
        return _answer(name, values)

    options = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=_annotation(parameter, helps))
        for parameter in inspect.signature(declared).parameters.values()
    ]
    options.append(inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, annotation=Json, default=False))
    run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    run.__annotations__ = {option.name: option.annotation for option in options}
    run.__doc__ = summary
    app = typer.Typer(**OPTIONS | {"no_args_is_help": False})
    app.command(name)(command(run))
    return with_name(app, name)


def _annotation(parameter: inspect.Parameter, helps: Mapping[str, str]) -> Any:
    completion = {"problem": complete_problem, "area": complete_area}.get(parameter.name)
    option = typer.Option(help=helps.get(parameter.name, ""), autocompletion=completion)
    return Annotated[parameter.annotation, option]


def parse_docstring(docstring: str) -> tuple[str, dict[str, str]]:
    """Split a docstring (Google style, which Prefect's forms read too) into its text and the help of each parameter."""
    text, _, rest = inspect.cleandoc(docstring).partition("\nArgs:\n")
    section, _, after = rest.partition("\n\n")
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        match = re.match(r" {4}(\w+): (.*)", line)
        name = match[1] if match else name
        found[name] = match[2] if match else f"{found[name]} {line.strip()}"
    paragraphs = [" ".join(part.split()) for part in f"{text}\n\n{after}".split("\n\n")]
    return "\n\n".join(filter(None, paragraphs)), found

"""Running flows by name, with the options that their signatures declare."""

import importlib
import inspect
import re
import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cli.output import Answer, Json, command
from cli.progress import Progress, watching
from cli.server import prefect_api
from truecourse.loading import load_problem
from truecourse.settings import prefect_environment

STEPS = ["ingest", "validate", "materialize", "train", "register", "package", "score", "monitor"]
"""The flows that `lifecycle` runs, in order."""
FLOWS = [
    *STEPS[:4], "tune", "retrain", "register", "promote", "package", "deploy", *STEPS[6:],
    "audit", "health", "guard", "ship", "lifecycle",
]  # fmt: skip


def load_flow(name: str) -> Any:
    prefect_environment()
    return getattr(importlib.import_module(f"flows.{name}"), name)


def run_flow(name: str, parameters: Mapping[str, Any], progress: Progress) -> Any:
    """Run the flow against the Prefect server that reports are sent to; what the flow returns, and raises."""
    steps = STEPS if name == "lifecycle" else [name]
    with prefect_api():
        flow = load_flow(name)
        with watching(progress, [load_flow(step) for step in steps]):
            return flow(**parameters)


def _answer(name: str, parameters: Mapping[str, Any]) -> Answer:
    problem = load_problem(parameters.get("problem")).name  # before a server is started for nothing
    begun = time.monotonic()
    with Progress(STEPS if name == "lifecycle" else [name]) as progress:
        result = run_flow(name, parameters, progress)
    took = round(time.monotonic() - begun, 3)
    return Answer({"flow": name, "problem": problem, "seconds": took, "result": result})


class Flows(TyperGroup):
    """A command for each flow, made when it is asked for: importing all flows takes seconds."""

    def list_commands(self, ctx: Any) -> list[str]:
        return FLOWS

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return flow_command(cmd_name) if cmd_name in FLOWS else None


def flow_command(name: str) -> Any:
    """The flow as a command: its parameters are options, its docstring is the help."""
    flow = load_flow(name)
    summary, helps = _documented(flow.fn.__doc__ or "")

    def run(**values: Any) -> Answer:
        values.pop("json")
        return _answer(name, values)

    options = [
        parameter.replace(
            kind=inspect.Parameter.KEYWORD_ONLY,
            annotation=Annotated[parameter.annotation, typer.Option(help=helps.get(parameter.name, ""))],
        )
        for parameter in inspect.signature(flow.fn, eval_str=True).parameters.values()
    ]
    options.append(inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, annotation=Json, default=False))
    run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    run.__annotations__ = {option.name: option.annotation for option in options}
    run.__doc__ = summary
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(name)(command(run))
    return typer.main.get_command(app)


def _documented(docstring: str) -> tuple[str, dict[str, str]]:
    """The docstring without its parameter lines (`name: what it is.`), and those by name."""
    lines = inspect.cleandoc(docstring).splitlines()
    found = {match[1]: match[2] for line in lines if (match := re.match(r"(\w+): (.*)", line))}
    kept = [line for line in lines if not re.match(r"\w+: ", line)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip(), found


run = typer.Typer(
    cls=Flows,
    help="Run a flow by name.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@run.callback()
def _flows() -> None:
    pass

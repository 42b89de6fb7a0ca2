"""The `truecourse` command."""

import atexit
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cli.commands.run import FLOWS, flow_command
from cli.lazy import OPTIONS, command_of, lazy_group, with_name
from cli.terminal.output import WRONG_USE, explain, explain_wrong_use
from truecourse import __version__
from truecourse.settings import quiet_environment

UsageError: type[Exception] = typer.BadParameter.__bases__[0]
Version = Annotated[bool, typer.Option("--version", help="Say the version and exit.")]


def group(commands: Mapping[str, Callable[[], Any]], help: str) -> typer.Typer:
    app = typer.Typer(cls=lazy_group(commands), help=help, **OPTIONS)
    app.callback()(_nothing)
    return app


def _nothing() -> None:
    pass


def _places(commands: Mapping[str, str]) -> dict[str, Callable[[], Any]]:
    return {name: partial(command_of, name, place) for name, place in commands.items()}


run = group({name: partial(flow_command, name) for name in FLOWS}, "Run a flow by name.")
trace = group(
    _places({"prediction": "cli.commands.inspect:trace_prediction", "model": "cli.commands.inspect:trace_model"}),
    "The line back to the source bytes, each link verified again.",
)
key = group(
    _places(
        {
            "create": "cli.commands.keys:create",
            "list": "cli.commands.keys:list_keys",
            "revoke": "cli.commands.keys:revoke",
        }
    ),
    "API keys of the endpoint.",
)
mirror = group(
    _places({"show": "cli.commands.mirror:show", "write": "cli.commands.mirror:write"}),
    "MLflow beside our own record of models: what differs, and writing it anew.",
)
schedules = group(
    _places({"show": "cli.commands.schedules:show", "reset": "cli.commands.schedules:reset"}),
    "Deployments and schedules in Prefect beside prefect.yaml: what people changed, and applying the file.",
)
GROUPS = {"run": run, "key": key, "trace": trace, "mirror": mirror, "schedules": schedules}
COMMANDS = _places(
    {
        "demo": "cli.commands.demo:demo",
        "up": "cli.commands.up:up",
        "init": "cli.commands.inspect:init",
        "check": "cli.commands.inspect:check",
        "run": "",
        "deploy": "cli.commands.deploy:deploy",
        "serve": "cli.commands.predict:serve",
        "predict": "cli.commands.predict:predict",
        "explain": "cli.commands.predict:explain",
        "key": "",
        "status": "cli.commands.inspect:status",
        "summary": "cli.commands.inspect:summary",
        "promote": "cli.commands.promote:promote",
        "rollback": "cli.commands.promote:rollback",
        "mirror": "",
        "schedules": "",
        "release": "cli.commands.release:release",
        "trace": "",
        "reproduce": "cli.commands.inspect:reproduce",
        "replay": "cli.commands.replay:replay",
    }
) | {name: partial(with_name, app, name) for name, app in GROUPS.items()}
app = typer.Typer(
    cls=lazy_group(COMMANDS),
    help="From raw tables to served, explained and monitored predictions.",
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
    **OPTIONS | {"add_completion": True},
)


@app.callback()
def _root(context: typer.Context, version: Version = False) -> None:
    if version:
        typer.echo(f"truecourse {__version__}")
        raise typer.Exit


def execute(words: Sequence[str]) -> int:
    """Run the command line; the exit status. What is wrong is said as the words ask for: with --json, in JSON."""
    command: TyperGroup = typer.main.get_command(app)  # type: ignore[assignment]
    as_json = "--json" in words[: words.index("--")] if "--" in words else "--json" in words
    try:
        status = command.main(list(words), prog_name="truecourse", standalone_mode=False)
    except UsageError as error:
        return explain_wrong_use(error, as_json)
    except (KeyboardInterrupt, typer.Abort):
        return explain(KeyboardInterrupt(), as_json)
    except Exception as error:
        return explain(error, as_json)
    return status if isinstance(status, int) else 0


def main() -> None:
    quiet_environment()
    try:
        status = execute(sys.argv[1:])
    except SystemExit as error:  # a shell's request for completions ends so
        status = error.code if isinstance(error.code, int) else WRONG_USE
    # DuckDB's bindings report objects that outlive the interpreter, a page of them on stderr: exit without taking
    # it apart. Whatever has to be finished was, in the commands themselves and in the exit handlers.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

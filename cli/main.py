"""The `truecourse` command."""

import atexit
import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

import typer
from typer.core import TyperGroup

from truecourse.settings import quiet_environment

SHOWN = {"no_args_is_help": True, "add_completion": False, "pretty_exceptions_enable": False}


def group(commands: Mapping[str, Any], help: str) -> typer.Typer:
    """Commands by name: `module:function`, imported when it is asked for, or a group. All imported at once take
    seconds, which a rollback has not."""

    class Commands(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            return list(commands)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            found = commands.get(cmd_name)
            if not isinstance(found, str):
                return found and _named(found, cmd_name)
            module, _, function = found.partition(":")
            made = getattr(importlib.import_module(module), function)
            if isinstance(made, typer.Typer):
                return _named(made, cmd_name)
            app = typer.Typer(**SHOWN)  # type: ignore[arg-type]
            app.command(cmd_name)(made)
            return typer.main.get_command(app)

    app = typer.Typer(cls=Commands, help=help, **SHOWN)  # type: ignore[arg-type]
    app.callback()(_nothing)
    return app


def _named(app: typer.Typer, name: str) -> Any:
    command = typer.main.get_command(app)
    command.name = name
    return command


def _nothing() -> None:
    pass


trace = group(
    {"prediction": "cli.knowing:trace_prediction", "model": "cli.knowing:trace_model"},
    "The line back to the source bytes, each link verified again.",
)
key = group(
    {"create": "cli.keys:create", "list": "cli.keys:list_keys", "revoke": "cli.keys:revoke"},
    "API keys of the endpoint.",
)
app = group(
    {
        "demo": "cli.demo:demo",
        "up": "cli.up:up",
        "init": "cli.knowing:init",
        "check": "cli.knowing:check",
        "run": "cli.run:run",
        "deploy": "cli.deployed:deploy",
        "serve": "cli.asking:serve",
        "predict": "cli.asking:predict",
        "explain": "cli.asking:explain",
        "key": key,
        "status": "cli.knowing:status",
        "summary": "cli.knowing:summary",
        "promote": "cli.office:promote",
        "rollback": "cli.office:rollback",
        "trace": trace,
        "reproduce": "cli.knowing:reproduce",
        "replay": "cli.replay:replay",
    },
    "From raw tables to served, explained and monitored predictions.",
)


def main() -> None:
    quiet_environment()
    try:
        app()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    # DuckDB's bindings report objects that outlive the interpreter, a page of them on stderr: exit without taking
    # it apart. Whatever has to be finished was, in the commands themselves and in the exit handlers.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

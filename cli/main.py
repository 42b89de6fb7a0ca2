"""The `truecourse` command."""

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
from truecourse.compat import duckdb_exit
from truecourse.settings import quiet_environment

UsageError: type[Exception] = typer.BadParameter.__bases__[0]
Version = Annotated[bool, typer.Option("--version", help="Print the version and exit.")]


def group(commands: Mapping[str, Callable[[], Any]], help: str) -> typer.Typer:
    app = typer.Typer(cls=lazy_group(commands), help=help, **OPTIONS)
    app.callback()(_do_nothing)
    return app


def _do_nothing() -> None:
    pass


def _loaders(commands: Mapping[str, str]) -> dict[str, Callable[[], Any]]:
    return {name: partial(command_of, name, place) for name, place in commands.items()}


run = group({name: partial(flow_command, name) for name in FLOWS}, "Run a flow by name.")
trace = group(
    _loaders(
        {
            "prediction": "cli.commands.inspect:trace_prediction",
            "model": "cli.commands.inspect:trace_model",
            "source": "cli.commands.forward_trace:trace_source",
            "table": "cli.commands.forward_trace:trace_table",
            "row": "cli.commands.forward_trace:trace_row",
        }
    ),
    "Show the lineage: back to the source bytes, verifying every link, or forwards to the predictions.",
)
key = group(
    _loaders(
        {
            "create": "cli.commands.keys:create",
            "list": "cli.commands.keys:list_keys",
            "revoke": "cli.commands.keys:revoke",
        }
    ),
    "API keys of the endpoint.",
)
mirror = group(
    _loaders({"show": "cli.commands.mirror:show", "write": "cli.commands.mirror:write"}),
    "Compare MLflow with the model registry, or write it again.",
)
schedules = group(
    _loaders({"show": "cli.commands.schedules:show", "reset": "cli.commands.schedules:reset"}),
    "Compare deployments and schedules in Prefect with prefect.yaml, or apply the file.",
)
canary = group(
    _loaders({"stop": "cli.commands.promote:stop_canary"}),
    "A canary or shadow: a challenger that scores requests beside the champion.",
)
openlineage = group(
    _loaders({"show": "cli.commands.openlineage:show", "send": "cli.commands.openlineage:send"}),
    "Lineage events that wait for their receiver.",
)
GROUPS = {
    "run": run,
    "key": key,
    "trace": trace,
    "mirror": mirror,
    "schedules": schedules,
    "canary": canary,
    "openlineage": openlineage,
}
COMMANDS = _loaders(
    {
        "demo": "cli.commands.demo:demo",
        "up": "cli.commands.up:up",
        "init": "cli.commands.inspect:init",
        "check": "cli.commands.check:check",
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
        "canary": "",
        "gc": "cli.commands.gc:gc",
        "migrate": "cli.commands.migrate:migrate",
        "forget": "cli.commands.forget:forget",
        "mirror": "",
        "schedules": "",
        "release": "cli.commands.release:release",
        "trace": "",
        "openlineage": "",
        "reproduce": "cli.commands.inspect:reproduce",
        "explore": "cli.commands.explore:explore",
        "features": "cli.commands.features:features",
        "push": "cli.commands.push:push",
        "diff": "cli.commands.diff:diff",
        "compare": "cli.commands.compare:compare",
        "card": "cli.commands.card:card",
        "select": "cli.commands.select:select",
        "tune": "cli.commands.tune:tune",
        "plan": "cli.commands.plan:plan",
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


def execute(arguments: Sequence[str]) -> int:
    """Run the command line; the exit status. Errors are printed as JSON with --json."""
    command: TyperGroup = typer.main.get_command(app)  # type: ignore[assignment]
    as_json = "--json" in arguments[: arguments.index("--")] if "--" in arguments else "--json" in arguments
    try:
        status = command.main(list(arguments), prog_name="truecourse", standalone_mode=False)
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
    except SystemExit as error:  # shell completion exits this way
        status = error.code if isinstance(error.code, int) else WRONG_USE
    duckdb_exit.exit_process(status)

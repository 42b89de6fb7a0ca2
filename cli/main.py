"""The `truecourse` command."""

import atexit
import os
import sys

import typer

from cli import asking, keys, knowing, office
from cli.demo import demo
from cli.deployed import deploy
from cli.run import Flows
from cli.up import up
from truecourse.settings import quiet_environment

app = typer.Typer(
    name="truecourse",
    help="From raw tables to served, explained and monitored predictions.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
trace = typer.Typer(help="The line back to the source bytes, each link verified again.", no_args_is_help=True)
key = typer.Typer(help="API keys of the endpoint.", no_args_is_help=True)
run = typer.Typer(cls=Flows, help="Run a flow by name.", no_args_is_help=True)

app.command()(demo)
app.command()(up)
app.command()(knowing.init)
app.command()(knowing.check)
app.add_typer(run, name="run")
app.command()(deploy)
app.command()(asking.serve)
app.command()(asking.predict)
app.command()(asking.explain)
app.add_typer(key, name="key")
key.command("create")(keys.create)
key.command("list")(keys.list_keys)
key.command("revoke")(keys.revoke)
app.command()(knowing.status)
app.command()(knowing.summary)
app.command()(office.promote)
app.command()(office.rollback)
app.add_typer(trace, name="trace")
trace.command("prediction")(knowing.trace_prediction)
trace.command("model")(knowing.trace_model)
app.command()(knowing.reproduce)


@run.callback()
def _flows() -> None:
    pass


@trace.callback()
def _lines() -> None:
    pass


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

"""Reference of the command line: every command with its arguments, options, defaults and exit statuses.

It is read from the Typer application, so it shows what `truecourse COMMAND --help` shows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer

from cli.main import app
from cli.terminal.output import INTERRUPTED, WRONG_USE
from docs.hooks import markdown_text as markdown
from docs.hooks.markdown_text import code, sentence

INTRO = """`truecourse COMMAND --help`, or `-h`, shows the same text in the terminal. An error states what was wrong,
where, and a hint. An unknown name is an error that suggests the nearest one.

With `--json`, a command writes one JSON object to stdout; progress and logs go to stderr. An error is then
`{"error": {"kind", "what", "where", "hint"}}`. Times are UTC, as `2013-11-01` or `2013-11-01T06:00:00`.

`truecourse --install-completion` installs completion of commands, flows, options and problems. It supports bash, zsh,
fish and PowerShell.

The flow `lifecycle` runs the others in order, except `tune`, `retrain`, `promote` and `deploy`. A flow reports to the
Prefect server of `PREFECT_API_URL`, or to that of a running `truecourse up` of the same home. Otherwise a server is
started for the command and stopped afterwards. Its history is kept in `<home>/prefect`."""
GUIDES = {
    "up": "explanation/operation.md",
    "init": "reference/init.md",
    "check": "reference/init.md#what-the-model-is-not-given",
    "deploy": "reference/deployment.md",
    "serve": "reference/serving.md",
    "key create": "reference/serving.md",
    "promote": "explanation/promotion.md",
    "rollback": "explanation/promotion.md",
    "canary": "how-to/canary.md",
    "release": "explanation/operation.md#flow-runs-that-were-killed",
    "mirror": "explanation/promotion.md#mlflow-is-a-mirror",
    "schedules": "how-to/schedule.md",
    "trace": "explanation/lineage.md",
    "openlineage": "how-to/send-lineage-events.md",
    "reproduce": "explanation/lineage.md#reproduction",
    "features": "reference/features.md",
    "diff": "explanation/lineage.md#what-differs-truecourse-diff",
    "compare": "how-to/compare-models.md",
    "card": "how-to/read-a-model-card.md",
    "select": "how-to/select-features.md",
    "tune": "how-to/tune.md",
    "plan": "reference/plan.md",
    "replay": "explanation/replay.md",
    "run ship": "explanation/prediction-log.md",
    "run audit": "explanation/skew.md",
    "run health": "reference/health.md",
    "run guard": "explanation/promotion.md#by-a-canary",
    "run monitor": "explanation/monitoring.md",
    "run retrain": "how-to/retrain.md",
    "run train": "explanation/training.md",
    "run validate": "reference/deliveries.md",
    "run score": "reference/files.md",
}
"""The page of the documentation that explains a command."""
EXIT_STATUSES = {
    0: "success",
    1: "failure: an error, a failed gate, a difference that was found, or rejected rows",
    WRONG_USE: "a usage error: an unknown command or option, or a missing argument",
    INTERRUPTED: "interrupted with Ctrl-C",
}
"""What each exit status of every command means."""

_TYPES = {str: "text", int: "integer", float: "number", datetime: "time (UTC)", Path: "path", bool: "flag"}


@dataclass(frozen=True)
class CommandDoc:
    """A command. `name`: with the names of its groups, as it is typed."""

    name: str
    command: Any

    @property
    def is_group(self) -> bool:
        return hasattr(self.command, "list_commands")

    @property
    def parameters(self) -> list[Any]:
        return [each for each in self.command.params if each.name != "help"]


def page() -> str:
    """The Markdown of the page."""
    statuses = markdown.table(
        ["exit status", "meaning"], [[code(number), meaning] for number, meaning in EXIT_STATUSES.items()]
    )
    sections = [f"## Exit statuses\n\n{statuses}", "## Commands\n"]
    sections += [_section(each) for each in commands()]
    return markdown.page("Command line", INTRO, *sections)


def commands() -> list[CommandDoc]:
    """Every command and group, in the order of the help, each group before its commands."""
    root = typer.main.get_command(app)
    return [CommandDoc("truecourse", root), *_below("truecourse", root)]


def _below(path: str, group: Any) -> Iterator[CommandDoc]:
    context = typer.Context(group, info_name=path)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        found = CommandDoc(f"{path} {name}", command)
        yield found
        if found.is_group:
            yield from _below(found.name, command)


def _section(documented: CommandDoc) -> str:
    parts = [f"### {documented.name}\n", f"```text\n{usage(documented)}\n```\n"]
    parts.append(f"{markdown.prose(documented.command.help)}\n")
    if guide := GUIDES.get(documented.name.removeprefix("truecourse ")):
        parts.append(f"More: docs/{guide}.\n")
    arguments = [each for each in documented.parameters if each.param_type_name == "argument"]
    options = [each for each in documented.parameters if each.param_type_name == "option"]
    if arguments:
        rows = [[code(each.name), _type(each), _default(each), meaning(each)] for each in arguments]
        parts.append(markdown.table(["argument", "type", "default", "meaning"], rows))
    if options:
        rows = [[_names(each), _type(each), _default(each), meaning(each)] for each in options]
        parts.append(markdown.table(["option", "type", "default", "meaning"], rows))
    return "\n".join(parts)


def usage(documented: CommandDoc) -> str:
    """The usage line of a command."""
    words = [documented.name, "[OPTIONS]"] if documented.parameters else [documented.name]
    for each in documented.parameters:
        if each.param_type_name == "argument":
            name = f"{each.name.upper()}{'...' if each.nargs == -1 else ''}"
            words.append(name if each.required else f"[{name}]")
    return " ".join([*words, "COMMAND"] if documented.is_group else words)


def meaning(parameter: Any) -> str:
    """What an argument or option means; empty if it has no help text."""
    return sentence(parameter.help or "")


def _names(option: Any) -> str:
    return ", ".join(code(name) for name in [*option.opts, *option.secondary_opts])


def _type(parameter: Any) -> str:
    if getattr(parameter, "is_flag", False):
        return "flag"
    annotation = parameter.type_descriptor.annotation
    if get_origin(annotation) is list:
        return f"{_describe(get_args(annotation)[0])}, may be repeated"
    return _describe(annotation)


def _describe(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return markdown.any_of(code(each) for each in get_args(annotation))
    return _TYPES[annotation]


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    if value is None or value == "" or value == [] or value == ():
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    return code(value() if callable(value) else value)

"""Output of commands: progress on stderr, the answer on stdout, one JSON object with --json."""

import functools
import json as jsonlib
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, is_dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer
from pydantic import BaseModel
from pydantic_core import to_jsonable_python
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.text import Text

from truecourse.errors import FaultsError, GateFailed, TruecourseError
from truecourse.settings import get_settings
from truecourse.wording import suggestion

Json = Annotated[bool, typer.Option("--json", help="Answer with one JSON object on stdout.")]


def complete_problem(incomplete: str) -> list[str]:
    """Shell completion: problems whose names start with the text."""
    from truecourse.problem.loader import problem_names

    return [name for name in problem_names() if name.startswith(incomplete)]


def complete_area(incomplete: str) -> list[str]:
    """Shell completion: feature areas whose names start with the text."""
    from truecourse.problem.loader import area_names

    return [name for name in area_names() if name.startswith(incomplete)]


AreaName = Annotated[
    str | None,
    typer.Option("--area", help="A folder of feature_views/, instead of a problem.", autocompletion=complete_area),
]
ProblemName = Annotated[
    str | None,
    typer.Option(help="A folder of problems/; the settings' default if not given.", autocompletion=complete_problem),
]
P = ParamSpec("P")
WRONG_USE, INTERRUPTED = 2, 130
"""Exit statuses."""


@dataclass(frozen=True)
class Answer:
    """A command's answer: the same for a program (`document`) and for a person (`view`). `ok` decides the status."""

    document: Mapping[str, Any]
    view: RenderableType = ""
    ok: bool = True


def stderr() -> Console:
    return Console(stderr=True, highlight=False)


def stdout() -> Console:
    return Console(highlight=False)


def command(function: Callable[P, Answer]) -> Callable[P, None]:
    """Make a command of a function that returns an Answer: print the answer or error, and set the exit status.

    The format of the storage is checked first."""
    return _command(function, _check_storage)


def command_without_storage(function: Callable[P, Answer]) -> Callable[P, None]:
    """Make a command, like command(), of a function that does not use the storage or checks its format itself."""
    return _command(function, lambda: None)


def _check_storage() -> None:
    from truecourse.storage.format import open_format
    from truecourse.storage.object_store import open_store

    open_format(open_store())


def _command(function: Callable[P, Answer], prepare: Callable[[], None]) -> Callable[P, None]:
    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        as_json = bool(kwargs.get("json"))
        try:
            prepare()
            answer = function(*args, **kwargs)
        except (KeyboardInterrupt, Exception) as error:
            raise typer.Exit(explain(error, as_json)) from None
        if as_json:
            print_json(answer.document)
        elif answer.view:
            stdout().print(answer.view, soft_wrap=isinstance(answer.view, str | Text))  # no line breaks in a file
        if not answer.ok:
            raise typer.Exit(1)

    return run


def print_json(document: Mapping[str, Any]) -> None:
    sys.stdout.write(jsonlib.dumps(jsonable(document), ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


def jsonable(value: Any) -> Any:
    """Convert what flows return to JSON values: references by their fields, times as ISO 8601."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(name): jsonable(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [jsonable(item) for item in value]
    if isinstance(value, datetime | date | Path) or is_dataclass(value):
        return to_jsonable_python(value)
    return value


def explain(error: BaseException, as_json: bool) -> int:
    """Print an error; the exit status for it."""
    if isinstance(error, KeyboardInterrupt):
        stderr().print("interrupted")
        return INTERRUPTED
    document = _error_document(error)
    if as_json:
        print_json({"error": document})
    stderr().print(f"[bold red]✗[/] {escape(_text(error, document))}", soft_wrap=True)
    return 1


def explain_wrong_use(error: Any, as_json: bool) -> int:
    """Print a usage error of Typer; the exit status for it. A group without a command shows its help."""
    context = error.ctx
    where = context.command_path if context else "truecourse"
    alone = type(error).__name__ == "NoArgsIsHelpError"
    what = "no command is named" if alone else _wrong_use(error)
    document = {"kind": "UsageError", "what": what, "where": where, "hint": f"{where} --help shows its arguments"}
    if as_json:
        print_json({"error": document})
    if not alone:  # of a group alone Typer has printed the help
        stderr().print(f"[bold red]✗[/] {escape(f'{where}: {what}')}\n  → {escape(document['hint'])}", soft_wrap=True)
    return WRONG_USE


def _wrong_use(error: Any) -> str:
    if hasattr(error, "option_name") and hasattr(error, "possibilities"):
        given, names = error.option_name.lstrip("-"), [name for each in error.ctx.command.params for name in each.opts]
        if given in names:
            return f"no such option {error.option_name}; {given} is an argument: write its value alone"
        close = suggestion(given, [name.removeprefix("--") for name in names if name.startswith("--")], "--")
        return f"no such option {error.option_name}{f'; {close}' if close else ''}"
    what = error.format_message().strip()
    return f"{what[:1].lower()}{what[1:].rstrip('.')}"


def _error_document(error: BaseException) -> dict[str, Any]:
    if not isinstance(error, TruecourseError):
        hint = f"the traceback is in {_traceback_log(error)}"
        return {"what": f"{type(error).__name__}: {error}"[:400], "where": "", "hint": hint}
    kind, what, where, hint = type(error).__name__, error.what, error.where, error.hint
    document: dict[str, Any] = {"kind": kind, "what": what, "where": where, "hint": hint}
    if isinstance(error, FaultsError):
        document["faults"] = [{"where": f.where, "what": f.what, "hint": f.hint} for f in error.faults]
    if isinstance(error, GateFailed):
        document["gates"] = list(error.gates)
    return document


def _text(error: BaseException, document: Mapping[str, Any]) -> str:
    return str(error) if isinstance(error, TruecourseError) else f"{document['what']}\n  → {document['hint']}"


def _traceback_log(error: BaseException) -> Path:
    """Write the traceback to a file in the home, or in a temporary folder if that cannot be written; the file."""
    name = f"error-{os.getpid()}.log"
    for folder in _log_folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("".join(traceback.format_exception(error)))
        except OSError:
            continue
        return folder / name
    return Path(name)


def _log_folders() -> Iterator[Path]:
    with suppress(TruecourseError):  # the settings may be invalid
        yield get_settings().home / "logs"
    yield Path(tempfile.gettempdir())

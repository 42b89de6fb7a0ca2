"""What a command says: progress on stderr as it goes, its answer on stdout, one JSON object with --json."""

import functools
import json as jsonlib
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
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

Json = Annotated[bool, typer.Option("--json", help="Answer with one JSON object on stdout.")]
ProblemName = Annotated[str | None, typer.Option(help="A folder of problems/; the settings' default if not given.")]
P = ParamSpec("P")
INTERRUPTED = 130


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
    """A function that returns an Answer, as a command: prints the answer, or the error with its cure, and exits so."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        as_json = bool(kwargs.get("json"))
        try:
            answer = function(*args, **kwargs)
        except (KeyboardInterrupt, Exception) as error:
            raise typer.Exit(_explain(error, as_json)) from None
        if as_json:
            print_json(answer.document)
        elif answer.view:
            stdout().print(answer.view, soft_wrap=isinstance(answer.view, str | Text))  # a file takes lines as they are
        if not answer.ok:
            raise typer.Exit(1)

    return run


def print_json(document: Mapping[str, Any]) -> None:
    sys.stdout.write(jsonlib.dumps(jsonable(document), ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


def jsonable(value: Any) -> Any:
    """Plain JSON values of what flows return: references by their fields, times as ISO 8601."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(name): jsonable(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [jsonable(item) for item in value]
    if isinstance(value, datetime | date | Path) or is_dataclass(value):
        return to_jsonable_python(value)
    return value


def _explain(error: BaseException, as_json: bool) -> int:
    """Say what was wrong, and the exit status for it."""
    if isinstance(error, KeyboardInterrupt):
        stderr().print("interrupted")
        return INTERRUPTED
    told = _described(error)
    if as_json:
        print_json({"error": told})
    stderr().print(f"[bold red]✗[/] {escape(_text(error, told))}", soft_wrap=True)
    return 1


def _described(error: BaseException) -> dict[str, Any]:
    if not isinstance(error, TruecourseError):
        cure = f"the traceback is in {_traceback_log(error)}"
        return {"what": f"{type(error).__name__}: {error}"[:400], "where": "", "cure": cure}
    told: dict[str, Any] = {"kind": type(error).__name__, "what": error.what, "where": error.where, "cure": error.cure}
    if isinstance(error, FaultsError):
        told["faults"] = [{"where": f.where, "what": f.what, "cure": f.cure} for f in error.faults]
    if isinstance(error, GateFailed):
        told["gates"] = list(error.gates)
    return told


def _text(error: BaseException, told: Mapping[str, Any]) -> str:
    return str(error) if isinstance(error, TruecourseError) else f"{told['what']}\n  → {told['cure']}"


def _traceback_log(error: BaseException) -> Path:
    """A file with the traceback, in our home; in a temporary folder if that cannot be written."""
    name = f"error-{os.getpid()}.log"
    for folder in (get_settings().home / "logs", Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("".join(traceback.format_exception(error)))
        except OSError:
            continue
        return folder / name
    return Path(name)

"""Lazy commands: built from their source without importing it. Imports take seconds, and help, usage errors and shell
completion must not wait for them."""

import ast
import copy
import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from truecourse.settings import REPOSITORY
from truecourse.wording import nearest

OPTIONS: dict[str, Any] = {
    "no_args_is_help": True,
    "add_completion": False,
    "pretty_exceptions_enable": False,
}
LIGHT = frozenset({"typing", "typer", "datetime", "pathlib", "collections.abc", "cli.terminal.output"})
"""Modules that signatures use and that import quickly."""


class LazyGroup(TyperGroup):
    """A group of commands that are built when used. An unknown name gets a suggestion."""

    loaders: Mapping[str, Callable[[], Any]] = {}

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.loaders)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        loader = self.loaders.get(cmd_name)
        return loader() if loader else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in self.loaders and not args[0].startswith("-"):
            ctx.fail(f"no such command {args[0]!r}; {nearest(args[0], self.loaders)}")
        return super().resolve_command(ctx, args)


def lazy_group(loaders: Mapping[str, Callable[[], Any]]) -> type[LazyGroup]:
    return type("Commands", (LazyGroup,), {"loaders": dict(loaders)})


def with_name(app: typer.Typer, name: str) -> Any:
    """The command of an app under another name."""
    command = typer.main.get_command(app)
    command.name = name
    return command


def command_of(name: str, place: str) -> Any:
    """Build the command of a function `module:function`; the module is imported when the command runs."""
    module, _, function = place.partition(":")
    app = typer.Typer(**OPTIONS)
    app.command(name)(_deferred(module, function))
    return with_name(app, name)


def _deferred(module: str, function: str) -> Callable[..., None]:
    declared = declaration(module, function)
    if declared is None:
        found: Callable[..., None] = getattr(importlib.import_module(module), function)
        return found

    def run(**values: Any) -> None:
        getattr(importlib.import_module(module), function)(**values)

    run.__doc__ = declared.__doc__
    run.__signature__ = inspect.signature(declared)  # type: ignore[attr-defined]
    run.__annotations__ = declared.__annotations__
    return run


def declaration(module: str, function: str) -> Callable[..., Any] | None:
    """The function's signature and docstring without its body; None where the signature needs modules beyond LIGHT."""
    tree = ast.parse(_source(module).read_text(encoding="utf-8"))
    kept = [part for part in map(_keep_light, tree.body) if part is not None]
    kept += [_without_body(part) for part in tree.body if isinstance(part, ast.FunctionDef) and part.name == function]
    space: dict[str, Any] = {"__name__": module}
    try:
        exec(compile(ast.Module(kept, []), module, "exec"), space)  # noqa: S102  part of our own source
        found: Callable[..., Any] = space[function]
    except NameError:
        return None
    return found


def _source(module: str) -> Path:
    return REPOSITORY.joinpath(*module.split(".")).with_suffix(".py")


def _keep_light(part: ast.stmt) -> ast.stmt | None:
    """The statement, if it imports a light module or names an annotation."""
    if isinstance(part, ast.Import):
        names = [alias for alias in part.names if alias.name in LIGHT]
        return ast.copy_location(ast.Import(names), part) if names else None
    if isinstance(part, ast.ImportFrom):
        return part if part.module in LIGHT else None
    annotation = isinstance(part, ast.Assign) and isinstance(part.value, ast.Subscript)
    return part if annotation and ast.unparse(part.value).startswith("Annotated") else None  # type: ignore[attr-defined]


def _without_body(function: ast.FunctionDef) -> ast.FunctionDef:
    docstring = [part for part in function.body[:1] if ast.get_docstring(function) is not None]
    bare = copy.copy(function)
    bare.body, bare.decorator_list, bare.returns = [*docstring, ast.copy_location(ast.Pass(), function)], [], None
    return bare

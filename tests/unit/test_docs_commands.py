"""Every command of the documentation parses on the real command line, and every Python block uses names that exist."""

import ast
import dataclasses
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import truecourse.problem
from cli.main import app
from tests.conftest import REPOSITORY

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
SHELLS = {"", "sh", "bash", "console"}
PLACEHOLDER = re.compile(r"<.*>|[A-Z][A-Z_]*|.*\.\.\.|\[.*\]\.*")
"""A word that stands for a value in running text: FLOW, <problem>, 0f3c..., [FIELD=VALUE]..."""


def named(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """The fenced blocks: language and content, without the indentation of the fence."""
    for indentation, language, content in re.findall(r"^( *)```(\w*)[^\n]*\n(.*?)^ *```$", text, re.M | re.S):
        yield language, re.sub(rf"^{indentation}", "", content, flags=re.M)


def statements(script: str) -> Iterator[list[str]]:
    """The words of each simple command of a script; pipes, redirections and assignments separate."""
    pending = ""
    for line in script.replace("\\\n", " ").splitlines():
        pending += line + "\n"
        lexer = shlex.shlex(pending, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split, lexer.commenters = True, "#"
        try:
            tokens = list(lexer)
        except ValueError:  # a quote that a later line closes
            continue
        pending = ""
        words: list[str] = []
        for token in [*tokens, ";"]:
            if set(token) <= set("|&;<>"):
                yield words
                words = []
            elif words or not re.match(r"\w+=", token):
                words.append(token)


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of every `truecourse` in the shell blocks of a page. Lines of output follow no `$`."""
    for language, content in blocks(text):
        if language in SHELLS:
            shown = re.findall(r"^\$ (.*)$", content, re.M) if language == "console" else [content]
            for words in statements("\n".join(shown)):
                words = words[1:] if words[:1] == ["$"] else words
                if words[:1] == ["truecourse"]:
                    yield words[1:]


def mentions(text: str) -> Iterator[list[str]]:
    """The arguments of every `truecourse ...` in running text."""
    without_blocks = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.M | re.S)
    for code in re.findall(r"`truecourse ([^`]+)`", without_blocks):
        yield shlex.split(" ".join(code.replace("\\|", "|").split()))


def parse(arguments: list[str]) -> None:
    """Parse a whole command without running it. Raises click's UsageError."""
    group: Any = typer.main.get_command(app)
    context = typer.Context(group, info_name="truecourse")
    while hasattr(group, "resolve_command") and arguments and not arguments[0].startswith("-"):
        name, group, arguments = group.resolve_command(context, arguments)
        context = typer.Context(group, info_name=name, parent=context)
    if arguments not in (["--help"], ["-h"], ["--version"], ["--install-completion"], ["--show-completion"]):
        group.make_context(group.name, list(arguments))


def require_names(arguments: list[str]) -> None:
    """Check that the commands and options of a mention exist, whatever its values."""
    group: Any = typer.main.get_command(app)
    while arguments and hasattr(group, "get_command"):
        if arguments[0].startswith("-") or PLACEHOLDER.fullmatch(arguments[0]):
            break
        found = group.get_command(typer.Context(group), arguments[0])
        assert found is not None, f"no command {arguments[0]}"
        group, arguments = found, arguments[1:]
    known = {"--help", "-h", "--version"} | {name for each in group.params for name in each.opts + each.secondary_opts}
    unknown = [word for word in arguments if word.startswith("-") and word.split("=")[0] not in known]
    assert not unknown, unknown


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_of_a_page_parse(page: Path) -> None:
    text = page.read_text()
    for arguments in commands(text):
        try:
            parse(arguments)
        except Exception as error:
            pytest.fail(f"truecourse {shlex.join(arguments)}: {error}")
    for arguments in mentions(text):
        try:
            require_names(arguments)
        except AssertionError as error:
            pytest.fail(f"`truecourse {shlex.join(arguments)}`: {error}")


@pytest.mark.parametrize(
    "wrong",
    [
        "truecourse predcit",
        "truecourse run score --sorce x.csv",
        "truecourse rollback --to first --reason x",
        "truecourse promote",
    ],
)
def test_a_wrong_command_is_found(wrong: str) -> None:
    (arguments,) = commands(f"```sh\ncd x && {wrong} | cat\n```")
    with pytest.raises(typer.BadParameter.__bases__[0]):
        parse(arguments)


def test_a_wrong_mention_is_found() -> None:
    for wrong in ("`truecourse run scor`", "`truecourse deploy --enviroment dev`"):
        (arguments,) = mentions(wrong)
        with pytest.raises(AssertionError):
            require_names(arguments)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_python_of_a_page_uses_names_that_exist(page: Path) -> None:
    for language, content in blocks(page.read_text()):
        if language == "python":
            check_python(content)


def check_python(source: str) -> None:
    """Compile a block; its imports must exist, and calls of the problem's classes must pass fields that they have."""
    compile(source, "a block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for name in node.names:
                importlib.import_module(name.name)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            module = importlib.import_module(node.module or "")
            missing = [name.name for name in node.names if not hasattr(module, name.name)]
            assert not missing, f"{node.module} has no {', '.join(missing)}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            check_fields(node.func.id, {word.arg for word in node.keywords if word.arg})


def check_fields(name: str, given: set[str]) -> None:
    declared = getattr(truecourse.problem, name, None)
    if isinstance(declared, type) and dataclasses.is_dataclass(declared):
        unknown = given - {field.name for field in dataclasses.fields(declared)}
        assert not unknown, f"{name} has no {', '.join(sorted(unknown))}"


@pytest.mark.parametrize(
    "wrong", ["from truecourse.problem import Tabel", "Canary(step=(1.0,))", "from truecourse.problm import Table"]
)
def test_wrong_python_is_found(wrong: str) -> None:
    with pytest.raises((AssertionError, ImportError)):
        check_python(wrong)


def sentences(text: str) -> Iterator[str]:
    """The sentences of running text, list items and cells, where code and the target of a link count as one word."""
    text = re.sub(r"^ *```.*?^ *```$", "\n", text, flags=re.M | re.S)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"`[^`]*`", "x", text))
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:[-*|#>]|\d+\.) ?)", text):
        for part in paragraph.split("|") if paragraph.lstrip().startswith("|") else [paragraph]:
            yield from re.split(r"(?<=[.!?:;])\s+", " ".join(part.split()))


@pytest.mark.parametrize("page", sorted((REPOSITORY / "docs").rglob("*.md")), ids=named)
def test_sentences_are_short(page: Path) -> None:
    long = [one for one in sentences(page.read_text()) if len(re.findall(r"[\w'’%.,-]*\w[\w'’%.,-]*", one)) > 30]
    assert not long, long


def test_a_long_sentence_is_found() -> None:
    assert max(len(one.split()) for one in sentences("Short.\n\n" + "word " * 31 + "end. Short.")) == 32

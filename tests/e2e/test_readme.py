"""What the documentation says is what the program does."""

import html
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.e2e.conftest import Flown
from truecourse.settings import Settings

pytestmark = pytest.mark.timeout(1200)


def commands(text: str) -> list[str]:
    """The lines of the fenced blocks marked `sh`, in order."""
    return [line for block in re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S) for line in block.splitlines()]


def test_the_commands_of_the_readme_run_word_for_word(flown: Flown, tmp_path: Path, prefect_server: str) -> None:
    lines = commands((REPOSITORY / "README.md").read_text())
    assert len(lines) >= 10
    problems = tmp_path / "problems"
    shutil.copytree(REPOSITORY / "problems", problems)
    variables = {
        "TRUECOURSE_HOME": str(flown.home),
        "TRUECOURSE_PROBLEMS": str(problems),
        "PREFECT_API_URL": prefect_server,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    for line in lines:
        done = subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, env=os.environ | variables, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert (problems / "wine" / "problem.py").is_file()


def test_the_two_commands_of_the_readme_are_targets() -> None:
    text = (REPOSITORY / "README.md").read_text()
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in re.findall(r"`?make ([a-z-]+)", text):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_every_link_of_the_documentation_leads_somewhere() -> None:
    for page in (REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_setting_is_documented() -> None:
    text = html.unescape((REPOSITORY / "docs" / "configuration.md").read_text())
    documented = set(re.findall(r"^\| `(TRUECOURSE_\w+)` \|", text, re.M))
    assert documented == {f"TRUECOURSE_{name.upper()}" for name in Settings.model_fields}
    for field in Settings.model_fields.values():
        assert field.description
        assert field.description in text


def command_names() -> Iterator[str]:
    import typer

    from cli.main import app

    whole = typer.main.get_command(app)
    context = typer.Context(whole)
    assert isinstance(whole, typer.core.TyperGroup)
    for name in whole.list_commands(context):
        command = whole.get_command(context, name)
        assert command is not None
        if isinstance(command, typer.core.TyperGroup) and name != "run":
            yield from (f"{name} {part}" for part in command.list_commands(context))
        else:
            yield name


def test_every_command_is_documented() -> None:
    from cli.run import FLOWS

    text = (REPOSITORY / "docs" / "configuration.md").read_text()
    for name in command_names():
        assert f"`truecourse {name}" in text, name
    for flow in FLOWS:
        assert f"`{flow}`" in text, flow

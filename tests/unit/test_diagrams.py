"""The diagrams of the documentation show the packages, flows and modules that exist."""

import ast
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from docs.tools import diagrams
from tests.conftest import REPOSITORY

SVG = "{http://www.w3.org/2000/svg}"
PAGES = sorted((REPOSITORY / "docs" / "explanation").glob("*.md"))


def packages_below(folder: Path) -> set[str]:
    return {path.parent.name for path in folder.glob("*/__init__.py")}


def texts(drawing: str, *classes: str) -> set[str]:
    """The texts of a drawing with one of the classes."""
    root = ElementTree.fromstring(drawing)
    return {text.text or "" for text in root.iter(f"{SVG}text") if text.get("class") in classes}


@pytest.mark.parametrize("name", diagrams.draw_all())
def test_a_committed_diagram_is_the_drawn_one(name: str) -> None:
    drawn = diagrams.draw_all()[name]
    assert (diagrams.IMAGES / name).read_text() == drawn, "python -m docs.tools.diagrams"
    assert "://" not in drawn.replace('xmlns="http://www.w3.org/2000/svg"', "")


def test_the_diagram_of_packages_has_every_package() -> None:
    shown = texts(diagrams.draw_packages(), "name")
    for package in ("truecourse", "truecourse/monitoring", "services", "tasks", "cli"):
        existing = packages_below(REPOSITORY / package) - {"__pycache__"}
        assert existing
        assert existing <= shown, package
    top = {"flows", "benchmarks", "cli", "tasks", "services", "feature_repo", "truecourse"}
    assert top <= shown
    known = {each for folder in REPOSITORY.glob("*") for each in packages_below(folder)}
    monitoring = packages_below(REPOSITORY / "truecourse" / "monitoring")
    assert shown - known - monitoring - top == {"truecourse.monitoring"}


@pytest.mark.parametrize("lifelines", [diagrams.REQUEST_LIFELINES, diagrams.LIFECYCLE_LIFELINES])
def test_the_packages_of_lifelines_exist(lifelines: tuple[diagrams.Lifeline, ...]) -> None:
    for one in lifelines:
        if one.package:
            assert (REPOSITORY / one.package.replace(".", "/") / "__init__.py").is_file(), one.package


def test_the_lifecycle_shows_the_flows_in_their_order() -> None:
    shown = [step.flow for step in diagrams.LIFECYCLE if isinstance(step, diagrams.Message) and step.flow]
    module = ast.parse((REPOSITORY / "flows" / "lifecycle.py").read_text())
    imported = [node.module for node in module.body if isinstance(node, ast.ImportFrom)]
    flows = {name.removeprefix("flows.") for name in imported if name and name.startswith("flows.")}
    calls = sorted(
        (node.lineno, node.func.id)
        for node in ast.walk(module)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in flows
    )
    assert shown[: len(calls)] == [name for _, name in calls]
    assert shown[len(calls) :] == ["deploy", "promote"]
    assert all((REPOSITORY / "flows" / f"{name}.py").is_file() for name in shown)


def test_the_statuses_of_the_request_are_those_of_the_code() -> None:
    replies = [step.text for step in diagrams.REQUEST if isinstance(step, diagrams.Message) and step.reply]
    shown = set(re.findall(r"\b[2-5]\d\d\b", " ".join(replies)))
    code = [path.read_text() for path in (REPOSITORY / "services" / "http").glob("*.py")]
    code += [path.read_text() for path in (REPOSITORY / "truecourse" / "serving").glob("*.py")]
    assert len(shown) > 8
    assert shown <= set(re.findall(r"\b[2-5]\d\d\b", " ".join(code)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_module_that_a_page_names_exists(page: Path) -> None:
    for name in re.findall(
        r"`((?:truecourse|services|tasks|flows|cli|feature_repo|tests)/[\w/.]+\.py)`", page.read_text()
    ):
        assert (REPOSITORY / name).is_file(), name

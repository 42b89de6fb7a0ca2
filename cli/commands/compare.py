"""`compare`: models on the same test rows, with a conclusion on whether they differ by more than noise."""

from typing import Annotated

import typer
from rich.console import Group
from rich.text import Text

from cli.commands.status_report import publish_page
from cli.terminal.output import Answer, Json, ProblemName, command, stderr
from cli.terminal.sections import terminal_view
from truecourse.errors import SettingsError
from truecourse.evaluation.comparison_sections import comparison_sections
from truecourse.page_sections import page_view
from truecourse.problem.loader import load_problem
from truecourse.settings import prefect_environment

MOST = 12
"""Most models of a comparison."""


@command
def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Version numbers, champion, challenger, or the first 6 or more digits of a training run's id. "
            "The first is the reference.",
        ),
    ],
    problem: ProblemName = None,
    json: Json = False,
) -> Answer:
    """Compare models on test rows that none was trained on: is a difference more than noise? Shows metrics with paired
    intervals, slices, calibration, flipped predictions, parameters, features and code. Writes a page."""
    spec = load_problem(problem)
    if not 2 <= len(models) <= MOST:
        hint = "name the reference, then the models to compare with it: truecourse compare champion 4 5"
        raise SettingsError(f"{len(models)} given, 2 to {MOST} needed", where="models", hint=hint)
    prefect_environment()
    from tasks.training.compare_models import compare_models, find_side

    sides = [find_side(spec.name, text) for text in models]
    with stderr().status("predicting the test rows"):
        found = compare_models(sides)
    sections = list(comparison_sections(found))
    html = page_view(spec.name, f"Comparison of {', '.join(one['name'] for one in found['models'])}", sections)
    path = publish_page(spec, "compare", "-".join(models), html)
    return Answer(found | {"page": str(path)}, Group(terminal_view(sections), Text(f"\n→ {path}")))

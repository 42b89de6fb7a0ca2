"""`tune`: a search of the parameter space, with a page of its trials."""

from datetime import datetime
from typing import Annotated

import typer
from rich.console import Group
from rich.text import Text

from cli.commands.run import run_flow
from cli.commands.status_report import publish_page
from cli.terminal.output import Answer, Json, ProblemName, command
from cli.terminal.progress import Progress
from cli.terminal.sections import terminal_view
from truecourse.evaluation.tuning_sections import tuning_sections
from truecourse.page_sections import page_view
from truecourse.problem.loader import load_problem


@command
def tune(
    trials: Annotated[
        int | None,
        typer.Option(help="Number of parameter sets in all; the problem's number if this and --minutes are empty."),
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Begin no further trial after this time.")] = None,
    workers: Annotated[
        int, typer.Option(help="Processes that make trials. With one, the same trials are made each time.")
    ] = 1,
    feature_groups: Annotated[
        bool, typer.Option("--feature-groups", help="Also search which groups of features to use, such as views.")
    ] = False,
    until: Annotated[datetime | None, typer.Option(help="Time (UTC) up to which labels count.")] = None,
    problem: ProblemName = None,
    json: Json = False,
) -> Answer:
    """Search the declared parameter space on training rows, and compare the best set with the default on validation
    rows. An interrupted search continues where it stopped. Writes a page."""
    spec = load_problem(problem)
    name = spec.name
    parameters = {
        "problem": name, "trials": trials, "until": until, "minutes": minutes, "workers": workers,
        "feature_groups": feature_groups,
    }  # fmt: skip
    with Progress(["tune"]) as progress:
        found = run_flow("tune", parameters, progress)
    sections = list(tuning_sections(found, name))
    path = publish_page(spec, "tune", found["search"][:16], page_view(name, "Parameter search", sections))
    return Answer(found | {"problem": name, "page": str(path)}, Group(terminal_view(sections), Text(f"\n→ {path}")))

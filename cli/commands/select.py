"""`select`: what each feature and view adds to a model, and a smaller set of features."""

from typing import Annotated

import typer
from rich.console import Group
from rich.text import Text

from cli.commands.status_report import publish_page
from cli.terminal.output import Answer, Json, ProblemName, command, stderr
from cli.terminal.sections import terminal_view
from truecourse.evaluation.selection_sections import selection_sections
from truecourse.page_sections import page_view
from truecourse.problem.loader import load_problem
from truecourse.settings import prefect_environment
from truecourse.wording import counted


@command
def select(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A version's number, champion, challenger, or the first digits of a run's id; the newest run if not "
            "given."
        ),
    ] = None,
    problem: ProblemName = None,
    json: Json = False,
) -> Answer:
    """Measure what each feature and view adds to a model: by training without it, and by permuting its values. Proposes
    a smaller set, and says what it loses. Uses validation rows only. Writes a page."""
    spec = load_problem(problem)
    prefect_environment()
    from tasks.training.compare_models import find_side
    from tasks.training.select_features import select_of_model
    from truecourse.registry import runs

    side = find_side(spec.name, model) if model else runs.trained_run(spec.name)
    with stderr().status("training with all features") as status:
        found = select_of_model(side, lambda fits: status.update(f"training without features: {counted(fits, 'fit')}"))
    sections = list(selection_sections(found))
    path = publish_page(spec, "select", found["run_id"], page_view(spec.name, "Feature selection", sections))
    return Answer(found | {"page": str(path)}, Group(terminal_view(sections), Text(f"\n→ {path}")))

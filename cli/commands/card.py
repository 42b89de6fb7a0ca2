"""`card`: the model card of a version or run, as Markdown or JSON."""

from typing import Annotated

import typer
from rich.text import Text

from cli.terminal.output import Answer, Json, ProblemName, command, stderr
from truecourse.problem.loader import load_problem
from truecourse.settings import prefect_environment


@command
def card(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A version's number, champion, challenger, or the first digits of a run's id. If not given: the "
            "champion, or else the newest run."
        ),
    ] = None,
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild", help="Compute it again, with the texts and groups that are declared now, without storing it."
        ),
    ] = False,
    problem: ProblemName = None,
    json: Json = False,
) -> Answer:
    """Print a model's card as Markdown, for reviews and pull requests: intended use, data, metrics, decisions,
    calibration, slices, fairness, explanations, examples, cost, and how to reproduce it."""
    spec = load_problem(problem)
    prefect_environment()
    from tasks.training.compare_models import find_side
    from tasks.training.evaluate_model import model_card, stored_card
    from truecourse.evaluation.cards.markdown import card_markdown
    from truecourse.registry import runs
    from truecourse.registry import versions as registry

    side = find_side(spec.name, model) if model else registry.champion(spec.name) or runs.trained_run(spec.name)
    run = runs.trained_run(spec.name, side.run_id)
    found = None if rebuild else stored_card(run)
    if found is None:
        with stderr().status("computing the card"):
            found = model_card(spec.name, run)
    return Answer(found, Text(card_markdown(found).rstrip()))

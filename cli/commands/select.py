"""`select`: what each feature and view adds to a model, and a smaller set of features."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from markupsafe import Markup
from rich.console import Group
from rich.text import Text

from cli.commands.compare_sections import estimate_text, interval_picture, percent
from cli.commands.status_report import write_page
from cli.terminal.output import Answer, Json, ProblemName, command, stderr
from cli.terminal.sections import Note, Pairs, Picture, Rows, Section, page_view, terminal_view
from truecourse.html import number
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
    path = write_page(spec.name, "select", found["run_id"], page_view(spec.name, "Feature selection", sections))
    return Answer(found | {"page": str(path)}, Group(terminal_view(sections), Text(f"\n→ {path}")))


def selection_sections(found: Mapping[str, Any]) -> Iterator[Section]:
    """The sections of the document of a feature selection."""
    proposed, loss = found["proposed"], found["metric"].replace("_", " ")
    days = f" of {counted(found['days'], 'day')}" if found["days"] is not None else ""
    yield Pairs(
        {
            "model": f"{found['model']}, snapshot {found['snapshot'][:12]}",
            "validation rows": f"{counted(found['rows'], 'row')}{days}; no test row is used",
            f"{loss} with all features": number(found["loss"]),
            "fits": found["fits"],
        }
    )
    yield Note(_sentence(proposed, loss))
    interval = f"({percent(found['coverage'])} interval)"
    ordered = sorted(found["features"], key=lambda one: -(one["dropped"]["value"] or 0.0))
    rows = [
        [one["feature"], one["group"], one["use"], estimate_text(one["dropped"]), estimate_text(one["permuted"])]
        for one in ordered
    ]
    yield Note(f"How much the {loss} rises without a feature, and with its values permuted:")
    yield Rows(("feature", "group", "use", f"without it {interval}", f"permuted {interval}"), rows)
    if found["groups"]:
        yield Rows(("group", "features", "use", f"without it {interval}", "cost: CPU seconds, bytes"), _groups(found))
    yield Picture(f"How much the {loss} rises without each feature", _picture(found, ordered, loss))


def _groups(found: Mapping[str, Any]) -> list[list[object]]:
    rows: list[list[object]] = []
    for one in found["groups"]:
        cost = one["cost"] or {}
        use = "not worth its cost" if cost and one["use"] not in ("useful", "unknown") else one["use"]
        spent = f"{number(cost['cpu_seconds'], 2)}, {int(cost['bytes']):,}" if cost else "–"
        rows.append([one["group"], len(one["features"]), use, estimate_text(one["dropped"]), spent])
    return rows


def _sentence(proposed: Mapping[str, Any], loss: str) -> str:
    kept = counted(len(proposed["kept"]), "feature")
    if not proposed["dropped"]:
        return f"No smaller set is as good as all features. {kept} are kept."
    figures = estimate_text(proposed["difference"])
    saved = proposed["saved"]
    views = f" Without them, no feature of {', '.join(proposed['groups'])} is left" if proposed["groups"] else ""
    if views and saved["cpu_seconds"]:
        views += f", which saves {number(saved['cpu_seconds'], 1)} CPU seconds of a full computation"
    return (
        f"Proposed: keep {kept}, and drop {', '.join(proposed['dropped'])}. "
        f"The {loss} changes by {figures} on the same validation rows.{views}{'.' if views else ''}"
    )


def _picture(found: Mapping[str, Any], ordered: list[Mapping[str, Any]], loss: str) -> Markup:
    bars = [(one["feature"], one["dropped"]) for one in ordered]
    return interval_picture(bars, f"{loss} without the feature: above 0 the feature helps", helps=True)

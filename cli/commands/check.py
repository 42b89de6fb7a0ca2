"""`check`: faults of a problem or feature area, and what an edit changes in stored tables and views."""

from dataclasses import replace
from typing import Annotated, Any

import typer
from rich.markup import escape

from cli.terminal.output import Answer, AreaName, Json, ProblemName, command_without_storage
from truecourse.authoring.data_check import DataCheck, check_frame, check_source
from truecourse.errors import FeatureError, NotFound, SettingsError, StorageError
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem_or_area
from truecourse.problem.namespace import Namespace
from truecourse.settings import prefect_environment
from truecourse.wording import counted


@command_without_storage
def check(
    problem: ProblemName = None,
    data: Annotated[
        bool, typer.Option("--data", help="Check the rows too: suspected leakage, and values that do not parse.")
    ] = False,
    area: AreaName = None,
    json: Json = False,
) -> Answer:
    """Check the specification of a problem or feature area: every fault with place and hint, and what an edit changes
    in stored tables and views; with --data, warnings about a problem's rows too."""
    from truecourse.authoring.checks.run_checks import require_valid

    spec = load_problem_or_area(problem, area)
    require_valid(spec)
    if data and not isinstance(spec, Problem):
        raise SettingsError("an area has no rows of decisions to check", where="--data", hint="leave out --data")
    features = spec.features if isinstance(spec, Problem) else [name for view in spec.views for name in view.features]
    parts = {"table": spec.tables, "view": spec.views, "feature": features}
    summary = f"{spec.name}: {', '.join(counted(len(part), noun) for noun, part in parts.items())}"
    valid = f"[green]✓[/] no faults in {summary}"
    changes, stored = _planned_changes(spec)
    document: dict[str, Any] = {"problem": spec.name, "faults": [], "changes": changes}
    if not data:
        return Answer(document, "\n".join([valid, *stored]))
    assert isinstance(spec, Problem)
    result = _check_data(spec)
    warnings = result.warnings()
    document |= {
        "rows": result.rows,
        "suspects": [{"columns": list(s.columns), "what": str(s)} for s in result.suspects],
        "unreadable": result.unreadable,
        "warnings": warnings,
    }
    lines = [f"[yellow]![/] {escape(line)}" for line in warnings]
    clean = [] if warnings else [f"[green]✓[/] nothing suspicious in {counted(result.rows, 'row')}"]
    return Answer(document, "\n".join([valid, *stored, *lines, *clean]))


def _planned_changes(spec: Namespace) -> tuple[dict[str, Any] | None, list[str]]:
    """What the next run changes in stored tables and views, as document and lines; None if storage does not answer."""
    from truecourse.authoring.table_changes import plan_changes
    from truecourse.storage.delta_tables import Tables

    try:
        plan = plan_changes(spec, Tables())
    except StorageError as error:
        return None, [f"[yellow]![/] stored tables were not compared: {escape(error.what)}"]
    return plan.document(), [f"[cyan]→[/] {escape(line)}" for line in plan.sentences()]


def _check_data(spec: Problem) -> DataCheck:
    """Check the source rows of a problem without a spine, and the decisions from clean tables and features of a problem
    with a spine or views."""
    if not spec.has_spine and not spec.views:
        return check_source(spec)
    prefect_environment()
    from tasks.features.decision_frame import decision_frame, feature_versions
    from truecourse.data.sql import clean_versions
    from truecourse.storage.delta_tables import Tables

    tables, source = Tables(), None if spec.has_spine else check_source(spec)
    try:
        clean = clean_versions(spec, tables)
        features = feature_versions(spec, tables, clean)
    except (NotFound, FeatureError) as error:
        if source is None:
            raise
        return replace(source, unchecked=(f"features of views were not checked: {error.what}; {error.hint}",))
    checked = check_frame(spec, decision_frame(spec, tables, clean, features))
    return checked if source is None else replace(source, suspects=checked.suspects)

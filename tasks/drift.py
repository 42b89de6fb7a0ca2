"""The drift check as a task, its report and page kept, with Evidently's own page where it is asked for."""

import logging
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from prefect import task
from prefect.artifacts import create_link_artifact
from prefect.context import FlowRunContext

from tasks.retry import RETRY
from truecourse import registry
from truecourse.errors import TruecourseError
from truecourse.loading import load_problem
from truecourse.monitoring import reports
from truecourse.monitoring.driftcheck import Checked, checked, sketched
from truecourse.monitoring.findings import Report
from truecourse.monitoring.seen import Predictions, watched
from truecourse.pages import render
from truecourse.problem import Problem
from truecourse.references import Window
from truecourse.settings import get_settings
from truecourse.snapshot import load_frame
from truecourse.tables import Tables
from truecourse.tracking import trained_run

log = logging.getLogger("truecourse.monitor")
EVIDENTLY_ROWS = 5000


def monitored(
    problem: Problem,
    tables: Tables,
    at: datetime | None = None,
    window: Window | None = None,
    evidently: bool = False,
) -> Report:
    """The check's report, kept with its pages: the newest, and one named after the window."""
    found = checked(problem, tables, at, window)
    folder = f"reports/{problem.name}"
    report = found.report.model_copy(update={"page": f"{folder}/drift.html"})
    if evidently:
        page = f"{folder}/evidently.html"
        tables.store.put(page, _evidently(problem, tables, report).encode())
        report = report.model_copy(update={"figures": report.figures | {"evidently": page}})
    reports.save(tables.store, report)
    named = f"{folder}/drift-{_name(report)}.html"
    drawn = _page(problem, found, report)
    for key in (report.page, named):
        tables.store.put(key, drawn)
    log.info("%s", report.sentence)
    _link(problem, named)
    return report


def _page(problem: Problem, found: Checked, report: Report) -> bytes:
    return render("drift.html", problem=problem, report=report, data=found.data, scores=found.scores).encode()


def _name(report: Report) -> str:
    span = Window.model_validate(report.figures["window"])
    if span.start is None or span.end is None:
        return "all"
    return f"{span.start:%Y%m%dT%H%M}-{span.end:%Y%m%dT%H%M}"


def _link(problem: Problem, page: str) -> None:
    if FlowRunContext.get() is None:
        return
    address = f"{get_settings().storage_root}/{page}"
    link = address if "://" in address else f"file://{address}"
    create_link_artifact(link, link_text="Drift page", key=f"drift-{problem.name.replace('_', '-')}")


def _evidently(problem: Problem, tables: Tables, report: Report) -> str:
    """Evidently's data drift report of both sides, each thinned to EVIDENTLY_ROWS rows: a page with no network."""
    from evidently import Report as Drawn
    from evidently.presets import DataDriftPreset

    span = Window.model_validate(report.figures["window"])
    version = registry.version(problem.name, report.figures["model"]["version"])
    snapshot = load_frame(tables.store, trained_run(problem.name, version.run_id).snapshot)
    made = Predictions(problem, tables, []).read(span.start, span.end)
    names, sides = list(watched(problem)), []
    for frame in (made, snapshot.filter(pc.not_equal(snapshot["split"], "test"))):
        rows = np.unique(np.linspace(0, len(frame) - 1, min(len(frame), EVIDENTLY_ROWS)).astype(np.int64))
        sides.append(frame.select(names).take(pa.array(rows)).to_pandas())
    # A column with no value at all on one side stops Evidently.
    full = [name for name in names if all(side[name].notna().any() for side in sides)]
    html: str = Drawn([DataDriftPreset()]).run(sides[0][full], sides[1][full]).get_html_str(as_iframe=False)
    return html


@task(name="check drift", **RETRY)
def check_drift(
    problem: str, at: datetime | None = None, window: Window | None = None, evidently: bool = False
) -> Report:
    """Data drift and prediction drift, and what broke. `at` (UTC): the moment that counts as now."""
    return monitored(load_problem(problem), Tables(), at, window, evidently)


@task(name="sketch days", **RETRY)
def sketch_days(problem: str) -> int:
    """Count what arrived by the champion's bins, day by day, so that a check reads counts and no rows; how many days
    there are to look at. What cannot be counted is left to the check, which says why."""
    try:
        days = sketched(load_problem(problem), Tables())
    except TruecourseError as error:
        log.warning("no sketches were made: %s", error)
        return 0
    log.info("%s days are sketched", days)
    return days

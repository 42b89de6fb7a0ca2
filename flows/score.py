"""Write batch predictions into the predictions table."""

from datetime import datetime, timedelta

from prefect import flow

from tasks.hooks import hooks
from tasks.monitoring.check_drift import update_daily_histograms
from tasks.naming import run_name
from tasks.open_problem import open_problem
from tasks.scoring.score_decisions import score_decisions
from tasks.scoring.score_files import score_file
from truecourse.features.clock import data_end
from truecourse.references import FileScores, TableVersion, Window, naive_utc
from truecourse.storage.delta_tables import Tables


@flow(name="score", flow_run_name=run_name, **hooks())
def score(
    problem: str | None = None,
    source: str | None = None,
    version: int | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    explain: bool = False,
) -> TableVersion | FileScores:
    """Score the decisions of a window, or the rows of a file, with features as of decision time.

    Args:
        problem: a folder of `problems/`; the settings' default if empty.
        source: CSV, Parquet or JSON lines with the request fields: a path, a glob, or a key of object storage;
            the problem's own decisions if empty.
        version: of the model; the champion if empty.
        start: the first decision time (UTC) to score; the earliest if empty. Not for files.
        end: score decision times before this time (UTC); all if empty, or with `clock="data"` those up to the data's
            end. Not for files.
        explain: add the contribution of every feature.

    The same model does not score the same data twice. A file is parsed like the problem's own table; the table's key,
    if the file has it, gives the row ids. Rows that break the contract go, with their reasons, to the table
    `rejected/<problem>` and to a file among the reports. Daily histograms for the drift check are updated.
    """
    spec = open_problem(problem)
    name = spec.name
    written: TableVersion | FileScores
    if source is not None:
        written = score_file(name, source, version, explain)
    else:
        last = data_end(spec, Tables()) if end is None else None
        end = last + timedelta(microseconds=1) if last else end
        written = score_decisions(name, version, Window(start=naive_utc(start), end=naive_utc(end)), explain)
    update_daily_histograms(name)
    return written

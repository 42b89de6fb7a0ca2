"""Has the data moved away from what the champion learned?"""

from datetime import datetime

from prefect import flow

from tasks.drift import check_drift
from truecourse.loading import load_problem
from truecourse.monitoring.findings import Report
from truecourse.references import Window


@flow(name="monitor")
def monitor(
    problem: str | None = None, start: datetime | None = None, end: datetime | None = None, evidently: bool = False
) -> Report:
    """Compare a window of predictions, and the features they saw, with the champion's snapshot and the weeks before.

    problem: a folder of `problems/`; the settings' default if empty.
    start: the window's first moment (UTC); the problem's `monitoring.window` before the end if empty.
    end: the window's end (UTC, not included); the end of the day of the newest prediction if empty.
    evidently: also write Evidently's own report, on a sample of rows.

    A problem without time is checked on all its predictions. Raises ModelError if there is no champion, NotFound if
    it scored nothing, FeatureError if the window is empty.
    """
    window = Window(start=start, end=end) if start or end else None
    return check_drift(load_problem(problem).name, end, window, evidently)

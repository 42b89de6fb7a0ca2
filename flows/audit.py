"""Check for skew between served and offline features."""

from datetime import datetime
from typing import Any

from prefect import flow

from tasks.hooks import hooks
from tasks.monitoring.check_skew import check_skew
from tasks.naming import run_name
from tasks.open_problem import open_problem
from truecourse.features.clock import clip_to_now
from truecourse.references import Window


@flow(name="audit", flow_run_name=run_name, **hooks())
def audit(problem: str | None = None, start: datetime | None = None, end: datetime | None = None) -> dict[str, Any]:
    """Recompute logged predictions from the offline tables, and name the cause of every difference.

    Args:
        problem: a folder of `problems/`; the settings' default if empty.
        start: include requests from this time on (UTC); the problem's `monitoring.window` before the end if empty.
        end: include requests before this time (UTC), and nothing recorded later; the end of the newest prediction's
            day if empty.

    The audit takes a sample of `monitoring.audit_rows` predictions, the same one each time.
    """
    return check_skew(open_problem(problem).name, clip_to_now(end), Window(start=start, end=end)).model_dump(
        mode="json"
    )

"""The process that a flow runs in, noted for whoever has to tell a run that was killed from one that lives."""

import logging
from typing import Any

from services.process import flow_runs

log = logging.getLogger("truecourse.flowruns")


def note_process(flow: Any, flow_run: Any, state: Any) -> None:
    """A hook for `on_running` of every flow."""
    try:
        flow_runs.write_note(str(flow_run.id))
    except OSError as error:
        log.warning("the process of the flow run %s is not noted: %s", flow_run.name, error.strerror)

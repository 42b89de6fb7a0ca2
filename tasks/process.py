"""Record the process of each flow run, to distinguish killed runs from running ones."""

import logging
from typing import Any

from services.process import flow_runs

log = logging.getLogger("truecourse.flowruns")


def note_process(flow: Any, flow_run: Any, state: Any) -> None:
    """Record the process of a flow run; a hook for `on_running` of every flow."""
    try:
        flow_runs.write_note(str(flow_run.id))
    except OSError as error:
        log.warning("the process of flow run %s was not recorded: %s", flow_run.name, error.strerror)

"""Prefect's logging: the configuration that it ships, and the queue of records for its server.

What: a filter is added to the handlers of Prefect's `logging.yml`, in a copy. The handler's queue is flushed before a
temporary server stops.
Why: a server that cannot reach its database logs the same traceback every second. Records of the last seconds would be
lost with the server.
Without it: Prefect's servers log with their own configuration.
"""

import importlib.util
from pathlib import Path
from typing import Any

import yaml

from truecourse.compat.patch import Patch

PATCH = Patch(
    module=__name__,
    checked={"prefect": ("3.8.8",)},
    changes="copies prefect/logging/logging.yml with a filter; calls APILogHandler.flush()",
    reason="a server without its database logs the same traceback every second",
    upstream="https://github.com/PrefectHQ/prefect/blob/HEAD/src/prefect/logging/logging.yml",
    without="Prefect's servers log repeated tracebacks in full",
)
CONSOLE = ("console", "debug")
"""Handlers that write to the console; others write to the server's database."""


def configuration(filters: dict[str, Any]) -> dict[str, Any] | None:
    """Prefect's logging configuration with these filters on its console handlers, without importing Prefect.

    None if the patch is left out."""
    if not PATCH.is_active():
        return None
    spec = importlib.util.find_spec("prefect")
    assert spec is not None
    assert spec.origin is not None
    config: dict[str, Any] = yaml.safe_load((Path(spec.origin).parent / "logging" / "logging.yml").read_text())
    for name in CONSOLE:
        config["handlers"][name]["filters"] = list(filters)
    return config | {"filters": filters}


def flush() -> None:
    """Send the records that wait for the server."""
    from prefect.logging.handlers import APILogHandler

    APILogHandler().flush()

"""The end of a command's process, at which DuckDB's bindings report leaks.

What: the process runs its exit handlers, flushes its output and ends without the interpreter's shutdown.
Why: DuckDB's bindings are made with nanobind, which prints pages to stderr about objects that live until the shutdown.
Without it: some commands print those pages after their result.
"""

import atexit
import os
import sys
from contextlib import suppress

from truecourse.compat.patch import Patch
from truecourse.errors import SettingsError

PATCH = Patch(
    module=__name__,
    checked={"duckdb": ("2.0.0",)},
    changes="ends a command's process without the interpreter's shutdown, after its exit handlers",
    reason="DuckDB's bindings print pages about leaked objects at the shutdown",
    upstream="https://nanobind.readthedocs.io/en/latest/refleaks.html",
    without="some commands print pages about leaked objects after their result",
)


def exit_process(status: int) -> None:
    """End the process with this status."""
    with suppress(SettingsError):  # the command has reported it
        if not PATCH.is_active():
            sys.exit(status)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

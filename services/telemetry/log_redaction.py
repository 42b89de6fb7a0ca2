"""Log redaction: an exception is logged by its kind and place in the code, without its text and stack.

The text of an exception may quote values of a request, which must not be logged.
"""

import logging
import traceback
from types import TracebackType
from typing import Any

from truecourse.repeats import count_repeats


def install() -> None:
    """Redact every logger of this process, including BentoML's and uvicorn's, and count repeated lines."""
    make = logging.getLogRecordFactory()

    def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        entry = make(*args, **kwargs)
        if isinstance(entry.exc_info, tuple) and entry.exc_info[0] is not None:
            kind, _, trace = entry.exc_info
            entry.msg, entry.args = f"{entry.getMessage().strip()}: {kind.__name__} {_place(trace)}".strip(), ()
            entry.exc_info = None
        entry.stack_info = None
        return entry

    logging.setLogRecordFactory(record)
    count_repeats("truecourse.serving", "truecourse.log", "uvicorn.error", "asyncio")


def _place(trace: TracebackType | None) -> str:
    """The innermost three frames, as module and line."""
    frames = traceback.extract_tb(trace)[-3:]
    return (
        "at " + " < ".join(f"{_module(frame.filename)}:{frame.lineno}" for frame in reversed(frames)) if frames else ""
    )


def _module(file: str) -> str:
    return "/".join(file.rsplit("/", 2)[-2:])

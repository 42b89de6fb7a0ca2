"""Logs that give nothing away: an exception is named with its place in the code, without its text and its stack.

The text of an exception may quote what a caller sent, which belongs in no log.
"""

import logging
import traceback
from types import TracebackType
from typing import Any

from truecourse.repeats import count_repeats


def install() -> None:
    """For every logger of this process, Bento's and the server's among them; what repeats is counted."""
    make = logging.getLogRecordFactory()

    def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        made = make(*args, **kwargs)
        if isinstance(made.exc_info, tuple) and made.exc_info[0] is not None:
            kind, _, trace = made.exc_info
            made.msg, made.args = f"{made.getMessage().strip()}: {kind.__name__} {_place(trace)}".strip(), ()
            made.exc_info = None
        made.stack_info = None
        return made

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

"""Deduplicate log records: each cause is logged once with its traceback, then counted."""

import logging
import re
import time
import traceback
from dataclasses import dataclass

EVERY = 600.0
"""Seconds between two lines with the count of a cause."""
_VARIES = re.compile(r"[0-9a-f]{8,}|\d+")
"""Numbers and ids, which vary between records of one cause."""
MAX_CAUSES = 256
"""Causes that are remembered."""


@dataclass
class _Occurrences:
    """`logged`: when the cause was last logged (monotonic seconds). `since`: records since then."""

    logged: float
    since: int = 0


class Repeats(logging.Filter):
    """Log filter that deduplicates warnings and errors, for a logger or a handler.

    The cause of a record is the code location of its traceback, or its text without numbers and ids. The first record
    is logged in full; the following ones are counted, and the count is logged every `every` seconds."""

    def __init__(self, name: str = "", every: float = EVERY) -> None:
        super().__init__(name)
        self._every = every
        self._seen: dict[tuple[object, ...], _Occurrences] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        now, cause = time.monotonic(), _cause(record)
        seen = self._seen.get(cause)
        if seen is None:
            if len(self._seen) >= MAX_CAUSES:
                del self._seen[next(iter(self._seen))]
            self._seen[cause] = _Occurrences(now)
            return True
        seen.since += 1
        if now - seen.logged < self._every:
            return False
        what = record.getMessage().splitlines()[0] if record.getMessage() else record.name
        record.msg = f"{what} [again {seen.since} times in {now - seen.logged:.0f} s; the traceback is above, once]"
        record.args, record.exc_info, record.exc_text, record.stack_info = (), None, None, None
        seen.logged, seen.since = now, 0
        return True


def count_repeats(*loggers: str) -> None:
    """Add a Repeats filter to loggers."""
    for name in loggers:
        logging.getLogger(name).addFilter(Repeats())


def _cause(record: logging.LogRecord) -> tuple[object, ...]:
    if record.exc_info and record.exc_info[0] is not None:
        kind, _, trace = record.exc_info
        places = tuple((frame.filename, frame.lineno) for frame in traceback.extract_tb(trace))
        return (record.name, kind, places)
    return (record.name, record.levelno, _VARIES.sub("#", record.getMessage()))

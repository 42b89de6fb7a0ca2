"""Log records that repeat: one cause is written once with its traceback, and then counted."""

import logging
import re
import time
import traceback
from dataclasses import dataclass

EVERY = 600.0
"""Seconds between two lines that say how often a cause came again."""
_VARIES = re.compile(r"[0-9a-f]{8,}|\d+")
"""Numbers and ids, which tell no cause from another."""
HELD = 256
"""Causes that are remembered."""


@dataclass
class _Seen:
    said: float
    first: float
    since: int = 0


class Repeats(logging.Filter):
    """For a logger or a handler. An error's cause is its traceback, from the places in the code, or where it has none
    its text without numbers and ids; the first is written whole, those that follow are counted, and every ten minutes a
    line says how many."""

    def __init__(self, name: str = "", every: float = EVERY) -> None:
        super().__init__(name)
        self._every = every
        self._seen: dict[tuple[object, ...], _Seen] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        now, cause = time.monotonic(), _cause(record)
        seen = self._seen.get(cause)
        if seen is None:
            if len(self._seen) >= HELD:
                del self._seen[next(iter(self._seen))]
            self._seen[cause] = _Seen(now, now)
            return True
        seen.since += 1
        if now - seen.said < self._every:
            return False
        what = record.getMessage().splitlines()[0] if record.getMessage() else record.name
        record.msg = f"{what} [again {seen.since} times in {now - seen.said:.0f} s; the traceback is above, once]"
        record.args, record.exc_info, record.exc_text, record.stack_info = (), None, None, None
        seen.said, seen.since = now, 0
        return True


def count_repeats(*loggers: str) -> None:
    """Have these loggers write each cause once, and count it then."""
    for name in loggers:
        logging.getLogger(name).addFilter(Repeats())


def _cause(record: logging.LogRecord) -> tuple[object, ...]:
    if record.exc_info and record.exc_info[0] is not None:
        kind, _, trace = record.exc_info
        places = tuple((frame.filename, frame.lineno) for frame in traceback.extract_tb(trace))
        return (record.name, kind, places)
    return (record.name, record.levelno, _VARIES.sub("#", record.getMessage()))

"""The clock by which BentoML's first process, a circus arbiter on tornado, checks its workers.

What: tornado's `IOLoop.time` is a monotonic clock, and `Watcher.spawn_process` returns whether it started a process,
instead of the system time at which it did.
Why: both measure pauses by the system clock. tornado's `PeriodicCallback` says that its callbacks may be far apart once
the clock was set back; circus adds what it was set back by to its pause between two starts.
Without it: after the clock was set back by an hour, no dead worker is replaced for an hour. `truecourse up` restarts an
endpoint that does not answer; a deployment of target `process` stays without workers.
So no setting leaves it out.
"""

import time
from typing import Any

from truecourse.compat.patch import Patch

PATCH = Patch(
    module=__name__,
    checked={"kantoku": ("0.18.3",), "tornado": ("6.6.1",)},
    changes="replaces IOLoop.time by a monotonic clock, and Watcher.spawn_process by one that returns no time",
    reason="the checks of workers pause for as long as the system clock was set back by",
    upstream="https://github.com/tornadoweb/tornado/issues/2035",
    without="no dead worker is replaced until the clock is where it was before it was set back",
)


def ignore_system_clock() -> None:
    """Make this process check its workers at the same pace, whatever happens to the system clock.

    BentoML's first process loads the service before it imports circus, so circus is imported here."""
    from circus.watcher import Watcher
    from tornado.ioloop import IOLoop

    spawn = Watcher.spawn_process

    def spawn_process(self: Any, recovery_wid: int | None = None) -> bool:
        return bool(spawn(self, recovery_wid))

    Watcher.spawn_process = spawn_process
    IOLoop.time = lambda self: time.monotonic()  # type: ignore[method-assign]

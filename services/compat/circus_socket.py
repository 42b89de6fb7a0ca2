"""circus' listening sockets, with which BentoML starts its workers.

What: `CircusSocket.bind_and_listen` takes a socket that already listens, instead of binding its own.
Why: closing and reopening a port between two servers would lose the connections in its queue. So a supervisor holds the
socket and every server inherits it. Neither BentoML nor circus can inherit a socket; BentoML's own are IPv4 only.
Without it: no deployment without lost connections, and no IPv6. So no setting leaves it out.
"""

import os
from collections.abc import Sequence
from typing import Any

from truecourse.compat.patch import Patch

PATCH = Patch(
    module=__name__,
    checked={"kantoku": ("0.18.3",), "bentoml": ("1.4.39",)},
    changes="replaces CircusSocket.bind_and_listen by one that takes an inherited socket; runs BentoML's command line",
    reason="neither BentoML nor circus can serve on a socket that already listens",
    upstream="https://github.com/circus-tent/circus/issues/928",
    without="a deployment loses connections, and there is no IPv6",
)


def inherit(descriptor: int) -> None:
    """Make circus use the listening socket with this descriptor for every TCP socket."""
    from circus.sockets import CircusSocket

    listen = CircusSocket.bind_and_listen

    def take_over(self: Any) -> None:
        if self.is_unix:
            listen(self)
            return
        os.dup2(descriptor, self.fileno())
        self.host, self.port = self.getsockname()[:2]

    CircusSocket.bind_and_listen = take_over


def run_bentoml(arguments: Sequence[str]) -> None:
    """Run BentoML's command line in this process."""
    from bentoml_cli.cli import cli

    cli.main(args=list(arguments), prog_name="bentoml")

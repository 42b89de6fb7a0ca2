"""BentoML on a socket that is already listening: `python -m services.process.inherited_socket FD serve ...` (BentoML's
own words).

A port that one server after another listens on cannot be handed over by closing and opening it: what waits in the queue
between the two would be lost. So the keeper holds the socket (services/process/supervisor.py), and every server
inherits it. BentoML and circus know no such thing, hence the one method replaced here.
"""

import os
import signal
import sys
import threading
import time

PERIOD = 0.5
"""Seconds between two looks at whether the keeper lives."""


def main(descriptor: int, words: list[str]) -> None:
    for ours in [name for name in sys.modules if name.partition(".")[0] == "services"]:
        del sys.modules[ours]  # the Bento brings its own
    from bentoml_cli.cli import cli
    from circus.sockets import CircusSocket

    listen = CircusSocket.bind_and_listen

    def inherit(self: CircusSocket) -> None:
        if self.is_unix:
            listen(self)
            return
        os.dup2(descriptor, self.fileno())
        self.host, self.port = self.getsockname()[:2]

    CircusSocket.bind_and_listen = inherit
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    cli.main(args=words, prog_name="bentoml")


def _end_with(keeper: int) -> None:
    """A server must not outlive its keeper: the next one could not listen on the port."""
    while os.getppid() == keeper:
        time.sleep(PERIOD)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])

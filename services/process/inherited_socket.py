"""Run BentoML on a socket that already listens: `python -m services.process.inherited_socket FD serve ...`.

FD is the socket's descriptor; the rest are BentoML's arguments. Closing and reopening a port between two servers would
lose the connections in its queue. So the supervisor (services/process/supervisor.py) holds the socket and every server
inherits it (services/compat/circus_socket.py).
"""

import os
import signal
import sys
import threading
import time

from services.compat import circus_socket

PERIOD = 0.5
"""Seconds between two checks that the supervisor lives."""


def main(descriptor: int, arguments: list[str]) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] in ("services", "truecourse")]:
        del sys.modules[module]  # the Bento has its own copy
    circus_socket.inherit(descriptor)
    threading.Thread(target=_end_with_supervisor, args=(os.getppid(),), daemon=True).start()
    circus_socket.run_bentoml(arguments)


def _end_with_supervisor(supervisor: int) -> None:
    """End this server with its supervisor: a server left over would keep the port."""
    while os.getppid() == supervisor:
        time.sleep(PERIOD)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])

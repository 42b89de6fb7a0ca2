"""The socket supervisor of a deployment: a small process that holds the public socket and runs the servers on it.

`python -m services.process.supervisor FOLDER HOST PORT`. The socket outlives every server, so no connection is refused
or lost between two of them. It starts and stops servers on request (services/process/supervisor_client.py), and
restarts kept servers that die.
"""

import json
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

from truecourse import log_files, processes
from truecourse.addresses import listen
from truecourse.errors import TruecourseError
from truecourse.processes import Backoff, Child

PERIOD = 0.5
"""Seconds between two checks of the servers."""
LOG_CHECK = 10.0
"""Seconds between two checks of the size of their logs."""
FILE = "supervisor.json"
"""The file by which a running supervisor is found, in the folder of its state."""
SOCKET = "{socket}"
"""Placeholder of the socket's descriptor in a command."""


@dataclass
class Server:
    """A server process with its command. A kept server is restarted at `due`, seconds of the monotonic clock."""

    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    child: Child
    kept: bool = False
    restarts: int = 0
    due: float | None = None
    backoff: Backoff = field(default_factory=Backoff)


class SocketSupervisor:
    def __init__(self, host: str, port: int) -> None:
        self._socket = listen(host, port)
        self._socket.setblocking(False)
        self._servers: dict[int, Server] = {}
        self._lock = threading.RLock()

    def answer(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Execute `start`, `keep` or `stop` for a server by its number, or `list`; the state of all servers."""
        number = order.get("server", 0)
        if order["do"] == "stop":
            with self._lock:
                leaving = self._servers.pop(number, None)
            if leaving is not None:
                processes.stop(leaving.child)
        with self._lock:
            if order["do"] == "start":
                command, log = order["command"], Path(order["log"])
                child = self._start(command, order["environment"], log)
                self._servers[number] = Server(command, order["environment"], log, child)
            if order["do"] == "keep":
                self._servers[number].kept = True
            return {"servers": {str(n): self._describe(server) for n, server in self._servers.items()}}

    def _start(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> Child:
        descriptor = self._socket.fileno()
        arguments = [str(descriptor) if word == SOCKET else word for word in command]
        return processes.start("the server", arguments, environment, log, inherited=[descriptor])

    def _describe(self, server: Server) -> dict[str, Any]:
        alive, tail = server.child.alive, server.child.tail()
        return {"pid": server.child.process.pid, "alive": alive, "restarts": server.restarts, "tail": tail}

    def watch(self) -> None:
        """Restart kept servers that die, after growing pauses, and rotate logs. Runs for ever."""
        next_log_check = 0.0
        while True:
            with self._lock:
                if time.monotonic() > next_log_check:
                    next_log_check = time.monotonic() + LOG_CHECK
                    for log in {server.log for server in self._servers.values()}:
                        log_files.rotate(log)
                for server in self._servers.values():
                    if server.kept and not server.child.alive:
                        self._replace(server)
            time.sleep(PERIOD)

    def _replace(self, server: Server) -> None:
        if server.due is None:
            server.due = time.monotonic() + server.backoff.pause(time.monotonic() - server.child.born)
        if time.monotonic() < server.due:
            return
        server.child = self._start(server.command, server.environment, server.log)
        server.restarts, server.due = server.restarts + 1, None

    def close(self) -> None:
        with self._lock:
            processes.stop(*(server.child for server in self._servers.values()))
            self._socket.close()


def serve(supervisor: SocketSupervisor, place: Path) -> None:
    """Accept requests until SIGTERM. Address and key are in `supervisor.json`, readable by its owner only."""
    key = secrets.token_hex(16)
    with Listener(("127.0.0.1", 0), authkey=key.encode()) as listener:
        contact = {"pid": os.getpid(), "started": processes.started_at(os.getpid()), "key": key}
        contact |= {"address": listener.address}
        file = place / "supervisor.new"
        file.touch(mode=0o600)
        file.write_text(json.dumps(contact))
        file.replace(place / FILE)
        while True:
            try:
                connection = listener.accept()
            except (AuthenticationError, EOFError, OSError):
                continue
            threading.Thread(target=_attend, args=(supervisor, connection), daemon=True).start()


def _attend(supervisor: SocketSupervisor, connection: "Connection[Any, Any]") -> None:
    with connection:
        try:
            answer = supervisor.answer(json.loads(connection.recv_bytes()))
        except TruecourseError as error:
            answer = {"error": str(error)}
        except (EOFError, OSError):
            return
        connection.send_bytes(json.dumps(answer).encode())


def main(place: Path, host: str, port: int) -> None:
    supervisor = SocketSupervisor(host, port)
    threading.Thread(target=supervisor.watch, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        serve(supervisor, place)
    finally:
        (place / FILE).unlink(missing_ok=True)
        supervisor.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))

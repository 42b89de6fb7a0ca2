"""Client of a deployment's socket supervisor (services/process/supervisor.py): find it, start it, send requests."""

import json
import sys
from dataclasses import dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

from services.process.supervisor import FILE, SOCKET
from truecourse import addresses, processes
from truecourse.errors import PlatformError
from truecourse.settings import child_environment
from truecourse.stored_format import FORMER_SUPERVISOR_FILE

COMPANION = 0
"""Number of the companion process, which is no server."""
READY = 60.0
"""Seconds within which a supervisor has to accept requests."""


@dataclass(frozen=True)
class SupervisorClient:
    """Connection to the running supervisor whose state is in the folder `place`."""

    place: Path
    pid: int
    address: tuple[str, int]
    key: str

    def servers(self) -> dict[int, dict[str, Any]]:
        """Every server by its number: pid, whether it lives, number of restarts, last log lines."""
        return self.send_order(do="list")

    def start(self, number: int, command: list[str], environment: dict[str, str], log: Path) -> None:
        arguments = [sys.executable, "-m", "services.process.inherited_socket", SOCKET, *command]
        self.send_order(do="start", server=number, command=arguments, environment=environment, log=str(log))

    def start_companion(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        """Start a process beside the servers in place of the previous one, and restart it if it dies."""
        self.stop(COMPANION)
        self.send_order(do="start", server=COMPANION, command=command, environment=environment, log=str(log))
        self.keep(COMPANION)

    def keep(self, number: int) -> None:
        """Restart the server from now on if it dies."""
        self.send_order(do="keep", server=number)

    def stop(self, number: int) -> None:
        self.send_order(do="stop", server=number)

    def send_order(self, **order: Any) -> dict[int, dict[str, Any]]:
        try:
            with Client(self.address, authkey=self.key.encode()) as connection:
                connection.send_bytes(json.dumps(order).encode())
                answer = json.loads(connection.recv_bytes())
        except (OSError, EOFError, AuthenticationError) as error:
            what = f"the supervisor does not answer: {error}"
            raise PlatformError(what, where=str(self.place), hint="deploy again") from None
        if "error" in answer:
            raise PlatformError(answer["error"], where=str(self.place))
        return {int(n): server for n, server in answer["servers"].items() if int(n) != COMPANION}


def find(place: Path) -> SupervisorClient | None:
    """The supervisor of the folder, if it runs."""
    file = place / FILE
    try:  # the supervisor may have been started by an earlier release
        contact = json.loads((file if file.exists() else place / FORMER_SUPERVISOR_FILE).read_text())
    except (OSError, ValueError):
        return None
    if processes.started_at(contact["pid"]) != contact["started"]:
        return None
    return SupervisorClient(place, contact["pid"], (contact["address"][0], contact["address"][1]), contact["key"])


def launch(place: Path, host: str, port: int) -> SupervisorClient:
    """Start a supervisor, which outlives this process. Raises PlatformError if it cannot listen on the port."""
    addresses.require_free(host, port, "the deployment", "the configuration's port")
    command = [sys.executable, "-m", "services.process.supervisor", str(place), host, str(port)]
    child = processes.start(
        "the socket supervisor", command, child_environment(), place / "supervisor.log", outlives=True
    )
    child.wait_ready(lambda: find(place) is not None, READY)
    found = find(place)
    assert found is not None
    return found


def shut_down(servers: SupervisorClient) -> None:
    """Stop the supervisor and all of its servers, and wait for their end."""
    processes.terminate(processes.process_tree(servers.pid))

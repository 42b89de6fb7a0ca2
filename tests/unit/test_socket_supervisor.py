"""The socket supervisor with real processes: one socket, servers that come and go, restarts."""

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from services.process.supervisor import SOCKET, SocketSupervisor
from services.process.supervisor_client import SupervisorClient, find, launch, shut_down
from tests.conftest import free_ports, wait_until
from truecourse.errors import PlatformError
from truecourse.processes import started_at

SERVER = """
import os, socket, sys
listening = socket.socket(fileno=int(sys.argv[1]))
listening.setblocking(True)
while True:
    connection, _ = listening.accept()
    connection.sendall(f"{sys.argv[2]} {os.getpid()}".encode())
    connection.close()
"""


@pytest.fixture
def servers(home: Path, tmp_path: Path) -> Iterator[tuple[SupervisorClient, int]]:
    (port,) = free_ports(1)
    supervisor = launch(tmp_path, "127.0.0.1", port)
    yield supervisor, port
    shut_down(supervisor)


def start(servers: SupervisorClient, number: int) -> None:
    command = [sys.executable, "-c", SERVER, SOCKET, str(number)]
    servers.send_order(
        do="start", server=number, command=command, environment={}, log=str(servers.place / f"{number}.log")
    )


def ask(port: int) -> tuple[int, int]:
    """The number of the server that answers, and its pid."""
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        number, pid = connection.makefile().read().split()
    return int(number), int(pid)


def test_a_connection_waits_for_a_server(servers: tuple[SupervisorClient, int]) -> None:
    supervisor, port = servers
    with socket.create_connection(("127.0.0.1", port), 20) as waiting:
        start(supervisor, 1)
        assert waiting.makefile().read().startswith("1 ")


def test_two_servers_share_the_socket_and_one_can_leave(servers: tuple[SupervisorClient, int]) -> None:
    supervisor, port = servers
    start(supervisor, 1)
    assert ask(port)[0] == 1
    start(supervisor, 2)
    wait_until(lambda: ask(port)[0] == 2, 20, "the second server")
    supervisor.stop(1)
    assert {ask(port)[0] for _ in range(20)} == {2}
    assert list(supervisor.servers()) == [2]


def test_a_supervised_server_is_restarted(servers: tuple[SupervisorClient, int]) -> None:
    supervisor, port = servers
    start(supervisor, 1)
    _, pid = ask(port)
    supervisor.keep(1)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: started_at(pid) is None, 20, "its death")
    assert ask(port)[1] != pid, "the connection waits for the next one"
    assert supervisor.servers()[1]["restarts"] == 1


def test_an_unsupervised_server_is_not_restarted(servers: tuple[SupervisorClient, int]) -> None:
    supervisor, port = servers
    start(supervisor, 1)
    os.kill(ask(port)[1], signal.SIGKILL)
    wait_until(lambda: not supervisor.servers()[1]["alive"], 20, "its death")
    assert supervisor.servers()[1]["restarts"] == 0


def test_stopping_the_supervisor_stops_its_servers(servers: tuple[SupervisorClient, int]) -> None:
    supervisor, port = servers
    start(supervisor, 1)
    _, pid = ask(port)
    shut_down(supervisor)
    assert find(supervisor.place) is None
    assert not psutil.pid_exists(pid)
    with pytest.raises(ConnectionRefusedError):
        ask(port)


def test_a_killed_supervisor_is_not_found(servers: tuple[SupervisorClient, int]) -> None:
    supervisor, _ = servers
    os.kill(supervisor.pid, signal.SIGKILL)
    wait_until(lambda: find(supervisor.place) is None, 20, "its death")
    assert (supervisor.place / "supervisor.json").exists(), "its file is left, and is not trusted"


def test_an_unauthorised_client_cannot_send_commands(servers: tuple[SupervisorClient, int]) -> None:
    supervisor, _ = servers
    with pytest.raises(PlatformError, match="does not answer"):
        SupervisorClient(supervisor.place, supervisor.pid, supervisor.address, "another key").servers()
    assert supervisor.servers() == {}
    assert (supervisor.place / "supervisor.json").stat().st_mode & 0o077 == 0


def test_a_taken_port_is_a_clear_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(PlatformError, match="needs port"):
        launch(tmp_path, "127.0.0.1", taken.getsockname()[1])
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        SocketSupervisor("127.0.0.1", taken.getsockname()[1])

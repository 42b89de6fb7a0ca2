"""A command waits for the Prefect server of a running `truecourse up`, which is restarted if it dies."""

import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from cli.platform import prefect_server
from services.process import platform_state
from services.process.platform_state import Platform
from tests.conftest import free_ports
from truecourse.errors import PlatformError
from truecourse.processes import started_at


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url(home: Path) -> str:
    """The URL of a Prefect server that `up` has recorded and that does not answer."""
    (port,) = free_ports(1)
    home.mkdir(exist_ok=True)
    place = f"http://127.0.0.1:{port}"
    began = "2024-05-06T12:00:00+00:00"
    platform_state.write_platform(Platform(os.getpid(), started_at(os.getpid()) or "", place, "", "", "", began, []))
    return f"{place}/api"


@pytest.fixture
def late(url: str) -> Iterator[None]:
    """A server that starts after a second."""
    port = int(url.removesuffix("/api").rpartition(":")[2])
    made: list[ThreadingHTTPServer] = []

    def begin() -> None:
        made.append(ThreadingHTTPServer(("127.0.0.1", port), Healthy))
        made[0].serve_forever(0.05)

    timer = threading.Timer(1, begin)
    timer.start()
    yield
    timer.join(0)
    if made:
        made[0].shutdown()
        made[0].server_close()


def test_a_command_waits_for_a_restarting_server(url: str, late: None, capsys: pytest.CaptureFixture[str]) -> None:
    prefect_server.require_answer(url)
    assert "waiting for the Prefect server" in capsys.readouterr().err


def test_a_server_that_does_not_return_is_an_error(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect_server, "RESTARTS", 0.1)
    with pytest.raises(PlatformError, match="does not answer") as raised:
        prefect_server.require_answer(url)
    assert "truecourse status" in raised.value.hint


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (RuntimeError("Failed to reach API at http://127.0.0.1:9/api/"), True),
        (httpx.ConnectError("refused", request=httpx.Request("POST", "http://127.0.0.1:9/api/flows/")), True),
        (httpx.ConnectError("refused", request=httpx.Request("POST", "http://127.0.0.1:8/predict")), False),
        (httpx.ConnectError("refused"), False),
        (RuntimeError("dictionary changed size"), False),
    ],
)
def test_a_server_that_dies_during_a_run_is_a_platform_error(home: Path, error: Exception, ours: bool) -> None:
    expected = PlatformError if ours else type(error)
    with pytest.raises(expected) as raised, prefect_server.reporting_to("http://127.0.0.1:9/api"):
        raise error
    if ours:
        assert raised.value.__cause__ is error
        assert "safe to repeat" in str(raised.value)


def test_a_foreign_server_is_not_waited_for(home: Path) -> None:
    began = time.monotonic()
    with pytest.raises(PlatformError, match="does not answer"):
        prefect_server.require_answer("http://127.0.0.1:9/api")
    assert time.monotonic() - began < 5

"""The client of Prefect's API: requests, retries and error messages."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from services.process.prefect_client import TRIES, PrefectClient
from truecourse.errors import PlatformError


class Server(ThreadingHTTPServer):
    """Answers with these statuses in turn, then 200, and records the requests."""

    statuses: list[int]
    asked: list[tuple[str, str, str | None]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/api"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.asked.append((self.command, self.path, self.headers.get("authorization")))
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 200)
        self.end_headers()
        page = self.server.asked.count(self.server.asked[-1])
        self.wfile.write(json.dumps([page] if page < 3 else []).encode())

    do_GET = do_POST  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as made:
        made.statuses, made.asked = [], []
        threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
        yield made
        made.shutdown()


def test_a_busy_server_is_retried_a_limited_number_of_times(server: Server) -> None:
    client = PrefectClient(server.url, pause=0.01)
    server.statuses = [503, 503]
    assert client.request("GET", "/x") == []
    assert len(server.asked) == 3
    server.statuses = [503] * 9
    with pytest.raises(PlatformError, match="GET /y with 503"):
        client.request("GET", "/y")
    assert len(server.asked) == 3 + TRIES


def test_another_error_is_not_retried(server: Server) -> None:
    server.statuses = [500]
    with pytest.raises(PlatformError, match="GET /x with 500"):
        PrefectClient(server.url, pause=0.01).request("GET", "/x")
    assert len(server.asked) == 1


def test_absence_is_none_only_where_expected(server: Server) -> None:
    server.statuses = [404, 404]
    assert PrefectClient(server.url).request("GET", "/x", absent=True) is None
    with pytest.raises(PlatformError, match="GET /x with 404"):
        PrefectClient(server.url).request("GET", "/x")


def test_every_page_is_read(server: Server) -> None:
    assert PrefectClient(server.url).all("/deployments/filter") == [1, 2]


def test_the_configured_api_key_is_sent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading deployments used to omit it, and failed at a server that requires it."""
    monkeypatch.setenv("PREFECT_API_KEY", "a-key")
    PrefectClient(server.url).request("GET", "/x")
    assert server.asked[0][2] == "Bearer a-key"


def test_an_unreachable_server_is_reported(configure: Callable[..., None]) -> None:
    with pytest.raises(PlatformError, match="does not answer"):
        PrefectClient("http://127.0.0.1:9/api", seconds=1).request("GET", "/x")

"""Host names, ports and proxies: own servers are always reachable, and faults are reported with their cause."""

import http.server
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from truecourse.addresses import bind_address, free_port, is_loopback, listen, local_url, require_free, url
from truecourse.client import Client
from truecourse.errors import DeliveryFailed, PlatformError, SettingsError
from truecourse.monitoring.alerts.channels import post
from truecourse.settings import get_settings

NOWHERE = "http://127.0.0.1:9"
HERE = ("127.0.0.1", "::1")


class Answering(http.server.BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Callable[[str], tuple[int, list[str]]]]:
    """An HTTP server; yields its port and the paths requested, full URLs if it was used as a proxy."""
    running = []

    def begin(address: str) -> tuple[int, list[str]]:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        kind = type("Server", (http.server.ThreadingHTTPServer,), {"address_family": family})
        handler: type[Answering] = type("Handler", (Answering,), {"asked": []})
        running.append(kind((address, 0), handler))
        threading.Thread(target=running[-1].serve_forever, daemon=True).start()
        return running[-1].server_port, handler.asked

    yield begin
    for one in running:
        one.shutdown()
        one.server_close()


@pytest.mark.parametrize(
    ("host", "bound", "reached"),
    [
        ("127.0.0.1", "127.0.0.1", "http://127.0.0.1:80"),
        ("localhost", "127.0.0.1", "http://127.0.0.1:80"),
        ("::1", "::1", "http://[::1]:80"),
        ("[::1]", "::1", "http://[::1]:80"),
        ("0.0.0.0", "0.0.0.0", "http://127.0.0.1:80"),
        ("::", "::", "http://[::1]:80"),
        ("10.1.2.3", "10.1.2.3", "http://10.1.2.3:80"),
    ],
)
def test_a_host_is_resolved_to_one_address_and_reachable(host: str, bound: str, reached: str) -> None:
    assert bind_address(host) == bound
    assert local_url(host, 80) == reached


def test_valid_and_invalid_host_names() -> None:
    assert bind_address(socket.gethostname()).count(".") == 3 or ":" in bind_address(socket.gethostname())
    assert [is_loopback(host) for host in ("localhost", "127.0.0.2", "::1", "0.0.0.0", "10.0.0.1")] == [
        True, True, True, False, False,
    ]  # fmt: skip
    for wrong in ("no-such-host.invalid", "", "a b", "x" * 300):
        with pytest.raises(SettingsError, match="does not resolve"):
            bind_address(wrong)
    assert url("fe80::2", 1) == "http://[fe80::2]:1"


@pytest.mark.parametrize(("taken", "asked"), [(a, a) for a in HERE] + [("0.0.0.0", "127.0.0.1"), ("::", "::1")])
def test_a_taken_port_is_reported_with_its_process(taken: str, asked: str) -> None:
    with listen(taken, 0) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(
            PlatformError, match=rf"needs port {port}: Address already in use, by process {os.getpid()}"
        ):
            require_free(asked, port, "Prefect", "TRUECOURSE_PREFECT_PORT")
    require_free(asked, port, "Prefect", "TRUECOURSE_PREFECT_PORT")
    assert free_port(asked) > 0


def test_an_address_of_another_machine_is_not_reported_as_a_taken_port() -> None:
    with pytest.raises(PlatformError, match=r"Cannot assign requested address[\s\S]*an address of this machine"):
        require_free("192.0.2.1", 8080, "Prefect", "TRUECOURSE_PREFECT_PORT")


PROXIES: list[dict[str, str]] = [
    {"http_proxy": NOWHERE, "https_proxy": NOWHERE},
    {"HTTPS_PROXY": NOWHERE, "http_proxy": NOWHERE, "NO_PROXY": "example.org"},
    {"ALL_PROXY": NOWHERE},
    {"all_proxy": "socks5h://127.0.0.1:9"},
    {"http_proxy": NOWHERE, "no_proxy": "*"},
]
ASK = """
import sys
from truecourse.settings import quiet_environment
quiet_environment()
import httpx, requests, urllib.request
from botocore.utils import get_environ_proxies
from truecourse.addresses import open_url
for url in sys.argv[1:]:
    with open_url(urllib.request.Request(url), 5) as answer:
        assert answer.status == 200
    assert httpx.get(url, timeout=5).status_code == 200, "Prefect's client"
    assert requests.get(url, timeout=5).status_code == 200, "MLflow's client"
    assert "[" in url or not get_environ_proxies(url), "boto3, for who reaches S3 beside our store"
"""


@pytest.mark.parametrize("proxies", PROXIES, ids=lambda proxies: " ".join(proxies))
def test_own_servers_bypass_the_proxy(proxies: dict[str, str], server: Callable[[str], tuple[int, list[str]]]) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    urls = [url(address, server(address)[0]) for address in HERE]
    words = [sys.executable, "-c", ASK, *urls]
    done = subprocess.run(words, env=clean | proxies, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_child_processes_bypass_the_proxy_for_this_machine(
    server: Callable[[str], tuple[int, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", NOWHERE)
    for address in (*HERE, "localhost"):
        port, asked = server("127.0.0.1" if address == "localhost" else address)
        with Client(url(address, port)) as client:
            assert client.post("predict") == {}
        assert asked == ["/predict"]


def test_remote_webhooks_use_the_proxy_and_local_ones_do_not(
    server: Callable[[str], tuple[int, list[str]]], monkeypatch: pytest.MonkeyPatch, configure: Callable[..., None]
) -> None:
    proxy, through = server("127.0.0.1")
    here, direct = server("127.0.0.1")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy}")
    configure(webhook="http://hooks.example.org/secret")
    post(get_settings(), "deliveries", [])
    assert through == ["http://hooks.example.org/secret"]
    configure(webhook=f"http://127.0.0.1:{here}/hook")
    post(get_settings(), "deliveries", [])
    assert (direct, len(through)) == (["/hook"], 1)
    monkeypatch.setenv("http_proxy", NOWHERE)
    configure(webhook="http://hooks.example.org/secret")
    with pytest.raises(DeliveryFailed, match="refused"):
        post(get_settings(), "deliveries", [])


@pytest.mark.parametrize("value", ["http://", "foo:bar", "ftp://proxy:1", "http://proxy:99999"])
def test_an_invalid_proxy_is_reported_without_its_password(
    value: str, monkeypatch: pytest.MonkeyPatch, configure: Callable[..., None]
) -> None:
    monkeypatch.setenv("http_proxy", value.replace("proxy", "me:secret@proxy"))
    configure()
    with pytest.raises(SettingsError, match="http_proxy") as caught:
        get_settings()
    assert "secret" not in str(caught.value)


def test_local_object_storage_bypasses_the_proxy(
    server: Callable[[str], tuple[int, list[str]]], monkeypatch: pytest.MonkeyPatch, configure: Callable[..., None]
) -> None:
    from truecourse.storage.object_store import S3Store

    proxy, through = server("127.0.0.1")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy}")
    monkeypatch.setenv("no_proxy", "")

    def read(endpoint: str) -> bytes:
        configure(storage="s3://bucket/prefix", s3_endpoint=endpoint, s3_access_key_id="a", s3_secret_access_key="b")
        return S3Store(get_settings()).get("key")

    for address in ("127.0.0.1", "::1"):
        here, direct = server(address)
        assert read(local_url(address, here)) == b"{}"
        assert (direct, through) == (["/bucket/prefix/key"], [])
    assert read("http://s3.test") == b"{}"
    assert through == ["http://s3.test/bucket/prefix/key"]

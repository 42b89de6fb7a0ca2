"""Without keys an endpoint serves only its own machine, whatever bound its socket."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from services.http.authentication import require_keys_beyond_loopback, require_servable
from services.http.peers import counted_as, is_local, is_within, parse_networks
from services.http.request_guard import Guard
from services.model.model_router import ModelRouter
from tests.conftest import REPOSITORY
from tests.echo_server import SERVED, Echo, post
from tests.unit.test_fast_path import Transport, connections
from truecourse.errors import SettingsError
from truecourse.settings import Settings

LOCAL: tuple[tuple[Any, Any], ...] = (
    (("127.0.0.1", 9), ("127.0.0.1", 3000)),
    (("127.9.9.9", 9), ("127.0.0.1", 3000)),
    (("::1", 9, 0, 0), ("::1", 3000, 0, 0)),
    (("::ffff:127.0.0.1", 9, 0, 0), ("::ffff:127.0.0.1", 3000, 0, 0)),
    (("192.0.2.7", 9), ("192.0.2.7", 3000)),
    (("::ffff:192.0.2.7", 9, 0, 0), ("192.0.2.7", 3000)),
    (("fe80::1%eth0", 9, 0, 2), ("fe80::1%eth0", 3000, 0, 2)),
    ("", "/run/endpoint.sock"),
    (None, b"\x00abstract"),
)
REMOTE: tuple[tuple[Any, Any], ...] = (
    (("192.0.2.7", 9), ("192.0.2.8", 3000)),
    (("192.0.2.7", 9), ("127.0.0.1", 3000)),
    (("10.0.0.1", 9), ("0.0.0.0", 3000)),
    (("2001:db8::7", 9, 0, 0), ("2001:db8::8", 3000, 0, 0)),
    (("::ffff:192.0.2.7", 9, 0, 0), ("::ffff:192.0.2.8", 3000, 0, 0)),
    (("::", 9, 0, 0), ("::1", 3000, 0, 0)),
    (("nonsense", 9), ("nonsense", 3000)),
    (None, ("127.0.0.1", 3000)),
    (None, None),
    ((), ()),
)


@pytest.mark.parametrize(("ends", "local"), [(e, True) for e in LOCAL] + [(e, False) for e in REMOTE])
def test_local_connections_are_recognised(ends: tuple[Any, Any], local: bool) -> None:
    assert is_local(*ends) is local


class From(Transport):
    def __init__(self, peer: Any, own: Any) -> None:
        super().__init__()
        self._ends = {"peername": peer, "sockname": own}

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._ends.get(name, default)


def response_to(served: str, peer: Any, own: Any, request: bytes, **settings: Any) -> bytes:
    async def ask() -> bytes:
        echo = Echo()
        guard = Guard(Settings(max_delay=0, **settings), ModelRouter())
        connection, transport = connections(guard, echo, lambda: From(peer, own), served)()
        connection.data_received(request)
        async with asyncio.timeout(10):
            while not connection.cycle.response_complete:
                await asyncio.sleep(0)
        return b"".join(transport.writes)

    return asyncio.run(ask())


ASKED = post(b"abc", last=False)


@pytest.mark.parametrize("served", SERVED)
@pytest.mark.parametrize("ends", LOCAL)
def test_local_clients_are_served(ends: tuple[Any, Any], home: Path, served: str) -> None:
    assert response_to(served, *ends, ASKED).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("served", SERVED)
@pytest.mark.parametrize("ends", REMOTE)
def test_remote_clients_are_rejected_without_keys(ends: tuple[Any, Any], home: Path, served: str) -> None:
    found = response_to(served, *ends, ASKED)
    assert found.startswith(b"HTTP/1.1 403")
    assert b"TRUECOURSE_AUTHENTICATION=keys" in found
    assert response_to(served, *ends, ASKED, allow_anonymous=True).startswith(b"HTTP/1.1 200")
    assert response_to(served, *ends, ASKED, authentication="keys").startswith(b"HTTP/1.1 401")


def test_only_client_connections_are_checked() -> None:
    assert counted_as(("2001:db8:1:2:3::4", 9)) == counted_as(("2001:db8:1:2:ffff::", 9)) == "2001:db8:1:2::"
    assert counted_as(("::ffff:192.0.2.7", 9)) == counted_as(("192.0.2.7", 1)) == "192.0.2.7"
    assert counted_as("") == counted_as(None) == ""
    proxies = parse_networks("10.0.0.0/8, 2001:db8::7,192.0.2.1")
    assert is_within(("::ffff:10.9.9.9", 1), proxies)
    assert not is_within(("192.0.2.2", 1), proxies)
    with pytest.raises(SettingsError, match="is not an IP address"):
        require_servable(Settings(trusted_proxies="10.0.0.1, proxy.example"))


def test_a_public_address_requires_keys() -> None:
    for host in ("127.0.0.1", "localhost", "::1", "[::1]"):
        require_keys_beyond_loopback(Settings(host=host))
    for host in ("0.0.0.0", "::", "192.0.2.1", "2001:db8::1"):
        with pytest.raises(SettingsError, match="requires keys"):
            require_keys_beyond_loopback(Settings(host=host))
        require_keys_beyond_loopback(Settings(host=host, allow_anonymous=True))
        require_keys_beyond_loopback(Settings(host=host, authentication="keys"))


@pytest.mark.parametrize(
    ("settings", "starts"),
    [({}, False), ({"AUTHENTICATION": "keys"}, True), ({"ALLOW_ANONYMOUS": "true", "TLS_KEY": "/nothing"}, False)],
)
def test_a_container_without_keys_does_not_start(settings: dict[str, str], starts: bool, tmp_path: Path) -> None:
    """`bentoml serve`, its entrypoint, imports the service first."""
    environment = os.environ | {"BENTOML_CONTAINERIZED": "true", "TRUECOURSE_HOME": str(tmp_path)}
    environment |= {f"TRUECOURSE_{name}": value for name, value in settings.items()}
    command = [sys.executable, "-c", "import services.service"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert (done.returncode == 0) is starts, done.stderr
    if not starts:
        assert "Traceback" not in done.stderr
        assert "requires keys" in done.stderr or "TRUECOURSE_TLS_CERTIFICATE" in done.stderr

"""The shape of uvicorn, Starlette, circus, BentoML, prometheus_client and the event loops' TLS, as services/compat/
takes it for granted. A test that fails after an upgrade names what has changed."""

import asyncio
import inspect
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from services.compat import (
    bentoml_build,
    bentoml_swagger_ui,
    circus_socket,
    prometheus_files,
    starlette_middleware,
    tls_protocol,
    uvicorn_fast_path,
    uvicorn_protocol,
    uvicorn_shutdown,
)
from tests.echo_server import echo_server, post
from tests.tls_certificates import make_certificate
from tests.unit.test_fast_path import Transport

Configure = Callable[..., None]


def parameters(function: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def stock_connection() -> Any:
    """uvicorn's own protocol with a transport, without a socket."""
    config = uvicorn.Config(lambda: None, lifespan="off", log_config=None)  # type: ignore[arg-type]
    config.load()
    connection = uvicorn_protocol.HttpToolsProtocol(config, uvicorn.server.ServerState(), {})
    connection.connection_made(Transport())  # type: ignore[arg-type]
    return connection


@pytest.mark.parametrize("name", uvicorn_protocol.OVERRIDDEN)
def test_uvicorns_protocol_has_the_methods_that_ours_replace(name: str) -> None:
    method = getattr(uvicorn_protocol.HttpToolsProtocol, name)
    assert parameters(method) == ("self", *uvicorn_protocol.OVERRIDDEN[name])


def test_uvicorns_connections_and_requests_have_the_attributes_that_ours_use() -> None:
    async def read() -> None:
        connection = stock_connection()
        assert not hasattr(connection, "url")
        connection.data_received(post(b"ab", last=False)[:-1])
        assert connection.url == b"/predict"
        assert [name for name in uvicorn_protocol.READ if not hasattr(connection, name)] == []
        cycle = connection.cycle
        assert type(cycle) is uvicorn_fast_path.RequestResponseCycle
        assert [name for name in uvicorn_fast_path.USED if not hasattr(cycle, name)] == []
        assert (bytes(cycle.body), cycle.more_body, cycle.keep_alive) == (b"a", True, True)
        assert not cycle.response_complete
        assert cycle.scope is connection.scope
        assert cycle.scope["headers"] is connection.headers
        assert not connection.pipeline
        connection.data_received(b"b" + post(b"c"))
        (waiting,) = connection.pipeline
        assert waiting == (connection.cycle, connection.app)
        connection.connection_lost(None)

    asyncio.run(read())


def test_uvicorns_flow_and_constants() -> None:
    async def read() -> None:
        flow = stock_connection().flow
        assert type(flow).__mro__[0] is uvicorn_protocol.Flow.__mro__[1]
        assert (flow.read_paused, flow.write_paused) == (False, False)
        flow.pause_reading()
        assert flow.read_paused
        flow.resume_reading()
        assert not flow.read_paused

    asyncio.run(read())
    assert uvicorn_protocol.STATUS_LINE[200] == b"HTTP/1.1 200 OK\r\n"
    assert uvicorn_fast_path.HIGH_WATER_LIMIT == 65536
    assert uvicorn_protocol.is_registered("auto")


@pytest.mark.parametrize("skipped", [False, True])
def test_uvicorn_drops_accepted_connections_at_its_shutdown(
    skipped: bool, home: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert parameters(uvicorn.Server.shutdown) == ("self", "sockets")
    monkeypatch.setattr(uvicorn.Server, "shutdown", uvicorn.Server.shutdown)  # restored after the test
    configure(skipped_patches="uvicorn_shutdown" if skipped else "")
    uvicorn_shutdown.wait_for_requests(1.0)
    with echo_server(None) as server:
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        time.sleep(0.1)
        threading.Timer(0.4, send, (connection, post(b"abc", last=False))).start()
    with connection:
        found = receive(connection)
    assert found.startswith(b"HTTP/1.1 200") != skipped
    assert found or skipped


def send(connection: socket.socket, data: bytes) -> None:
    try:
        connection.sendall(data)
    except OSError:  # closed meanwhile
        return


def receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except ConnectionResetError:
        return b""


class Greeter(asyncio.Protocol):
    """Starts TLS on its connection, and sends a greeting over it."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.loop, self.context = asyncio.get_running_loop(), context
        self.events: list[str] = []

    def connection_made(self, transport: Any) -> None:
        if self.events:
            self.events.append("encrypted")
            transport.write(b"hello")
            transport.close()
            return
        self.events.append("accepted")
        tls_protocol.start_tls(self, transport, self.context, 0.5)

    def connection_ended(self) -> None:
        self.events.append("ended")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_tls_starts_on_an_accepted_connection(loop: str, tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*make_certificate("endpoint.example").write(tmp_path))
    client = ssl.create_default_context()
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    made: list[Greeter] = []

    def connect() -> Greeter:
        made.append(Greeter(context))
        return made[-1]

    def greet(port: int) -> bytes:
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        with client.wrap_socket(connection) as wrapped:
            return wrapped.recv(100)

    def be_silent(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            return receive(connection)

    async def serve() -> list[bytes]:
        server = await asyncio.get_running_loop().create_server(connect, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        found = [await asyncio.to_thread(greet, port), await asyncio.to_thread(be_silent, port)]
        while not all("ended" in one.events for one in made):
            await asyncio.sleep(0.01)
        server.close()
        return found

    with asyncio.Runner(loop_factory=uvicorn.Config(lambda: None, loop=loop).get_loop_factory()) as runner:  # type: ignore[arg-type]
        assert runner.run(asyncio.wait_for(serve(), 20)) == [b"hello", b""]
    assert [one.events for one in made] == [["accepted", "encrypted", "ended"], ["accepted", "ended"]]


@pytest.mark.parametrize("skipped", [False, True])
def test_requests_enter_a_starlette_application_at_its_middleware_stack(skipped: bool, configure: Configure) -> None:
    from starlette.applications import Starlette

    configure(skipped_patches="starlette_middleware" if skipped else "")
    application, entered = Starlette(), []

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        entered.append(scope["app"])

    async def send_nothing(message: Any) -> None: ...

    assert application.middleware_stack is None
    starlette_middleware.enter_at(application, middleware)
    scope = {"type": "http", "path": "/", "method": "GET", "headers": []}
    asyncio.run(application(scope, lambda: None, send_nothing))  # type: ignore[arg-type,return-value]
    assert entered == ([] if skipped else [application])


def test_bentos_application_is_starlettes() -> None:
    from _bentoml_impl.server.app import ServiceAppFactory
    from starlette.applications import Starlette

    assert inspect.signature(ServiceAppFactory.__call__).return_annotation in (Starlette, "Starlette")


def test_circus_takes_over_a_listening_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    from circus.sockets import CircusSocket

    assert parameters(CircusSocket.bind_and_listen) == ("self",)
    monkeypatch.setattr(CircusSocket, "bind_and_listen", CircusSocket.bind_and_listen)
    with socket.create_server(("127.0.0.1", 0)) as ours:
        circus_socket.inherit(ours.fileno())
        with CircusSocket(name="web", host="127.0.0.1", port=1) as theirs:  # a port that cannot be bound
            theirs.bind_and_listen()
            assert (theirs.host, theirs.port) == ours.getsockname()
            with socket.create_connection(ours.getsockname()), theirs.accept()[0]:
                pass


ARBITER = """
import asyncio, sys, time
from circus.util import AsyncPeriodicCallback
from circus.watcher import Watcher
from services.compat import circus_clock

offset, system = [0], time.time
time.time = lambda: system() + offset[0]
if sys.argv[1] == "patched":
    circus_clock.ignore_system_clock()
checks = []

async def run():
    watcher = Watcher("sleeper", "sleep", args=["60"], numprocesses=1)
    watcher._status = "active"
    start = Watcher.spawn_process

    def start_while_the_clock_is_set_back(self, *arguments):
        started = start(self, *arguments)
        offset[0] -= 3600
        return started

    Watcher.spawn_process = start_while_the_clock_is_set_back
    try:
        async with asyncio.timeout(1):
            await watcher.spawn_processes()
    except TimeoutError:
        print("waits")
    for process in watcher.processes.values():
        process.stop()
    callback = AsyncPeriodicCallback(lambda: checks.append(1), 50)
    callback.start()
    await asyncio.sleep(0.5)
    offset[0] -= 3600
    await asyncio.sleep(0.2)
    before = len(checks)
    await asyncio.sleep(1)
    print("checks" if len(checks) > before else "does not check")

asyncio.run(run())
"""


@pytest.mark.parametrize(("patched", "printed"), [("patched", ["checks"]), ("plain", ["waits", "does not check"])])
def test_workers_are_checked_after_the_clock_was_set_back(patched: str, printed: list[str]) -> None:
    """Where they are without the patch too, it is not needed any more."""
    command = [sys.executable, "-c", ARBITER, patched]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[:-1] == printed


def test_the_clock_is_ignored_although_bentoml_imports_circus_after_the_service() -> None:
    program = (
        "import sys, bentoml_cli.serve; from services.compat import circus_clock; assert 'circus' not in sys.modules\n"
        "circus_clock.ignore_system_clock(); import _bentoml_impl.server.serving\n"
        "from tornado.ioloop import IOLoop; import time; assert abs(IOLoop.time(None) - time.monotonic()) < 60"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_bentoml_serves_with_the_options_that_we_give() -> None:
    from bentoml_cli.cli import cli

    serve = cli.get_command(None, "serve")
    options = {option for parameter in serve.params for option in parameter.opts}
    assert {"--host", "--port"} <= options


@pytest.mark.parametrize("skipped", [False, True])
def test_bentoml_builds_without_uv(skipped: bool, configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    from bentoml._internal import configuration
    from bentoml._internal.bento import build_config

    found = configuration.get_uv_command
    assert parameters(found) == ()
    assert not hasattr(build_config, "get_uv_command"), "it is imported where it is used, so that a replacement counts"
    monkeypatch.setattr(configuration, "get_uv_command", found)
    configure(skipped_patches="bentoml_build" if skipped else "")
    bentoml_build.skip_uv()
    assert (configuration.get_uv_command is found) == skipped
    assert skipped or configuration.get_uv_command() == ["uv"]


def test_bentoml_ships_swagger_ui(configure: Configure) -> None:
    assert b"SwaggerUIBundle" in (bentoml_swagger_ui.read("swagger-ui-bundle.js") or b"")
    assert b".swagger-ui" in (bentoml_swagger_ui.read("swagger-ui.css") or b"")
    assert bentoml_swagger_ui.read("nothing.js") is None
    configure(skipped_patches="bentoml_swagger_ui")
    assert bentoml_swagger_ui.read("swagger-ui.css") is None


def test_prometheus_client_opens_its_files_by_the_replaced_class(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prometheus_client import values
    from prometheus_client.mmap_dict import MmapedDict

    assert values.MmapedDict is MmapedDict  # type: ignore[attr-defined]
    assert parameters(MmapedDict) == ("filename", "read_mode")
    monkeypatch.setattr(values, "MmapedDict", MmapedDict)
    configure(skipped_patches="prometheus_files")
    prometheus_files.preallocate()
    assert values.MmapedDict is MmapedDict  # type: ignore[attr-defined]
    configure(skipped_patches="")
    prometheus_files.preallocate()
    assert values.MmapedDict is prometheus_files.PreallocatedDict  # type: ignore[attr-defined]

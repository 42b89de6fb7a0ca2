"""Requests to the endpoint as in docs/how-to/call-the-endpoint.md, and with the Python client."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, free_ports
from tests.integration.conftest import Endpoint
from truecourse.client import Client
from truecourse.errors import PlatformError, RequestError

ROW = {"courier": "c03", "depot": "north", "promised": 45, "distance": 4.2, "decision_time": "2024-03-01T06:30:00Z"}


@pytest.fixture
def client(endpoint: Endpoint) -> Client:
    return Client(str(endpoint.client.base_url))


def test_the_examples_of_the_docs_run(endpoint: Endpoint, tmp_path: Path) -> None:
    text = (REPOSITORY / "docs" / "how-to" / "call-the-endpoint.md").read_text()
    where = f"{endpoint.client.base_url.host}:{endpoint.client.base_url.port}"
    shell, python = (re.findall(rf"```{kind}\n(.*?)```", text, re.S) for kind in ("sh", "python"))
    assert (len(shell), len(python)) == (1, 1)
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "TRUECOURSE_ENDPOINT_PORT": str(endpoint.client.base_url.port),
    }
    for command in (["bash", "-euo", "pipefail", "-c", shell[0]], [sys.executable, "-c", python[0]]):
        words = [word.replace("localhost:3000", where) for word in command]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert "prediction_id" in done.stdout if command[0] == "bash" else len(done.stdout.splitlines()) == 4


def test_answers_are_typed(client: Client) -> None:
    predicted, explained = client.predict(ROW, ROW), client.explain(ROW)
    assert len(predicted.predictions) == 2
    assert predicted.model.sha256 == client.about()["model_sha256"]
    (why,) = explained.predictions
    assert why.score == predicted.predictions[0].score
    assert why.base is not None
    assert why.margin == pytest.approx(why.base + sum(part.contribution for part in why.contributions), abs=1e-4)


@pytest.mark.parametrize("sent", [7, -(2**63), 2**63 - 1, "7", "\U0001f600\x00"])
def test_an_id_comes_back_as_it_was_sent(client: Client, sent: int | str) -> None:
    (one,) = client.explain(ROW | {"id": sent}).predictions
    assert (one.id, type(one.id)) == (sent, type(sent))


def test_a_refusal_names_row_and_field(client: Client) -> None:
    with pytest.raises(RequestError) as refused:
        client.predict(ROW, ROW | {"promised": "soon"})
    assert refused.value.status == 422
    assert [(fault.row, fault.field) for fault in refused.value.faults] == [(1, "promised")]


def test_an_endpoint_that_does_not_run() -> None:
    (port,) = free_ports(1)
    with pytest.raises(PlatformError, match="does not answer"):
        Client(f"http://127.0.0.1:{port}").predict(ROW)


@pytest.fixture
def busy() -> Iterator[tuple[str, list[int]]]:
    """A server that answers with the statuses in the list, one by one, and then with 200."""
    statuses: list[int] = []

    class Busy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status = statuses.pop(0) if statuses else 200
            body = json.dumps({"error": "too much to do"} if status == 429 else {"version": 1}).encode()
            self.send_response(status)
            self.send_header("retry-after", "0.01")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", statuses
        server.shutdown()


def test_a_request_to_a_busy_endpoint_is_repeated(busy: tuple[str, list[int]]) -> None:
    url, statuses = busy
    statuses += [429, 429]
    assert Client(url).about() == {"version": 1}
    statuses += [429, 429, 429]
    with pytest.raises(RequestError, match="too much to do") as refused:
        Client(url).about()
    assert refused.value.status == 429

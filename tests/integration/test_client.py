"""Requests to the endpoint as in docs/how-to/call-the-endpoint.md, and with the Python client."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.conftest import REPOSITORY, free_ports
from tests.integration.conftest import Endpoint
from truecourse.client import AsyncClient, Client, Explanation, PredictionResponse
from truecourse.errors import PlatformError, RequestError

ROW: dict[str, Any] = {
    "courier": "c03",
    "depot": "north",
    "promised": 45,
    "distance": 4.2,
    "decision_time": "2024-03-01T06:30:00Z",
}


@pytest.fixture
def endpoint(each_endpoint: Endpoint) -> Endpoint:
    return each_endpoint


@pytest.fixture
def client(endpoint: Endpoint) -> Iterator[Client]:
    with Client(str(endpoint.client.base_url)) as connected:
        yield connected


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


def test_the_examples_of_the_clients_reference_run(endpoint: Endpoint, tmp_path: Path) -> None:
    text = (REPOSITORY / "docs" / "reference" / "python-client.md").read_text()
    (tmp_path / "request.json").write_text(json.dumps({"rows": [ROW, ROW | {"depot": "south"}]}))
    where = f"{endpoint.client.base_url.host}:{endpoint.client.base_url.port}"
    examples = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(examples) == 3
    for example in examples:
        words = [sys.executable, "-c", example.replace("localhost:3000", where)]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(",") == 1, "one number or class for each of two rows"


def test_answers_are_typed(client: Client) -> None:
    predicted, explained = client.predict(ROW, ROW), client.explain(ROW)
    assert len(predicted.predictions) == 2
    assert predicted.model.sha256 == client.about().model_sha256
    (why,) = explained.predictions
    assert why.score == predicted.predictions[0].score
    assert isinstance(why, Explanation)
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
        Client(f"http://127.0.0.1:{port}", tries=1).predict(ROW)


def test_tasks_share_the_connections_of_a_client(endpoint: Endpoint, client: Client) -> None:
    rows = [ROW | {"distance": i / 10, "id": i} for i in range(40)]

    async def run() -> list[PredictionResponse]:
        async with AsyncClient(str(endpoint.client.base_url), connections=4) as shared:
            return await asyncio.gather(*(shared.predict(row) for row in rows))

    answers = [answer.predictions[0] for answer in asyncio.run(run())]
    expected = client.predict(*rows).predictions
    assert [(one.id, one.score) for one in answers] == [(one.id, one.score) for one in expected]
    assert len({one.prediction_id for one in answers}) == 40


def test_a_frame_is_predicted_like_its_rows(client: Client) -> None:
    rows = [ROW | {"distance": 1.5, "id": "a"}, ROW | {"courier": "nobody"}]
    frame = pd.DataFrame(rows).assign(decision_time=pd.Timestamp(ROW["decision_time"]))
    by_row, by_frame = client.predict(*rows).predictions, client.predict(frame).predictions
    compared = ("id", "decision_time", "score", "prediction", "missing", "unknown")
    assert [[getattr(one, name) for name in compared] for one in by_frame] == [
        [getattr(one, name) for name in compared] for one in by_row
    ]


def test_health_is_typed(endpoint: Endpoint, client: Client) -> None:
    health = client.health()
    assert health.status == "ok"
    assert health.model.model_sha256 == client.about().model_sha256
    assert health.storage is not None
    assert health.storage.answers
    assert health.log is not None
    assert health.log.dropped == 0

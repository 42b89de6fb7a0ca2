"""An endpoint under the load generator of the benchmarks, whose clients never back off."""

import json
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.serving.load_generator import LoadGenerator
from services.http.request_guard import Guard
from services.http.routes import Endpoint
from tests.echo_server import SERVED, run_server
from tests.workers import ROW, MakeVersion, Worker
from truecourse.settings import REPOSITORY, Settings

SECONDS = 1.0


def generate_load(port: int, clients: int) -> dict[str, Any]:
    body = json.dumps({"rows": [ROW]})
    head = "POST /predict HTTP/1.1\r\nhost: here\r\ncontent-type: application/json\r\n"
    options: dict[str, Any] = {"port": port, "connections": clients, "seconds": SECONDS, "warm": 0.2}
    options |= {"request": f"{head}content-length: {len(body)}\r\n\r\n{body}"}
    command = [sys.executable, "-m", LoadGenerator.__module__, json.dumps(options)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("served", SERVED)
def test_a_short_queue_is_answered_and_a_long_one_in_part(make_version: MakeVersion, served: str) -> None:
    worker = Worker()
    limit = [5.0]  # seconds; the machine may be busy with other tests
    guard = Guard(Settings(), worker.router)
    guard.load.limit = lambda: limit[0]
    with run_server(guard, Endpoint(worker.router, guard.load), served) as port:
        within = generate_load(port, 64)
        assert set(within["counts"]) == {"200"}
        limit[0] = 0.0005
        beyond = generate_load(port, 256)
        assert set(beyond["counts"]) <= {"200", "429", "closed"}
        assert beyond["counts"]["200"] > 0
        assert beyond["counts"]["429"] > 0
        assert beyond["counts"]["429"] < 10 * within["counts"]["200"], "refusals are paced"
        limit[0] = 5.0
        assert set(generate_load(port, 16)["counts"]) == {"200"}, "it has recovered"
    assert not guard.load.light.queue
    assert not guard.deadlines

"""Micro-batches: one call of the model answers waiting requests, with the same answers as for single requests."""

import asyncio
import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from services.http.exchange import Exchange, Message, Receive, Reply, Send
from services.http.micro_batching import MicroBatcher, PendingRequest
from services.http.middleware import GuardMiddleware
from services.http.request_guard import Guard
from services.http.routes import Endpoint
from services.model.model_router import ModelRouter
from services.model.predictor import Answer
from services.telemetry.prometheus_metrics import Metrics
from tests.bentos import break_request_function
from tests.log_records import logged_records
from tests.workers import ROW, MakeVersion, Worker, move
from truecourse.errors import RequestError
from truecourse.modeling.model import Model
from truecourse.settings import Settings

ROWS = [[ROW | {"id": f"a{i}", "courier": f"c{i % 12:02d}", "distance": 1.0 + i}] * (1 + i % 3) for i in range(16)]
LONG = ROW | {"distance": 13.0}


async def nothing(scope: Message, receive: Receive, send: Send) -> None:
    """The application behind the guard, which these tests never call."""
    raise AssertionError(scope["path"])


async def answer_together(router: ModelRouter, sent: list[list[dict[str, Any]]]) -> list[Answer | Exception]:
    """Answer the requests in one micro-batch; each request's answer or error."""
    answers: list[list[Answer | Exception]] = [[] for _ in sent]
    assert router.split is not None
    MicroBatcher(router).answer(
        router.split, [PendingRequest(rows, answer.append) for rows, answer in zip(sent, answers, strict=True)]
    )
    await asyncio.sleep(0)  # callbacks that run after the answers
    return [answer for (answer,) in answers]


def exchange_for(path: str) -> Exchange:
    return Exchange({"path": path, "headers": [(b"content-type", b"application/json")]})


def body(rows: list[dict[str, Any]]) -> bytes:
    return json.dumps({"rows": rows}).encode()


@contextmanager
def record_model_calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Record the number of rows in each call of the model."""
    sizes, predict = [], Model.predict

    def counted(self: Model, matrix: Any) -> Any:
        sizes.append(len(matrix))
        return predict(self, matrix)

    with monkeypatch.context() as patch:
        patch.setattr(Model, "predict", counted)
        yield sizes


def rows_by_path(registry: CollectorRegistry) -> dict[str, float]:
    """The number of rows by path. Other tests in this process may have counted some already."""
    paths = ("/predict", "/explain")
    return {path: registry.get_sample_value("truecourse_rows_total", {"path": path}) or 0 for path in paths}


def without_ids(documents: list[Any]) -> list[Any]:
    """The answers without prediction ids, which differ each time."""
    return [
        document["model"]
        | {str(i): prediction | {"prediction_id": ""} for i, prediction in enumerate(document["predictions"])}
        for document in documents
    ]


def test_a_batched_request_has_the_same_answer_as_a_single_one(
    make_version: MakeVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker()
    alone = [worker.predict(*rows) for rows in ROWS]
    worker.records.clear()
    with record_model_calls(monkeypatch) as sizes:
        documents = asyncio.run(answer_together(worker.router, ROWS))
    assert sizes == [sum(map(len, ROWS))]
    assert without_ids(documents) == without_ids(alone)
    ids = [
        prediction["prediction_id"]
        for document in documents
        if not isinstance(document, Exception)
        for prediction in document["predictions"]
    ]
    assert len(set(ids)) == len(ids)
    (record,) = worker.records
    assert [row["prediction_id"] for row in logged_records(record)] == ids


def test_a_refused_request_does_not_affect_the_others(make_version: MakeVersion) -> None:
    worker = Worker()
    bad = [[ROW, ROW | {"distance": "far"}], [ROW | {"colour": 1}]]
    documents = asyncio.run(answer_together(worker.router, [ROWS[0], bad[0], ROWS[1], bad[1]]))
    assert len(worker.records) == 1, "the others are still answered together"
    assert without_ids([documents[0], documents[2]]) == without_ids(
        [worker.predict(*ROWS[0]), worker.predict(*ROWS[1])]
    )
    first, second = documents[1], documents[3]
    assert isinstance(first, RequestError)
    assert isinstance(second, RequestError)
    assert [(fault.row, fault.field) for fault in first.faults] == [(1, "distance")]
    assert [(fault.row, fault.field) for fault in second.faults] == [(0, "colour")]
    assert (first.status, second.status) == (422, 422)


def test_a_model_that_raises_on_one_request_answers_the_others(make_version: MakeVersion) -> None:
    worker = Worker()
    second = make_version(
        2, change=lambda source: break_request_function(source, "(columns['distance'] == 13.0).any()")
    )
    move(champion=second.version)
    worker.step()
    documents = asyncio.run(answer_together(worker.router, [ROWS[0], [LONG], ROWS[1]]))
    assert isinstance(documents[1], AssertionError)
    assert without_ids([documents[0], documents[2]]) == without_ids(
        [worker.predict(*ROWS[0]), worker.predict(*ROWS[1])]
    )


def test_requests_with_many_faults_are_refused_in_one_pass(
    make_version: MakeVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker()
    invalid = [[ROW | {f"odd{i}": 1 for i in range(30)}]] * 40
    read, passes = type(worker.router.split.champion.rows).read, []  # type: ignore[union-attr]

    def counted(self: Any, rows: Any, now: Any) -> Any:
        passes.append(len(rows))
        return read(self, rows, now)

    monkeypatch.setattr(type(worker.router.split.champion.rows), "read", counted)  # type: ignore[union-attr]
    documents = asyncio.run(answer_together(worker.router, [*invalid, ROWS[0], *invalid, ROWS[2]]))
    assert [isinstance(document, RequestError) for document in documents] == [True] * 40 + [False] + [True] * 40 + [
        False
    ]
    assert all(isinstance(error, RequestError) and error.count == 30 for error in documents[:40])
    rest = len(ROWS[0]) + len(ROWS[2])
    assert sorted(passes) == [1] * 80 + [rest, 80 + rest]


def test_refused_requests_leave_no_reference_cycles(make_version: MakeVersion) -> None:
    worker = Worker()

    async def crowd() -> None:
        answers = await answer_together(worker.router, [[ROW | {"distance": "far"}]] * 50)
        assert [type(answer) for answer in answers] == [RequestError] * 50

    async def refused() -> list[Any]:
        """The errors among the objects that only the garbage collector freed; other threads leave objects too."""
        await crowd()
        gc.collect()
        await crowd()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        return [one for one in gc.garbage if isinstance(one, RequestError)]

    gc.disable()
    try:
        assert not asyncio.run(refused())
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def test_concurrent_http_requests_are_batched_and_answered(
    make_version: MakeVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, worked = Worker(), []
    guard = Guard(Settings(max_delay=0), worker.router)
    monkeypatch.setattr(guard.load, "learn", lambda lane, tasks, began: worked.append(len(tasks)))
    registry = CollectorRegistry()
    worker.router.metrics = Metrics(("/predict", "/explain"), registry)
    for path in rows_by_path(registry):
        worker.router.metrics.count_rows(path, 0)  # creates the counter
    worker.router.metrics.flush()
    before = rows_by_path(registry)
    app: Any = GuardMiddleware(nothing, guard, Endpoint(worker.router, guard.load))
    requests: list[tuple[str, list[dict[str, Any]]]] = [("/predict", rows) for rows in ROWS]
    requests += [("/explain", rows) for rows in ROWS[:4]]
    requests += [("/predict", [ROW] * 5), ("/predict", [ROW | {"distance": "far"}]), ("/predict", [])]

    async def crowd() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://endpoint") as client:
            return await asyncio.gather(*(client.post(path, json={"rows": rows}) for path, rows in requests))

    answers = asyncio.run(crowd())
    assert [answer.status_code for answer in answers] == [200] * 21 + [422] * 2
    documents = [answer.json() for answer in answers[:21]]
    assert [len(document["predictions"]) for document in documents] == [len(rows) for _, rows in requests[:21]]
    alone = without_ids([worker.predict(*rows) for rows in ROWS])
    assert without_ids(documents[:16]) == alone
    assert all("contributions" in prediction for document in documents[16:20] for prediction in document["predictions"])
    assert not any(
        "contributions" in prediction for document in documents[:16] for prediction in document["predictions"]
    )
    worker.router.metrics.flush()
    answered = {path: sum(len(rows) for to, rows in requests[:21] if to == path) for path in ("/predict", "/explain")}
    assert rows_by_path(registry) == {path: rows + before[path] for path, rows in answered.items()}
    logged = [len(logged_records(record)) for record in worker.records[: -len(ROWS)]]
    assert sum(logged) == sum(answered.values())
    assert sum(worked) == len(requests), "the load records every request that was read"
    assert len(logged) < 10, "requests with few rows in one batch are one entry"


def test_requests_are_not_batched_while_a_challenger_is_compared(
    make_version: MakeVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, second = Worker(), make_version(2)

    async def crowd() -> int:
        endpoint = Endpoint(worker.router, Guard(Settings(max_delay=0), worker.router).load)
        replies: list[Reply] = []
        before = len(worker.records)
        for rows in ROWS:
            endpoint.score(exchange_for("/predict"), body(rows), replies.append)
        assert not replies, "nothing is answered before the next turn of the event loop"
        await asyncio.sleep(0.05)
        assert [reply.status for reply in replies] == [200] * len(ROWS)
        for reply in replies:
            if reply.after is not None:
                reply.after()
        return len(worker.records) - before

    assert asyncio.run(crowd()) == 1
    for compared in ({"share": 0.5}, {"shadow": True, "share": 0.0}):
        move(challenger=second.version, **compared)
        worker.step()
        assert asyncio.run(crowd()) >= len(ROWS)


def test_requests_of_disconnected_clients_are_not_computed(make_version: MakeVersion) -> None:
    worker = Worker()

    async def crowd() -> list[int]:
        endpoint = Endpoint(worker.router, Guard(Settings(max_delay=0), worker.router).load)
        replies: list[int] = []
        exchanges = [exchange_for("/predict") for _ in ROWS]
        for exchange, rows in zip(exchanges, ROWS, strict=True):
            endpoint.score(exchange, body(rows), lambda reply: replies.append(reply.status))
        exchanges[3].is_gone = exchanges[5].is_gone = True
        await asyncio.sleep(0.05)
        return sorted(replies)

    assert asyncio.run(crowd()) == [200] * (len(ROWS) - 2) + [499] * 2
    (record,) = worker.records
    assert len(logged_records(record)) == sum(map(len, ROWS)) - len(ROWS[3]) - len(ROWS[5])


def test_requests_that_wait_during_a_model_swap_are_answered(make_version: MakeVersion) -> None:
    worker = Worker()
    second = make_version(2)

    async def swapped() -> list[Any]:
        endpoint = Endpoint(worker.router, Guard(Settings(max_delay=0), worker.router).load)
        replies: list[Reply] = []
        for rows in ROWS:
            endpoint.score(exchange_for("/predict"), body(rows), replies.append)
        move(champion=second.version)
        worker.step()
        await asyncio.sleep(0.05)
        return [json.loads(reply.body)["model"]["version"] for reply in replies]

    assert asyncio.run(swapped()) == [2] * len(ROWS)

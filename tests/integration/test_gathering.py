"""Requests that are taken up together: answered by one call of the model, each as if it had come alone."""

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from services.exchange import Exchange, Message, Receive, Send
from services.gathering import Gathering
from services.guard import OVERLOAD, Guard
from services.http import Endpoint
from services.incumbents import Incumbents
from services.limits import Shedder, Turns
from services.metrics import Metrics
from services.prediction import Answer
from services.protection import Protection
from services.served import Served
from tests.bentos import failing
from tests.records import recorded
from tests.workers import ROW, Make, Worker, move
from truecourse.errors import RequestError
from truecourse.model import Model
from truecourse.settings import Settings

ROWS = [[ROW | {"id": f"a{i}", "courier": f"c{i % 12:02d}", "distance": 1.0 + i}] * (1 + i % 3) for i in range(16)]
LONG = ROW | {"distance": 13.0}


async def nothing(scope: Message, receive: Receive, send: Send) -> None:
    """What is behind the endpoint, and is not asked here."""
    raise AssertionError(scope["path"])


def gathering(served: Served, most: int = 10**6) -> Gathering:
    return Gathering(served, Turns(Shedder(0)), most)


async def answer(gathered: Gathering, now: Incumbents, rows: list[dict[str, Any]]) -> Answer:
    """Raises what the answer is instead."""
    told: asyncio.Future[Answer | Exception] = asyncio.get_running_loop().create_future()
    gathered.add(now, rows, lambda found: None if told.done() else told.set_result(found))
    found = await told
    if isinstance(found, Exception):
        raise found
    return found


async def together(gathered: Gathering, served: Served, sent: list[list[dict[str, Any]]]) -> list[Any]:
    now = served.now
    assert now is not None
    return await asyncio.gather(*(answer(gathered, now, rows) for rows in sent), return_exceptions=True)


@contextmanager
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many rows each call of the model had."""
    found, predict = [], Model.predict

    def counted(self: Model, matrix: Any) -> Any:
        found.append(len(matrix))
        return predict(self, matrix)

    with monkeypatch.context() as patch:
        patch.setattr(Model, "predict", counted)
        yield found


def meter(registry: CollectorRegistry) -> dict[str, float]:
    """Rows, by what was asked. In one process the meters of other tests may count on."""
    paths = ("/predict", "/explain")
    return {path: registry.get_sample_value("truecourse_rows_total", {"path": path}) or 0 for path in paths}


def scored(documents: list[Any]) -> list[Any]:
    """All but the ids of the answers, which are new ones each time."""
    return [
        document["model"] | {str(i): told | {"prediction_id": ""} for i, told in enumerate(document["predictions"])}
        for document in documents
    ]


def test_each_gets_the_answer_that_it_would_get_alone(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker()
    alone = [worker.ask(*rows) for rows in ROWS]
    worker.records.clear()
    with calls(monkeypatch) as made:
        documents = asyncio.run(together(gathering(worker.served), worker.served, ROWS))
    assert made == [sum(map(len, ROWS))]
    assert scored(documents) == scored(alone)
    ids = [told["prediction_id"] for document in documents for told in document["predictions"]]
    assert len(set(ids)) == len(ids)
    (record,) = worker.records
    assert [row["prediction_id"] for row in recorded(record)] == ids


def test_a_refused_request_spoils_nothing_for_the_others(make: Make) -> None:
    worker = Worker()
    bad = [[ROW, ROW | {"distance": "far"}], [ROW | {"strange": 1}]]
    documents = asyncio.run(together(gathering(worker.served), worker.served, [ROWS[0], bad[0], ROWS[1], bad[1]]))
    assert len(worker.records) == 1, "the others are still answered together"
    assert scored([documents[0], documents[2]]) == scored([worker.ask(*ROWS[0]), worker.ask(*ROWS[1])])
    first, second = documents[1], documents[3]
    assert isinstance(first, RequestError)
    assert isinstance(second, RequestError)
    assert [(fault.row, fault.field) for fault in first.faults] == [(1, "distance")]
    assert [(fault.row, fault.field) for fault in second.faults] == [(0, '"strange"')]
    assert (first.status, second.status) == (422, 422)


def test_a_model_that_raises_on_one_request_answers_the_others(make: Make) -> None:
    worker = Worker()
    second = make(2, change=lambda source: failing(source, "(columns['distance'] == 13.0).any()"))
    move(champion=second.version)
    worker.step()
    documents = asyncio.run(together(gathering(worker.served), worker.served, [ROWS[0], [LONG], ROWS[1]]))
    assert isinstance(documents[1], AssertionError)
    assert scored([documents[0], documents[2]]) == scored([worker.ask(*ROWS[0]), worker.ask(*ROWS[1])])


def test_no_call_walks_more_trees_than_is_wanted(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker()
    now = worker.served.now
    assert now is not None
    with calls(monkeypatch) as made:
        gathered = gathering(worker.served, most=5 * now.champion.model.trees)
        documents = asyncio.run(together(gathered, worker.served, ROWS))
    assert max(made) <= 5
    assert sum(made) == sum(map(len, ROWS))
    assert scored(documents) == scored([worker.ask(*rows) for rows in ROWS])


def test_a_client_that_goes_away_costs_the_others_nothing(make: Make) -> None:
    worker = Worker()

    async def leave() -> list[Any]:
        now, gathered = worker.served.now, gathering(worker.served)
        assert now is not None
        tasks = [asyncio.ensure_future(answer(gathered, now, rows)) for rows in ROWS[:3]]
        await asyncio.sleep(0)
        tasks[1].cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)
        return answers

    first, gone, third = asyncio.run(leave())
    assert len(worker.records) == 1
    assert isinstance(gone, asyncio.CancelledError)
    assert len(recorded(worker.records[0])) == sum(map(len, ROWS[:3])), "nothing was done twice"
    assert scored([first, third]) == scored([worker.ask(*ROWS[0]), worker.ask(*ROWS[2])])


def test_those_who_began_with_another_model_get_its_answer(make: Make) -> None:
    worker = Worker()
    before = worker.served.now
    move(champion=make(2).version)
    worker.step()
    after = worker.served.now
    assert before is not None
    assert after is not None

    async def swapped() -> list[Any]:
        gathered = gathering(worker.served)
        return await asyncio.gather(*(answer(gathered, now, [ROW]) for now in (before, before, after, after)))

    assert [answer["model"]["version"] for answer in asyncio.run(swapped())] == [1, 1, 2, 2]


def test_only_what_is_taken_up_together_and_compared_with_nothing_is_gathered(make: Make) -> None:
    worker, second = Worker(), make(2)

    async def crowd(requests: int) -> bool:
        turns = Turns(Shedder(0))
        gathered = Gathering(worker.served, turns, 10**6)
        for _ in range(requests):
            turns.begin()
        await asyncio.sleep(0)  # the turn is over: what follows is another crowd's, or one request by itself
        now = worker.served.now
        assert now is not None
        return gathered.wants(now)

    assert np.array_equal([asyncio.run(crowd(n)) for n in (0, 1, 2, 16)], [False, False, True, True])
    for compared in ({"share": 0.5}, {"shadow": True, "share": 0.0}):
        move(challenger=second.version, **compared)
        worker.step()
        assert not asyncio.run(crowd(16))


def test_requests_with_many_faults_are_refused_in_one_pass(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker()
    odd = [[ROW | {f"odd{i}": 1 for i in range(30)}]] * 40
    read, passes = type(worker.served.now.champion.rows).read, []  # type: ignore[union-attr]

    def counted(self: Any, rows: Any, now: Any) -> Any:
        passes.append(len(rows))
        return read(self, rows, now)

    monkeypatch.setattr(type(worker.served.now.champion.rows), "read", counted)  # type: ignore[union-attr]
    documents = asyncio.run(together(gathering(worker.served), worker.served, [*odd, ROWS[0], *odd, ROWS[2]]))
    assert [isinstance(document, RequestError) for document in documents] == [True] * 40 + [False] + [True] * 40 + [
        False
    ]
    assert all(document.count == 30 for document in documents[:40])
    rest = len(ROWS[0]) + len(ROWS[2])
    assert sorted(passes) == [1] * 80 + [rest, 80 + rest]


def test_with_the_first_refusal_of_a_turn_those_before_it_are_answered_at_once(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker()
    guard = Guard(Settings(), worker.served)
    gathered = Gathering(worker.served, guard.turns, 10**6)
    monkeypatch.setattr(guard.shedder, "admits", lambda alone: False)

    async def refused() -> tuple[int, int]:
        now = worker.served.now
        assert now is not None
        waiting = [asyncio.ensure_future(answer(gathered, now, rows)) for rows in ROWS[:3]]
        await asyncio.sleep(0)
        for _ in range(2):  # the second has nothing to answer
            assert guard.refusal(Exchange({"path": "/predict", "headers": []}, guard.shedder)) is OVERLOAD
        with calls(monkeypatch) as later:
            return len(await asyncio.gather(*waiting)), len(later)

    assert asyncio.run(refused()) == (3, 0)


def test_a_request_that_is_refused_in_a_crowd_leaves_no_cycle_behind(make: Make) -> None:
    worker = Worker()
    gathered, now = gathering(worker.served), worker.served.now
    assert now is not None

    async def crowd() -> None:
        found: list[Answer | Exception] = []
        for _ in range(50):
            gathered.add(now, [ROW | {"distance": "far"}], found.append)
        await asyncio.sleep(0.01)
        assert [type(answer) for answer in found] == [RequestError] * 50

    async def refused() -> int:
        await crowd()
        gc.collect()
        await crowd()
        return gc.collect()

    gc.disable()
    try:
        assert asyncio.run(refused()) < 50
    finally:
        gc.enable()


def test_over_http_a_crowd_is_gathered_and_each_gets_what_it_asked_for(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, worked = Worker(), []
    guard = Guard(Settings(max_delay=0), worker.served)
    monkeypatch.setattr(guard.shedder, "worked", lambda began, requests=1: worked.append(requests))
    registry = CollectorRegistry()
    worker.served.metrics = Metrics(("/predict", "/explain"), registry)
    for path in meter(registry):
        worker.served.metrics.taken(path, 0)  # the meter begins
    worker.served.metrics.flush()
    before = meter(registry)
    app: Any = Protection(nothing, guard, Endpoint(worker.served, guard.turns))
    asked: list[tuple[str, list[dict[str, Any]]]] = [("/predict", rows) for rows in ROWS]
    asked += [("/explain", rows) for rows in ROWS[:4]]
    asked += [("/predict", [ROW] * 5), ("/predict", [ROW | {"distance": "far"}]), ("/predict", [])]

    async def crowd() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://endpoint") as client:
            return await asyncio.gather(*(client.post(path, json={"rows": rows}) for path, rows in asked))

    answers = asyncio.run(crowd())
    assert [answer.status_code for answer in answers] == [200] * 21 + [422] * 2
    documents = [answer.json() for answer in answers[:21]]
    assert [len(document["predictions"]) for document in documents] == [len(rows) for _, rows in asked[:21]]
    alone = scored([worker.ask(*rows) for rows in ROWS])
    assert scored(documents[:16]) == alone
    assert all("contributions" in told for document in documents[16:20] for told in document["predictions"])
    assert not any("contributions" in told for document in documents[:16] for told in document["predictions"])
    worker.served.metrics.flush()
    answered = {path: sum(len(rows) for to, rows in asked[:21] if to == path) for path in ("/predict", "/explain")}
    assert meter(registry) == {path: rows + before[path] for path, rows in answered.items()}
    logged = [len(recorded(record)) for record in worker.records[: -len(ROWS)]]
    assert sum(logged) == sum(answered.values())
    assert sorted(worked) == [1] * 6 + [16], "the shedder learns of every one that was read"
    assert len(logged) == 1 + 1 + 4 + 1, "the first by itself, those of few rows together, explanations, many rows"

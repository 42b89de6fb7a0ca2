"""A call that is sent again is logged once: whatever is lost, there is one record of each row of each accepted call."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from services.log.spool import Spool
from tests.contracts import GOOD
from tests.log_records import AT, entry, record
from tests.scripted_server import Connection, ScriptedServer, answer, cut_off, reset, scripted_server
from tests.small_endpoint import KINDS, SmallEndpoint, make_predictor, small_endpoint
from truecourse.client import Client
from truecourse.errors import PlatformError, RequestError
from truecourse.serving.log_shipping import ship, spool_folder
from truecourse.serving.prediction_log import encode_entry, entries_table, find_records, log_table
from truecourse.serving.repeated_calls import Appended, append_once
from truecourse.storage.delta_tables import Tables
from truecourse.unique_ids import derived_ids, new_call_key

NAME = "shops"
SENT = {"content-type": "application/json"}


def logged() -> list[dict[str, Any]]:
    tables = Tables()
    reference = tables.version(log_table(NAME))
    return [] if reference is None else tables.read(reference).to_pylist()


class Workers:
    """Two workers behind a proxy that loses some of their answers. Their champions differ, so their answers do.

    `accepted`: the key and the body of the requests that a worker answered."""

    def __init__(self, stack: ExitStack, kind: Any, proxy: ScriptedServer, seed: int) -> None:
        self.proxy, self.random = proxy, random.Random(seed)
        self.accepted: set[tuple[str, bytes]] = set()
        self.spools: list[Spool] = []
        self.endpoints: list[SmallEndpoint] = []
        for version, served in enumerate(("fast path", "application"), 1):
            endpoint = stack.enter_context(small_endpoint(served))
            endpoint.serve(make_predictor(kind, version, has_time=False))
            self.endpoints.append(endpoint)
            self.spools.append(Spool(spool_folder(NAME), encode_entry))
            endpoint.router.record = self.spools[-1].put
        self.http = stack.enter_context(httpx.Client(trust_env=False))
        proxy.default = self.forward

    def forward(self, connection: Connection) -> bool:
        """Send the request on to a worker, and lose its answer now and then; once in a while the log is shipped."""
        line, body, headers = connection.request
        endpoint = self.random.choice(self.endpoints)
        reply = self.http.post(endpoint.url + line.split()[1], content=body, headers=SENT | {
            "idempotency-key": headers["idempotency-key"]
        })  # fmt: skip
        assert reply.status_code == 200, reply.text
        self.accepted.add((headers["idempotency-key"], body))
        if self.random.random() < 0.3:
            self.ship()
        lost = self.random.choice([None, None, reset, reset, cut_off])
        return lost(connection) if lost is not None else answer(200, reply.content)(connection)

    def ship(self) -> None:
        for spool in self.spools:
            spool.flush(seal=True)
        ship(NAME)


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_whose_answers_are_lost_counts_once(kind: Any, home: Path) -> None:
    """The record is that of the answer which arrived, also if another worker's answer was logged before."""
    rows = [GOOD | {"id": i} for i in range(3)]
    received = []
    with ExitStack() as stack:
        proxy = stack.enter_context(scripted_server())
        workers = Workers(stack, kind, proxy, KINDS.index(kind))
        client = stack.enter_context(Client(proxy.url, tries=4))
        for call in range(12):
            try:
                received.append(client.predict(*rows[: 1 + call % 3]).to_document())
            except PlatformError:  # every answer was lost, or one was cut off
                continue
        workers.ship()
    assert len(received) >= 4
    assert len(proxy.requests) > len(workers.accepted) == 12, "some were sent again"
    records = {one["prediction_id"]: one for one in logged()}
    assert len(logged()) == len(records) == sum(body.count(b'"id"') for _, body in workers.accepted)
    for document in received:
        for one in document["predictions"]:
            found = records[one["prediction_id"]]
            assert found["model_version"] == document["model"]["version"]
            assert found["prediction"] == str(one["prediction"])


@pytest.fixture
def endpoint(home: Path) -> Iterator[SmallEndpoint]:
    with small_endpoint() as running:
        running.serve(make_predictor("binary", has_time=False))
        spool = Spool(spool_folder(NAME), encode_entry)
        running.router.record = spool.put
        yield running
        spool.close()


def test_a_key_is_refused_with_another_body(endpoint: SmallEndpoint) -> None:
    with Client(endpoint.url) as client:
        first = client.predict(GOOD, idempotency_key="order 7")
        assert client.predict(GOOD, idempotency_key="order 7") == first
        with pytest.raises(RequestError, match="already used with another body") as refused:
            client.predict(GOOD | {"size": 2.5}, idempotency_key="order 7")
        assert (refused.value.status, "new key" in refused.value.hint) == (422, True)
        other_path = client.explain(GOOD, idempotency_key="order 7")
        with pytest.raises(RequestError):  # a refused call is not remembered
            client.predict(GOOD | {"size": -1}, idempotency_key="order 8")
        later = client.predict(GOOD, idempotency_key="order 8")
    ids = [one.predictions[0].prediction_id for one in (first, other_path, later)]
    assert len(set(ids)) == 3


@pytest.mark.parametrize(
    ("keys", "status"),
    [(['"a b"'], 200), (["a"], 200), (["x" * 255], 200), ([""], 400), (['""'], 400), (['a"b'], 400), (["x" * 256], 400),
     (["\xe9"], 400), (["a", "a"], 400)],
)  # fmt: skip
def test_a_key_is_a_short_text_with_or_without_quotes(keys: list[str], status: int, endpoint: SmallEndpoint) -> None:
    headers = [("content-type", "application/json"), *(("idempotency-key", key.encode("latin-1")) for key in keys)]
    reply = httpx.post(f"{endpoint.url}/predict", json={"rows": [GOOD]}, headers=headers, trust_env=False)  # type: ignore[arg-type]
    assert reply.status_code == status, reply.text
    assert status == 200 or "UUID" in reply.json()["hint"]


def test_shippers_of_two_machines_keep_one_record(home: Path) -> None:
    """Both have a record of each call; all their commits race."""
    calls = [derived_ids(2, new_call_key(), b"") for _ in range(8)]

    def ship_all(machine: int) -> int:
        appended = 0
        for call in calls:
            rows = entries_table([encode_entry(entry(*(record(id, model_version=machine) for id in call)))])
            appended += append_once(Tables(), log_table(NAME), rows, {}, {f"m{machine}": 1}).records
        return appended

    append_once(Tables(), log_table(NAME), entries_table([encode_entry(entry(record("first")))]), {}, {})
    with ThreadPoolExecutor(2) as threads:
        appended = sum(threads.map(ship_all, range(2)))
    assert len(logged()) == 17
    assert appended == 16, "of equal times the first is kept"


def test_an_answer_and_its_shadow_are_both_kept(home: Path) -> None:
    (id,) = derived_ids(1, "a key without a moment", b"")
    roles = [record(id), record(id, role="shadow", model_version=4)]
    again = [record(id, at=AT.replace(hour=13)), record(id, role="shadow", model_version=5, at=AT.replace(hour=13))]

    def append(*records: dict[str, Any]) -> Appended:
        rows = pa.concat_tables([entries_table([encode_entry(entry(one))]) for one in records])
        return append_once(Tables(), log_table(NAME), rows, {}, {})

    assert append(*roles) == Appended(2)
    assert append(*again) == Appended(1, 2, 1), "the answer is the same, its shadow is another one"
    assert [one["model_version"] for one in find_records(Tables(), NAME, id)] == [3, 5]
    assert append(*roles[:1], *roles[:1]) == Appended(0, 2)

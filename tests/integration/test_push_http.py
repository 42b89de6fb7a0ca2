"""Rows pushed over HTTP: written by the real feature writer, and refused as documented."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from feature_repo.online import OnlineReader
from services.push.connection import FeatureWriter
from tests import shared_area
from tests.conftest import REPOSITORY
from tests.integration.conftest import set_environment
from tests.small_endpoint import SmallEndpoint, make_predictor, small_endpoint
from truecourse.client import AsyncClient, Client
from truecourse.errors import RequestError
from truecourse.problem.loader import load_problem
from truecourse.serving import api_keys
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables, raw_table


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallEndpoint]:
    """An endpoint with a feature writer, whose model uses an area that has no data yet."""
    root = tmp_path_factory.mktemp("pushed")
    problems = shared_area.install(root)
    with pytest.MonkeyPatch.context() as patch:
        set_environment(patch, root / "home", problems)
        patch.setenv("TRUECOURSE_PROBLEM", "leaving")
        get_settings.cache_clear()
        writer = FeatureWriter(REPOSITORY)
        writer.start()
        with small_endpoint("fast path", writer, request_timeout=120) as endpoint:
            endpoint.serve(replace(make_predictor("binary"), problem=load_problem()))
            with Client(endpoint.url, timeout=120) as client:
                early = order(99, ordered_at="2024-04-30")
                with pytest.raises(RequestError, match="refers to the table customers") as refused:
                    client.push("customers", "orders", early)
                assert refused.value.status == 409
                facts = [{"customer": f"c{n}", "region": "north", "joined": 2000 + n} for n in range(5)]
                assert client.push("customers", "customers", *facts).inserted == 5
                assert client.push("customers", "orders", early).waiting == {}
            yield endpoint
        writer.close()
    get_settings.cache_clear()


@pytest.fixture
def client(served: SmallEndpoint) -> Iterator[Client]:
    with Client(served.url, timeout=120, tries=1) as client:
        yield client


def order(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "order": number, "customer": f"c{number % 5}", "ordered_at": "2024-05-01T10:00:00Z", "amount": 2.5,
        "category": "books", **changes,
    }  # fmt: skip


def test_a_pushed_row_is_online_with_the_answer_and_counts_once(client: Client) -> None:
    before = online_counts()
    found = client.push("customers", "orders", order(0), order(1, amount=None), id="first")
    assert (found.table, found.inserted, found.repeated) == ("customers.orders", 2, False)
    assert found.loaded == {"orders": 2, "last_order": 1}  # the last order with an amount
    assert found.waiting == {}
    assert online_counts() - before == 2
    again = client.push("customers", "orders", order(0), order(1, amount=None), id="first")
    assert (again.repeated, again.delivery) == (True, found.delivery)
    assert client.push("customers", "orders", order(0, amount=9.0)).corrected == 1
    assert online_counts() - before == 2


def online_counts() -> int:
    """The number of orders of all customers in the online store."""
    problem, keys = load_problem(), [f"c{n}" for n in range(5)]
    reader, at = OnlineReader(problem), np.full(5, np.datetime64(datetime(2024, 5, 2), "us"))
    return sum(
        count or 0 for count in reader.read({"customer": np.array(keys, dtype=object)}, at, 5).values["orders_90d"]
    )


def test_pushes_that_come_together_are_written_together(served: SmallEndpoint) -> None:
    async def send() -> list[int]:
        async with AsyncClient(served.url, timeout=120) as client:
            calls = [client.push("customers", "orders", order(100 + n)) for n in range(12)]
            return [found.inserted for found in await asyncio.gather(*calls)]

    name = raw_table("customers", "orders")
    version = Tables().version(name)
    before, first = online_counts(), -1 if version is None else version.version
    assert asyncio.run(send()) == [1] * 12
    assert online_counts() - before == 12
    now = Tables().version(name)
    assert now is not None
    assert now.version - first < 12


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("customers/order", '{"rows": [{}]}', 404, "orders"),
        ("no_area/orders", '{"rows": [{}]}', 404, "customers"),
        ("customers/orders?table=customers", '{"rows": [{}]}', 404, "orders"),
        ("customers/orders?ids=7", '{"rows": [{}]}', 422, "id and table"),
        ("customers/orders?id=a%20b", '{"rows": [{"order": 1}]}', 422, "letters"),
        ("customers/orders", '{"rows": [', 400, "not valid JSON"),
        ("customers/orders", '{"rows": []}', 422, "list of rows"),
        ("customers/orders", '{"rows": [{"order": 1}, 2]}', 422, '"row":1'),
        ("customers/orders", '{"rows": [{"order": 1}]}', 422, "has no column 'customer'"),
        ("customers/orders", '{"rows": [{"order": 7, "customer": "c77", "ordered_at": "2024-05-01"}]}', 422, "c77"),
    ],
)
def test_what_is_refused(served: SmallEndpoint, path: str, body: str, status: int, text: str) -> None:
    url = f"{served.url}/features/{path}"
    answer = httpx.post(url, content=body, headers={"content-type": "application/json"}, timeout=120)
    assert answer.status_code == status, answer.text
    assert text in answer.text


def test_other_methods_and_ids_of_other_rows_are_refused(served: SmallEndpoint, client: Client) -> None:
    assert httpx.get(f"{served.url}/features/customers/orders").status_code == 405
    client.push("customers", "orders", order(50), id="used")
    with pytest.raises(RequestError) as refused:
        client.push("customers", "orders", order(51), id="used")
    assert refused.value.status == 409


def test_the_key_of_a_call_is_the_id_of_its_push(served: SmallEndpoint) -> None:
    def send(key: str, number: int, query: str = "") -> httpx.Response:
        headers = {"content-type": "application/json", "idempotency-key": key}
        url = f"{served.url}/features/customers/orders{query}"
        return httpx.post(url, json={"rows": [order(number)]}, headers=headers, timeout=120)

    assert send('"call-1"', 60).json()["id"] == "call-1"
    again = send("call-1", 60).json()
    assert (again["id"], again["repeated"]) == ("call-1", True)
    assert send("call-1", 61).status_code == 422
    assert send("call-1", 61, "?id=other").json()["inserted"] == 1
    assert len(send("call / 2", 60).json()["id"]) == 64  # no id can have its characters
    assert send('a"b', 60).status_code == 400


def test_without_a_writer_or_the_scope_nothing_is_accepted(home: Path) -> None:
    refusal = pytest.raises(RequestError, match="accepts no rows")
    with small_endpoint() as endpoint, Client(endpoint.url) as anonymous, refusal:
        anonymous.push("customers", "orders", order(1))
    texts = {scope: api_keys.create(scope, (scope,))[1] for scope in ("predict", "features")}
    with small_endpoint(authentication="keys") as endpoint:
        endpoint.guard.access.refresh()
        for scope, status in (("predict", 403), ("features", 404)):
            with Client(endpoint.url, texts[scope]) as client, pytest.raises(RequestError) as refused:
                client.push("customers", "orders", order(1))
            assert refused.value.status == status

"""The endpoint sends what the response models define and the OpenAPI document describes, for every objective."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from services.http import protocol, request_guard
from services.http.readiness import Health
from services.http.refusals import OVERLOAD, Refusal
from tests.contracts import GOOD
from tests.echo_server import SERVED
from tests.small_endpoint import KINDS, SmallEndpoint, Store, make_predictor, small_endpoint
from truecourse.client import encode
from truecourse.errors import StorageError
from truecourse.problem.definition import Kind
from truecourse.responses import (
    CertificateStatus,
    ErrorResponse,
    ExplanationResponse,
    HealthResponse,
    LogStatus,
    ModelResponse,
    PredictionResponse,
    Response,
)
from truecourse.serving import openapi
from truecourse.serving.response_schemas import reference

PATHS: dict[str, type[Response]] = {"/predict": PredictionResponse, "/explain": ExplanationResponse}
STORE = Store()
CHAMPIONS = {(kind, True): make_predictor(kind, 1, store=STORE) for kind in KINDS}
CHAMPIONS |= {(kind, False): make_predictor(kind, 1, has_time=False) for kind in KINDS}
CHALLENGERS = {kind: make_predictor(kind, 2, store=STORE) for kind in KINDS}
DOCUMENTS = {key: openapi.document(champion.contract, "1") for key, champion in CHAMPIONS.items()}

TEXTS = st.text(st.characters(codec="utf-8"), max_size=9)
VALID = st.fixed_dictionaries(
    {
        "shop": st.integers(-(2**63), 2**63 - 1),
        "city": st.sampled_from(["Bonn", "Ulm", "Trier", "é\u2028\x00"]),
        "size": st.floats(0, 10) | st.integers(0, 10),
        "count": st.sampled_from([1, 2, 3, 2.0]),
        "open": st.booleans(),
        "since": st.sampled_from(["2020-02-29T10:00:00+02:00", "1700-01-01"]),
    },
    optional={"note": st.sampled_from(["a", "zz", None]), "id": st.none() | st.integers(-(2**63), 2**63 - 1) | TEXTS},
)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
INVALID = st.builds(lambda row, name, value: row | {name: value}, VALID, st.sampled_from([*GOOD, "id"]) | TEXTS, ANY)


@pytest.fixture(scope="module", params=SERVED)
def endpoint(request: pytest.FixtureRequest) -> Iterator[SmallEndpoint]:
    with small_endpoint(request.param) as running:
        yield running


@pytest.fixture(scope="module")
def http(endpoint: SmallEndpoint) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=endpoint.url, timeout=30, trust_env=False) as client:
        yield client


def canonical(document: Any) -> bytes:
    """Comparable bytes of a JSON value: unlike Python's ==, they tell 1, 1.0 and true apart."""
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)


def check(sent: bytes, model: type[Response], document: dict[str, Any], schema: dict[str, Any]) -> Any:
    """Check a body against its model and its schema in the OpenAPI document."""
    value = orjson.loads(sent)
    Draft202012Validator(schema | {"components": document["components"]}).validate(value)
    assert canonical(orjson.loads(model.model_validate_json(sent).to_json())) == canonical(value)
    return value


def documented(document: dict[str, Any], path: str, status: int) -> dict[str, Any]:
    (operation,) = document["paths"][path].values()
    schema: dict[str, Any] = operation["responses"][str(status)]["content"]["application/json"]["schema"]
    return schema


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    has_time=st.booleans(),
    path=st.sampled_from(sorted(PATHS)),
    rows=st.lists(VALID | INVALID, min_size=1, max_size=3) | st.lists(VALID, min_size=1, max_size=3),
    state=st.sampled_from(["full", "empty", "missing", "failing"]),
    share=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_every_answer_is_as_defined_and_documented(
    endpoint: SmallEndpoint,
    http: httpx.Client,
    kind: Kind,
    has_time: bool,
    path: str,
    rows: list[dict[str, Any]],
    state: str,
    share: float,
) -> None:
    STORE.state, champion = state, CHAMPIONS[kind, has_time]
    endpoint.serve(champion, CHALLENGERS[kind] if has_time else None, share)
    response = http.post(path, content=encode(rows), headers={"content-type": "application/json"})
    document, status = DOCUMENTS[kind, has_time], response.status_code
    assert status in (200, 422, 503)
    model = PATHS[path] if status == 200 else ErrorResponse
    value = check(response.content, model, document, documented(document, path, status))
    if status == 503:
        assert has_time
        assert state == "failing"
    if status == 422:
        assert value["fault_count"] >= len(value["faults"]) >= 1
    if status == 200 and not share:
        sent = model.model_validate_json(response.content).to_json()
        assert sent == response.content or (path == "/explain" and "warning" in value["predictions"][0])


def test_the_states_above_reach_every_member(endpoint: SmallEndpoint, http: httpx.Client) -> None:
    """A member that is never sent would be checked by no example."""
    rows = [GOOD | {"shop": shop, "id": shop, "decision_time": "2024-01-01T00:00:00Z"} for shop in range(3)]
    for kind in KINDS:
        reached: set[str] = set()
        for path, state, share in itertools.product(PATHS, ("full", "empty", "missing"), (0.0, 0.5)):
            STORE.state = state
            endpoint.serve(CHAMPIONS[kind, True], CHALLENGERS[kind], share)
            reached |= {name for one in http.post(path, json={"rows": rows}).json()["predictions"] for name in one}
        assert reached == set(DOCUMENTS[kind, True]["components"]["schemas"]["Explanation"]["properties"])


def test_a_row_of_the_challenger_names_its_model(endpoint: SmallEndpoint, http: httpx.Client) -> None:
    STORE.state = "full"
    for kind, (path, model) in itertools.product(KINDS, PATHS.items()):
        endpoint.serve(CHAMPIONS[kind, True], CHALLENGERS[kind], 0.5)
        bodies = [
            http.post(path, json={"rows": [GOOD | {"shop": shop} for shop in range(i, i + 3)]}).content
            for i in range(0, 30, 3)
        ]
        document = DOCUMENTS[kind, True]
        values = [check(body, model, document, documented(document, path, 200)) for body in bodies]
        named = [one["model"]["version"] for value in values for one in value["predictions"] if "model" in one]
        assert set(named) == {2}


ODD: dict[str, tuple[str, str, dict[str, str], bytes, int]] = {
    "no JSON": ("POST", "/predict", {"content-type": "application/json"}, b"{", 400),
    "no HTTP body": ("POST", "/explain", {"content-type": "application/json"}, b"", 400),
    "no rows": ("POST", "/predict", {"content-type": "application/json"}, b"{}", 422),
    "text": ("POST", "/predict", {"content-type": "text/plain"}, b"{}", 415),
    "too long": ("POST", "/predict", {"content-type": "application/json"}, b" " * 300_000, 413),
    "unknown path": ("GET", "/nothing", {}, b"", 404),
    "wrong method": ("GET", "/predict", {}, b"", 405),
    "wrong method of a document": ("POST", "/model", {}, b"", 405),
}


@pytest.mark.parametrize("kind", ODD)
def test_every_error_is_as_defined_and_documented(endpoint: SmallEndpoint, http: httpx.Client, kind: str) -> None:
    endpoint.serve(CHAMPIONS["binary", True])
    method, path, headers, body, status = ODD[kind]
    response = http.request(method, path, headers=headers, content=body)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    document = DOCUMENTS["binary", True]
    schema = reference("ErrorResponse")
    if path in PATHS and status != 405:
        assert documented(document, path, status) == schema
    value = check(response.content, ErrorResponse, document, schema)
    assert value["error"]
    assert ErrorResponse.model_validate_json(response.content).to_json() == response.content


def test_an_endpoint_without_a_model_and_a_failing_one_answer_as_defined(
    endpoint: SmallEndpoint, http: httpx.Client
) -> None:
    document = DOCUMENTS["binary", True]
    endpoint.router.split = None
    loading = http.post("/predict", json={"rows": [GOOD]})
    assert (loading.status_code, loading.headers["retry-after"]) == (503, "1")
    broken, other = make_predictor("binary"), CHAMPIONS["binary", True]
    endpoint.serve(replace(broken, model=replace(broken.model, vocabulary=other.model.vocabulary)))  # one feature more
    failing = http.post("/predict", json={"rows": [GOOD]})
    assert failing.status_code == 500
    for response in (loading, failing):
        check(response.content, ErrorResponse, document, documented(document, "/predict", response.status_code))


REFUSALS = [OVERLOAD, request_guard.NO_KEYS, protocol.CROWDED, protocol.MALFORMED, protocol.LONG_LINE]
REFUSALS += [protocol.MANY_HEADERS, Refusal("rate", 429, "é", "slow down", 3), Refusal("timeout", 504, "late", "again")]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.reason)
def test_every_refusal_is_as_defined_and_documented(refusal: Refusal) -> None:
    document = DOCUMENTS["binary", True]
    schema = documented(document, "/predict", refusal.status)
    value = check(refusal.reply.body, ErrorResponse, document, schema)
    assert value == {"error": refusal.what, "hint": refusal.hint}


@pytest.mark.parametrize("store", [STORE, None], ids=["store", "no store"])
@pytest.mark.parametrize("follower", ["none", "following", "refusing"])
@pytest.mark.parametrize("challenger", [True, False], ids=["challenger", "alone"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_as_defined_and_documented(
    endpoint: SmallEndpoint, http: httpx.Client, kind: Kind, challenger: bool, follower: str, store: Store | None
) -> None:
    refused = {"challenger": "version 2: other fields"} if follower == "refusing" else {}
    status = {"following": True, "refused": refused, "storage": "reachable"}
    endpoint.router.follower_status = lambda: {} if follower == "none" else status
    champion = make_predictor(kind, 1, store=store)
    endpoint.serve(champion, CHALLENGERS[kind] if challenger else None, 0.25 if challenger else 0.0)
    endpoint.router.counts["shadow_scored"] += 1
    response = http.get("/model")
    document = openapi.document(champion.contract, "1")
    check(response.content, ModelResponse, document, documented(document, "/model", response.status_code))
    found = ModelResponse.model_validate_json(response.content)
    assert (found.kind, found.version, found.serving.champion.version) == (kind, 1, 1)
    assert list(found.features) == list(champion.model.vocabulary.features)
    assert {source.ttl for source in found.features.values()} == ({None, 86400} if store else {None})
    assert (found.serving.challenger is not None) == challenger
    assert found.serving.counts["shadow_scored"] >= 1
    assert (found.serving.following, found.serving.refused) == (follower != "none", refused)


LOGS = {
    "disabled": None,
    "shipped": LogStatus(
        written=5, waiting=0, dropped=0, unshipped_bytes=0, lag_seconds=0.0, error="", shipping_error=""
    ),
    "full disk": LogStatus(
        written=5, waiting=9, dropped=2, unshipped_bytes=99, lag_seconds=1.5, error="No space", shipping_error=""
    ),
}
CERTIFICATES = {
    "none": None,
    "valid": CertificateStatus(answers=True, expires="2030-01-01T00:00:00+00:00", error=None),
    "not renewed": CertificateStatus(answers=False, expires="2030-01-01T00:00:00+00:00", error="expired"),
}


@pytest.mark.parametrize("model", ["none", "without a store", "full", "failing", "optional"])
@pytest.mark.parametrize("log", LOGS)
@pytest.mark.parametrize("certificate", CERTIFICATES)
def test_health_is_as_defined_and_documented(
    endpoint: SmallEndpoint, http: httpx.Client, home: Path, model: str, log: str, certificate: str
) -> None:
    health, (found_log, found_certificate) = fresh_health(endpoint), (LOGS[log], CERTIFICATES[certificate])
    store = Store("failing" if model == "optional" else model, is_required=model != "optional")
    endpoint.router.split = None
    if model != "none":
        endpoint.serve(make_predictor("regression", 7, store=None if model == "without a store" else store))
    health.log_status = None if found_log is None else lambda: found_log
    health.certificate = None if found_certificate is None else lambda: found_certificate
    health.check()
    response = http.get("/healthz")
    document = DOCUMENTS["binary", True]
    check(response.content, HealthResponse, document, documented(document, "/healthz", response.status_code))
    answer = HealthResponse.model_validate_json(response.content)
    assert answer.to_json() == response.content
    failing = model in ("none", "failing")
    degraded = model == "optional" or log == "full disk" or certificate == "not renewed"
    assert answer.status == ("failing" if failing else "degraded" if degraded else "ok")
    assert response.status_code == (503 if failing else 200)
    assert answer.model.version == (None if model == "none" else 7)
    assert (answer.online_store is None) == (model in ("none", "without a store"))


def fresh_health(endpoint: SmallEndpoint) -> Health:
    guard = endpoint.guard
    guard.health = Health(endpoint.router, guard.access, guard.metrics)
    return guard.health


def test_health_names_the_type_of_a_failure(
    endpoint: SmallEndpoint, http: httpx.Client, configure: Callable[..., None]
) -> None:
    configure(storage="s3://bucket/prefix", s3_endpoint="http://127.0.0.1:9", s3_access_key_id="a",
              s3_secret_access_key="b")  # fmt: skip
    endpoint.serve(CHAMPIONS["binary", False])
    fresh_health(endpoint).check()
    answer = HealthResponse.model_validate_json(http.get("/healthz").content)
    assert answer.status == "degraded"
    assert answer.storage is not None
    assert (answer.storage.answers, answer.storage.error) == (False, StorageError.__name__)

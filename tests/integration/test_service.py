"""The HTTP interface of the endpoint: a real BentoML server of the packaged champion."""

import concurrent.futures
import http.client
import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.main import execute
from tests.integration.conftest import Endpoint, Trained
from truecourse.registry import versions as registry

ROW: dict[str, Any] = {
    "courier": "c03", "depot": "north", "promised": 45, "distance": 4.2, "decision_time": "2024-03-01T06:30:00Z"
}  # fmt: skip


@pytest.fixture
def endpoint(each_endpoint: Endpoint) -> Endpoint:
    return each_endpoint


def test_it_predicts(endpoint: Endpoint, trained: Trained) -> None:
    response = endpoint.post("/predict", ROW | {"id": "mine"})
    body = response.json()
    assert body["model"] == {"version": 1, "sha256": trained.version.model_sha256}
    (answer,) = body["predictions"]
    assert answer["id"] == "mine"
    assert answer["decision_time"] == "2024-03-01T06:30:00.000000Z"
    assert 0 < answer["score"] < 1
    assert answer["prediction"] == ("1" if answer["score"] >= 0.5 else "0")
    assert answer["missing"] == answer["unknown"] == []


def test_the_score_depends_on_the_request(endpoint: Endpoint) -> None:
    near, far = endpoint.answers("/predict", ROW | {"distance": 0.5}, ROW | {"distance": 20.0})
    assert near["score"] < far["score"]
    slow, fast = endpoint.answers("/predict", ROW | {"courier": "c11"}, ROW | {"courier": "c00"})
    assert slow["score"] > fast["score"], "the couriers' histories are not looked up"


def test_contributions_add_up_and_are_sorted(endpoint: Endpoint) -> None:
    rows = [ROW | {"distance": float(d), "courier": f"c{d:02d}"} for d in range(12)] + [ROW | {"courier": "nobody"}]
    for answer in endpoint.answers("/explain", *rows):
        parts = answer["contributions"]
        assert answer["base"] + sum(part["contribution"] for part in parts) == pytest.approx(answer["margin"], abs=1e-5)
        weights = [abs(part["contribution"]) for part in parts]
        assert weights == sorted(weights, reverse=True)


def test_contributions_name_features_with_their_values(endpoint: Endpoint) -> None:
    (answer,) = endpoint.answers("/explain", ROW)
    values = {part["feature"]: part["value"] for part in answer["contributions"]}
    assert values["depot"] == "north"
    assert values["vehicle"] == "van"
    assert values["hour"] == 6
    assert values["promised"] == 45
    assert isinstance(values["courier_count_7d"], int)
    assert "courier" not in values, "an entity key is no feature"


@pytest.mark.parametrize("distance", [1e308, 3.5e38, 5e-324])
def test_numbers_that_no_float32_holds_are_explained_too(endpoint: Endpoint, distance: float) -> None:
    (answer,) = endpoint.answers("/explain", ROW | {"distance": distance})
    values = {part["feature"]: part["value"] for part in answer["contributions"]}
    assert values["distance"] == distance


def test_explain_includes_the_answer_of_predict(endpoint: Endpoint) -> None:
    (predicted,), (explained,) = endpoint.answers("/predict", ROW), endpoint.answers("/explain", ROW)
    assert {name: explained[name] for name in predicted} == predicted


def test_one_row_and_many_rows_have_the_same_answers(endpoint: Endpoint) -> None:
    rows = [ROW | {"id": i, "distance": i / 10, "courier": f"c{i % 12:02d}"} for i in range(1000)]
    many = endpoint.answers("/predict", *rows)
    assert [answer["id"] for answer in many] == list(range(1000))
    for i in (0, 17, 999):
        assert endpoint.answers("/predict", rows[i]) == [many[i]]


def test_values_older_than_their_ttl_are_missing(endpoint: Endpoint) -> None:
    fresh, stale, before = endpoint.answers(
        "/predict",
        ROW | {"decision_time": "2024-03-01T06:00:00Z"},
        ROW | {"decision_time": "2024-03-20T00:00:00Z"},
        ROW | {"decision_time": "2023-12-01T00:00:00Z"},
    )
    assert fresh["missing"] == []
    history = {"courier_late_7d", "courier_count_7d", "depot_late_1d", "depot_last_took"}
    assert set(stale["missing"]) == set(before["missing"]) == history


def test_an_unknown_key_has_missing_features(endpoint: Endpoint) -> None:
    (answer,) = endpoint.answers("/predict", ROW | {"courier": "nobody"})
    assert set(answer["missing"]) == {"courier_late_7d", "courier_count_7d", "vehicle", "since"}


def test_the_decision_time_is_now_by_default(endpoint: Endpoint) -> None:
    row = {name: value for name, value in ROW.items() if name != "decision_time"}
    (answer,) = endpoint.answers("/predict", row)
    assert "depot_late_1d" in answer["missing"], "the data are years old by now"


BAD_ROWS: list[tuple[str, Any, str]] = [
    ("depot", "west", "one of north, south, east"),
    ("depot", None, "null"),
    ("depot", 3, "text"),
    ("promised", "45", "whole number"),
    ("promised", True, "whole number"),
    ("promised", 4.5, "whole number"),
    ("promised", 4, "at least 5"),
    ("promised", 601, "at most 600"),
    ("promised", 2**63, "64-bit"),
    ("distance", "4.2", "number"),
    ("distance", -1, "at least 0"),
    ("distance", [4.2], "number"),
    ("distance", {}, "number"),
    ("courier", 7, "text"),
    ("decision_time", "soon", "ISO 8601"),
    ("decision_time", "9999-01-01T00:00:00Z", "years"),
    ("id", [], "text"),
    ("colour", "red", "unknown field"),
]


@pytest.mark.parametrize(("field", "value", "message"), BAD_ROWS)
@pytest.mark.parametrize("path", ["/predict", "/explain"])
def test_an_invalid_value_is_a_422_that_names_the_field(
    endpoint: Endpoint, path: str, field: str, value: Any, message: str
) -> None:
    response = endpoint.post(path, ROW, ROW | {field: value})
    assert response.status_code == 422
    (fault,) = response.json()["faults"]
    assert (fault["row"], fault["field"]) == (1, field)
    assert message in fault["problem"]


def test_every_fault_is_counted_and_the_first_are_listed(endpoint: Endpoint) -> None:
    response = endpoint.post("/predict", *[{}] * 100)
    assert response.status_code == 422
    assert response.json()["fault_count"] == 400
    assert len(response.json()["faults"]) == 100


BAD_BODIES: list[tuple[bytes, int]] = [
    (b"", 400),
    (b"nonsense", 400),
    (b'{"rows": [{"distance": NaN}]}', 400),
    (b'{"rows": [{"distance": 1, "distance": 2}]}', 400),
    (b"\xff\xfe", 400),
    (b"[" * 100_000, 400),
    (b"[]", 422),
    (b"{}", 422),
    (b'{"rows": []}', 422),
    (b'{"rows": {}}', 422),
    (b'{"rows": [null]}', 422),
    (b'{"rows": [[]]}', 422),
    (b'{"rows": [' + b",".join([b"{}"] * 1001) + b"]}", 422),
]


@pytest.mark.parametrize(("body", "status"), BAD_BODIES, ids=range(len(BAD_BODIES)))
def test_an_invalid_body_is_rejected(endpoint: Endpoint, body: bytes, status: int) -> None:
    response = endpoint.client.post("/predict", content=body, headers={"content-type": "application/json"})
    assert response.status_code == status
    assert response.json()["error"]


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/json; charset=latin-1"},
        {"content-type": "application/json", "content-encoding": "gzip"},
        {"content-type": ""},
    ],
)
def test_another_content_type_is_a_415(endpoint: Endpoint, headers: dict[str, str]) -> None:
    response = endpoint.client.post("/predict", content=json.dumps({"rows": [ROW]}).encode(), headers=headers)
    assert response.status_code == 415


def test_expect_100_continue_with_another_content_type_is_refused_before_the_body(endpoint: Endpoint) -> None:
    url = endpoint.client.base_url
    headers = "host: here\r\ncontent-length: 9\r\nexpect: 100-continue\r\ncontent-type: text/plain"
    with socket.create_connection((url.host, url.port), timeout=10) as connection:
        connection.sendall(f"POST /predict HTTP/1.1\r\n{headers}\r\n\r\n".encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 415 ")


def test_a_body_that_is_too_long_is_a_413(endpoint: Endpoint) -> None:
    body = b'{"rows": ["' + b"x" * (9 << 20) + b'"]}'
    response = endpoint.client.post("/predict", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 413
    chunks = (b"x" * 65536 for _ in range(160))  # without content length
    response = endpoint.client.post("/predict", content=chunks, headers={"content-type": "application/json"})
    assert response.status_code == 413
    assert endpoint.answers("/predict", ROW)


def test_wrong_methods_and_paths(endpoint: Endpoint) -> None:
    response = endpoint.client.get("/predict")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert endpoint.client.post("/model").status_code == 405
    for path in ("/nothing", "/predict/", "/PREDICT", "/schema.json"):
        response = endpoint.client.get(path)
        assert response.status_code == 404
        assert response.json()["error"]


def test_bad_requests_leave_no_traceback_in_the_log(endpoint: Endpoint) -> None:
    endpoint.post("/predict", ROW | {"depot": "west"})
    assert "Traceback" not in endpoint.log.read_text()


def test_a_client_that_disconnects_mid_request_affects_no_other(endpoint: Endpoint) -> None:
    url = endpoint.client.base_url
    for _ in range(5):
        connection = http.client.HTTPConnection(url.host, url.port)
        connection.putrequest("POST", "/predict")
        connection.putheader("content-type", "application/json")
        connection.putheader("content-length", "1000")
        connection.endheaders(b'{"rows"')
        connection.close()
    assert endpoint.answers("/predict", ROW)
    assert "Traceback" not in endpoint.log.read_text()


def test_concurrent_clients_get_their_own_answers(endpoint: Endpoint) -> None:
    rows = [ROW | {"id": i, "distance": i / 10, "courier": f"c{i % 12:02d}"} for i in range(240)]
    alone = {answer["id"]: answer for answer in endpoint.answers("/predict", *rows)}

    def answers_alike(i: int) -> bool:
        part = rows[i : i + 1 + i % 7]  # few rows run in the event loop, many in threads
        return endpoint.answers("/predict", *part) == [alone[row["id"]] for row in part]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(answers_alike, range(240)))


def test_docs_show_swagger_ui_from_the_endpoint_alone(endpoint: Endpoint) -> None:
    page = endpoint.client.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    wanted = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert {"/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js", "/docs/start.js"} == set(wanted) - {"data:,"}
    for path in set(wanted) - {"data:,"}:
        asset = endpoint.client.get(path)
        assert asset.status_code == 200
        assert asset.headers["content-type"].startswith("text/css" if path.endswith("css") else "text/javascript")
    assert "SwaggerUIBundle" in endpoint.client.get("/docs/swagger-ui-bundle.js").text
    assert "/openapi.json" in endpoint.client.get("/docs/start.js").text
    assert endpoint.client.get("/docs/../model").status_code == 200
    assert endpoint.client.get("/docs/nothing.js").status_code == 404
    assert "did you mean /predict?" in endpoint.client.get("/predct").json()["hint"]


def test_an_unknown_field_is_named_with_the_nearest(endpoint: Endpoint) -> None:
    answer = endpoint.post("/predict", ROW | {"distnace": 3.0})
    assert answer.status_code == 422
    (fault,) = answer.json()["faults"]
    assert fault == {"row": 0, "field": "distnace", "problem": "unknown field; did you mean distance?"}


def test_the_endpoint_describes_its_model_and_contract(endpoint: Endpoint, trained: Trained) -> None:
    model = endpoint.client.get("/model").json()
    assert model["version"] == trained.version.version
    assert model["model_sha256"] == trained.version.model_sha256
    assert model["run_id"] == trained.version.run_id
    assert len(model["snapshot"]) == 64
    document = endpoint.client.get("/openapi.json").json()
    assert endpoint.client.get("/docs.json").json() == document
    assert document["openapi"] == "3.1.0"
    examples = document["paths"]["/explain"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    for example in examples.values():
        assert endpoint.client.post("/explain", json=example["value"]).status_code == 200
    front = endpoint.client.get("/")
    assert front.headers["content-type"].startswith("text/html")
    assert "deliveries" in front.text
    assert "http" not in front.text.replace(f"http://{endpoint.client.base_url.netloc.decode()}", "").replace(
        "http://www.w3.org/2000/svg", ""
    ), "the page may load nothing from the network"


def test_it_is_alive_ready_and_measured(endpoint: Endpoint) -> None:
    assert endpoint.client.get("/healthz").status_code == 200
    assert endpoint.client.get("/readyz").status_code == 200
    assert "/predict" in endpoint.client.get("/metrics").text


def test_the_answers_are_as_the_contract_describes(endpoint: Endpoint) -> None:
    schemas = endpoint.client.get("/openapi.json").json()["components"]["schemas"]
    for path, name in (("/predict", "Prediction"), ("/explain", "Explanation")):
        (answer,) = endpoint.post(path, ROW | {"id": 1}).json()["predictions"]
        assert set(answer) == set(schemas[name]["properties"]) - {"model", "unavailable", "warning"}
        assert set(schemas[name]["required"]) == set(answer) - {"id"}


def test_the_registry_has_the_digest_of_the_served_bento(endpoint: Endpoint, trained: Trained) -> None:
    assert endpoint.folder.name == registry.tags(trained.version)["truecourse.bento_sha256"]


def test_status_distinguishes_its_own_endpoint_from_another_homes(
    endpoint: Endpoint,
    trained: Trained,
    tmp_path: Path,
    configure: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    port = endpoint.client.base_url.port
    configure(home=trained.home, problems=trained.problems, problem="deliveries", endpoint_port=port)
    assert execute(["status", "--json"]) == 0
    ours = json.loads(capsys.readouterr().out)
    assert ours["endpoint"]["version"] == trained.version.version
    assert ours["foreign_endpoint"] is None
    assert {"problem": "deliveries", "champion": trained.version.version} in ours["problems"]
    configure(home=tmp_path / "other", problems=trained.problems, problem="deliveries", endpoint_port=port)
    assert execute(["status", "--json"]) == 0
    theirs = json.loads(capsys.readouterr().out)
    assert theirs["endpoint"] is None
    assert theirs["foreign_endpoint"]["problem"] == "deliveries"
    assert theirs["problems"] == [{"problem": "deliveries", "champion": None}]
    assert execute(["predict", "distance=3", "--json"]) == 1, "predict never uses another home's endpoint"
    assert "there is no champion" in json.loads(capsys.readouterr().out)["error"]["what"]

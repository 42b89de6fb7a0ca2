"""Reference of the HTTP endpoint: paths, requests, responses, status codes and headers, for an example contract.

Paths and bodies come from the OpenAPI document that an endpoint serves, and from its routes.
"""

import json
from collections.abc import Mapping
from typing import Any

from docs.hooks import markdown_text as markdown
from docs.hooks.markdown_text import any_of, code, sentence
from services.http.authentication import OPEN, SCOPES
from services.http.routes import METHODS
from truecourse.modeling.encoding import Vocabulary
from truecourse.problem import Entity, Files, Float, Integer, Label, Problem, Table, Text, Time, hours
from truecourse.serving import openapi
from truecourse.serving.contract import Contract

INTRO = """An endpoint answers these paths. Requests and responses are JSON in UTF-8, except for pages and metrics. The
fields of a row depend on the problem. An endpoint describes its own at `/openapi.json` and, for people, at `/docs`.
This page shows those of an example: will a delivery be late? Keys, limits and TLS are explained in
docs/reference/serving.md."""
ABOUT: Mapping[str, str] = {
    "/": "a page for people: the fields, and a form",
    "/openapi.json": "this contract as an OpenAPI 3.1 document",
    "/docs.json": "the same document, where BentoML's tools look for it",
    "/docs": "Swagger UI of the contract, without files from the network",
    "/docs/swagger-ui.css": "a file of `/docs`",
    "/docs/swagger-ui-bundle.js": "a file of `/docs`",
    "/docs/start.js": "a file of `/docs`",
    "/metrics": "Prometheus metrics of all workers",
}
"""What the paths return that the OpenAPI document leaves out."""
HEADERS: Mapping[str, tuple[str, str]] = {
    "content-type": ("request", "`application/json`, without charset or with `utf-8`"),
    "authorization": ("request", "`Bearer KEY`, where keys are required"),
    "x-api-key": ("request", "`KEY`, instead of `authorization`"),
    "retry-after": ("response", "with 429, and with 503 while keys are loaded: seconds to wait"),
    "www-authenticate": ("response", "with 401: how to authenticate"),
    "connection": ("response", "`close` if no further request is read, as with 408"),
}
"""Headers with a meaning of their own."""
ROW = {
    "id": "order-7341", "decision_time": "2024-05-01T12:30:00Z", "courier": 17, "depot": "north", "distance": 4.2,
}  # fmt: skip
_PREDICTION = {
    "prediction_id": "018f3b1c-0000-7000-8000-000000000001", "id": "order-7341",
    "decision_time": "2024-05-01T12:30:00Z", "score": 0.31, "prediction": "in time",
    "missing": [], "unknown": [],
}  # fmt: skip
_MODEL = {"version": 3, "sha256": "5d41402abc4b2a76b9719d911017c592ae2f0d7f5a8a4ff9ea3a5f0f6b0a3c11"}
RESPONSES: Mapping[str, dict[str, Any]] = {
    "/predict": {"model": _MODEL, "predictions": [_PREDICTION]},
    "/explain": {
        "model": _MODEL,
        "predictions": [
            _PREDICTION
            | {
                "base": -1.1,
                "margin": -0.8,
                "contributions": [
                    {"feature": "distance", "value": 4.2, "contribution": 0.5},
                    {"feature": "late_7d", "value": 0.08, "contribution": -0.2},
                ],
            }
        ],
    },
}
"""Examples of responses, which are tested against the document."""
ELSEWHERE: Mapping[int, str] = {
    404: "there is no such path; the response suggests the nearest one",
    405: "the path takes another method",
}
"""Statuses of requests that no operation of the OpenAPI document describes."""
REFUSAL = {
    "error": "the request violates the contract",
    "hint": "see /openapi.json",
    "faults": [{"row": 0, "field": "distance", "problem": "must be at least 0, got -3"}],
    "fault_count": 1,
}
"""An example of a response with status 422."""


def example_document() -> dict[str, Any]:
    """The OpenAPI document of the example."""
    problem = Problem(
        name="deliveries",
        kind="binary",
        description="Will the delivery be late?",
        tables=(Table("orders", source=Files("orders.csv"), time="at", columns={"at": Time()}),),
        spine="spine.sql",
        label=Label(sql="label.sql", closes_after=hours(24), description="late"),
        request={
            "courier": Integer("number of the courier", ge=0, feature=False),
            "depot": Text("depot of departure", one_of=("north", "south")),
            "distance": Float("distance to the customer", unit="km", ge=0),
        },
        entities=(Entity("courier"),),
    )
    kinds = {"depot": "category", "distance": "float", "late_7d": "float"}
    vocabulary = Vocabulary(kinds=kinds, categories={"depot": ("north", "south")}, classes=("in time", "late"))
    return openapi.document(Contract.of(problem, vocabulary, [dict(ROW)]), "3")


def page() -> str:
    """The Markdown of the page."""
    document = example_document()
    sections = [f"## Paths\n\n{_paths(document)}", f"## Headers\n\n{_headers()}"]
    for path, operations in document["paths"].items():
        sections += [_operation(path, method, operation) for method, operation in operations.items()]
    sections += ["## Schemas\n", *(_schema(name, each) for name, each in document["components"]["schemas"].items())]
    return markdown.page("HTTP", INTRO, *sections)


def paths(document: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """The method and meaning of every path that an endpoint answers."""
    described = {
        path: (method.upper(), operation["summary"])
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    return described | {path: (METHODS[path], about) for path, about in ABOUT.items()}


def _paths(document: Mapping[str, Any]) -> str:
    rows = [[code(path), method, _scope(path), sentence(what)] for path, (method, what) in paths(document).items()]
    intro = "A path with `GET` also answers `HEAD`. The scope is that of the key, where keys are required.\n\n"
    table = markdown.table(["path", "method", "scope", "what it returns"], rows)
    others = " ".join(f"{code(status)}: {sentence(what)}" for status, what in ELSEWHERE.items())
    return f"{intro}{table}\nFor all other requests: {others}\n"


def _scope(path: str) -> str:
    if path in OPEN or (path.startswith("/docs") and path != "/docs.json"):
        return "no key needed"
    return code(SCOPES[path]) if path in SCOPES else "any"


def _headers() -> str:
    rows = [[code(name), side, sentence(what)] for name, (side, what) in HEADERS.items()]
    return markdown.table(["header", "in the", "meaning"], rows)


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    parts = [f"## {method.upper()} {path}\n", f"{sentence(operation['summary'])}\n"]
    if body := operation.get("requestBody"):
        content = body["content"]["application/json"]
        parts.append(f"Request: {_type(content['schema'])}. An example:\n")
        parts += [_json(each["value"]) for each in list(content.get("examples", {}).values())[:1]]
    if path in RESPONSES:
        parts.append(f"An example of a response:\n\n{_json(RESPONSES[path])}")
        parts.append(f"An example of a response with status 422:\n\n{_json(REFUSAL)}")
    rows = [[code(status), each["description"], _content(each)] for status, each in operation["responses"].items()]
    return "\n".join([*parts, markdown.table(["status", "meaning", "body"], rows)])


def _content(response: Mapping[str, Any]) -> str:
    return any_of(_type(each["schema"]) for each in response.get("content", {}).values())


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    parts = [f"### {name}\n"]
    if text := schema.get("description"):
        parts.append(f"{sentence(text)}\n")
    if not schema.get("properties"):
        return "\n".join([*parts, "A JSON object.\n"])
    required = schema.get("required", ())
    rows = [
        [code(each), _type(part), "yes" if each in required else "no", _meaning(part)]
        for each, part in schema["properties"].items()
    ]
    return "\n".join([*parts, markdown.table(["member", "type", "required", "meaning"], rows)])


def _meaning(schema: Mapping[str, Any]) -> str:
    return sentence(schema.get("description", "").replace(" — ", ". "))


def _type(schema: Mapping[str, Any]) -> str:
    """A JSON Schema in words, with links to the named ones."""
    if reference := schema.get("$ref"):
        name = reference.rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if alternatives := schema.get("anyOf") or schema.get("oneOf"):
        return any_of(_type(each) for each in alternatives)
    if "enum" in schema:
        return any_of(code(json.dumps(each)) for each in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}{_limits(schema)}"
    if schema.get("properties"):
        return f"object with {', '.join(code(name) for name in schema['properties'])}"
    if isinstance(members := schema.get("additionalProperties"), Mapping):
        return f"object of {_type(members)} by name"
    kinds = schema.get("type", "any value")
    return f"{any_of([kinds] if isinstance(kinds, str) else kinds)}{_limits(schema)}"


def _limits(schema: Mapping[str, Any]) -> str:
    words = {
        "minimum": "at least {:,}", "maximum": "at most {:,}", "minItems": "at least {:,} of them",
        "maxItems": "at most {:,} of them", "maxLength": "at most {:,} characters",
    }  # fmt: skip
    shown = [text.format(schema[name]) for name, text in words.items() if name in schema and abs(schema[name]) < 2**53]
    return "".join(f", {each}" for each in shown)


def _json(value: Any) -> str:
    return f"```json\n{json.dumps(value, indent=2)}\n```\n"

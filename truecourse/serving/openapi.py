"""The contract as an OpenAPI 3.1 document, with examples from the problem's own data.

Responses are described by the schemas of their models (truecourse/serving/response_schemas.py).
"""

from truecourse.data.times import TIME_PATTERN
from truecourse.serving.contract import DECISION_TIME, ID, ID_LIMIT, INTEGERS, LARGEST_FLOAT, Contract, RequestField
from truecourse.serving.response_schemas import Schema, reference, response_schemas
from truecourse.unique_ids import LONGEST_KEY

_KINDS = {"text": "string", "integer": "integer", "float": "number", "boolean": "boolean", "time": "string"}
_REFUSALS = {
    "400": "The body is not valid JSON.",
    "401": "A valid API key is required.",
    "403": "The key lacks the scope.",
    "404": "There is no such view, or the endpoint accepts no rows of features.",
    "408": "The header or the body did not arrive in time.",
    "409": "The id was used for other rows.",
    "413": "The body is too long.",
    "414": "The request line is too long.",
    "415": "The content type is not application/json, or the charset is not UTF-8.",
    "422": "The rows violate the contract, and the response lists the faults; or the key was used with another body.",
    "429": "Too many requests from this caller or in total; retry after Retry-After seconds.",
    "431": "The header is too long.",
    "500": "An internal error; the server's log has the cause.",
    "503": "The model is still loading, or the online features cannot be read; retry after Retry-After seconds.",
    "504": "The request timed out.",
}
_TIME = "ISO 8601, as 2024-05-01T12:30:00Z, of the years 1678 to 2261; UTC where no offset is given."
_CALL_KEY: Schema = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "A new text for each call, as a UUID; the same one if a call is sent again, which then counts once.",
    "schema": {"type": "string", "minLength": 1, "maxLength": LONGEST_KEY, "pattern": r"^[!#-\[\]-~]+$"},
}
_OF_ANY_PATH = ("401", "403", "500", "503", "504")
_OF_SCORING = tuple(status for status in _REFUSALS if status not in ("404", "409"))
_LISTED = 50
"""Maximum number of categories in a description."""
UNICODE = r"^[^\ud800-\udfff]*$"
"""Text without lone surrogates, which JSON can express and UTF-8 cannot."""
_LIMITS: dict[str, Schema] = {
    "integer": {"minimum": INTEGERS[0], "maximum": INTEGERS[-1]},
    "float": {"minimum": -LARGEST_FLOAT, "maximum": LARGEST_FLOAT},
    "time": {"pattern": TIME_PATTERN},
}


def document(contract: Contract, version: str) -> Schema:
    """Build the OpenAPI document. `version`: the model's."""
    title = f"{contract.problem}: predictions"
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "description": contract.description or title},
        "paths": {
            "/predict": {"post": _scoring(contract, "predict", "Predict", "PredictionResponse")},
            "/explain": {"post": _scoring(contract, "explain", "Predict and explain", "ExplanationResponse")},
            "/features/{area}/{view}": {"post": _pushing()},
            "/model": {"get": _description("model", "The served model", reference("ModelResponse"))},
            "/healthz": {"get": _health()},
            "/livez": {"get": _probe("livez", "The process is alive")},
            "/readyz": {"get": _probe("readyz", "The model is loaded")},
        },
        "security": [{}, {"bearer": []}, {"header": []}],  # keys are optional
        "components": {
            "schemas": _schemas(contract),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _scoring(contract: Contract, name: str, summary: str, response: str) -> Schema:
    examples = {f"row {i + 1}": {"value": {"rows": [row]}} for i, row in enumerate(contract.examples)}
    if len(contract.examples) > 1:
        examples["all"] = {"value": {"rows": list(contract.examples)}}
    content: Schema = {"schema": reference("Request")}
    if examples:
        content["examples"] = examples
    return {
        "operationId": name,
        "summary": summary,
        "parameters": [_CALL_KEY],
        "requestBody": {"required": True, "content": {"application/json": content}},
        "responses": {
            "200": _json("One prediction per row, in order.", reference(response)),
            **_errors(*_OF_SCORING),
        },
    }


def _pushing() -> Schema:
    """The push of rows to the table of a view. The rows' columns are those of that table, and are no part of the
    contract."""
    texts = {
        "id": "Of the push: what is sent again with it counts once. Default: Idempotency-Key, or SHA-256 of the rows.",
        "table": "The table, for a view that reads several.",
    }
    names = {"area": "A feature area that the model uses, or its problem.", "view": "A view or a table of it."}
    text = {"type": "string"}
    parameters = [
        *({"name": n, "in": "path", "required": True, "description": d, "schema": text} for n, d in names.items()),
        *({"name": n, "in": "query", "description": d, "schema": text} for n, d in texts.items()),
        _CALL_KEY,
    ]
    rows = {"type": "array", "items": {"type": "object"}, "minItems": 1}
    return {
        "operationId": "push",
        "summary": "Push rows of a view's table",
        "parameters": parameters,
        "requestBody": {"required": True, "content": {"application/json": {"schema": _object({"rows": rows})}}},
        "responses": {"200": _json("The rows are stored.", reference("PushResponse")), **_errors(*_REFUSALS)},
    }


def _description(name: str, summary: str, schema: Schema) -> Schema:
    return {
        "operationId": name, "summary": summary, "responses": {"200": _json(summary, schema), **_errors(*_OF_ANY_PATH)}
    }  # fmt: skip


def _health() -> Schema:
    operation = _description("healthz", "Detailed health of the endpoint", reference("HealthResponse"))
    failing = {"anyOf": [reference("HealthResponse"), reference("ErrorResponse")]}
    operation["responses"]["503"] = _json("Predictions are impossible, or the request was refused.", failing)
    return operation


def _probe(name: str, summary: str) -> Schema:
    """A probe of a cluster, which needs no key."""
    text = {"text/plain": {"schema": {"type": "string"}}}
    answers = {"200": {"description": summary, "content": text}, "500": {"description": "Not yet.", "content": text}}
    return {"operationId": name, "summary": summary, "security": [], "responses": {**answers, **_errors("503")}}


def _errors(*statuses: str) -> Schema:
    return {status: _json(_REFUSALS[status], reference("ErrorResponse")) for status in statuses}


def _json(description: str, schema: Schema) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _object(properties: Schema, optional: tuple[str, ...] = ()) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def _schemas(contract: Contract) -> Schema:
    rows = {"type": "array", "items": reference("Row"), "minItems": 1, "maxItems": contract.max_rows}
    return {"Request": _object({"rows": rows}), "Row": _row(contract), **response_schemas(contract)}


def _row(contract: Contract) -> Schema:
    properties = {field.name: _field(field, contract.unknown_category == "reject") for field in contract.fields}
    optional = tuple(field.name for field in contract.fields if field.nulls)
    if ID in contract.extras:
        what = "Your id; returned with the prediction."
        text = {"maxLength": ID_LIMIT, "pattern": UNICODE}
        properties[ID] = {"type": ["string", "integer", "null"], "description": what, **text, **_LIMITS["integer"]}
    if DECISION_TIME in contract.extras:
        what = f"The time as of which features are looked up; default: now. {_TIME}"
        properties[DECISION_TIME] = {"type": ["string", "null"], "description": what, **_LIMITS["time"]}
    return _object(properties, optional + contract.extras) | {"examples": list(contract.examples)}


def _field(field: RequestField, reject: bool) -> Schema:
    kind = _KINDS[field.type]
    schema: Schema = {"type": [kind, "null"] if field.nulls else kind, **_LIMITS.get(field.type, {})}
    limits = {"minimum": field.ge, "maximum": field.le}
    schema |= {name: limit for name, limit in limits.items() if limit is not None}
    if field.type == "text":
        schema |= _text(field)
    if field.type == "integer":
        schema["format"] = "int64"
    taken = field.one_of or (field.known if reject else None)
    if taken is not None:
        schema["enum"] = [*taken, None] if field.nulls else list(taken)
    description = [field.description] if field.description else []
    if field.type == "time":
        description.append(_TIME)
    if taken is None and field.known is not None:
        shown = ", ".join(field.known[:_LISTED]) + (", ..." if len(field.known) > _LISTED else "")
        description.append(f"Known categories: {shown}. Other values count as missing, and are flagged.")
    return schema | ({"description": " — ".join(description)} if description else {})


def _text(field: RequestField) -> Schema:
    schema: Schema = {} if field.one_of else {"maxLength": field.most_characters}
    if field.pattern is None:
        return schema if field.one_of else schema | {"pattern": UNICODE}
    return schema | {"pattern": field.pattern, "allOf": [{"pattern": UNICODE}]}

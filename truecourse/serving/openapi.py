"""The contract as an OpenAPI 3.1 document, with examples from the problem's own data."""

from typing import Any

from truecourse.data.times import TIME_PATTERN
from truecourse.serving.contract import DECISION_TIME, ID, ID_LIMIT, INTEGERS, LARGEST_FLOAT, Contract, RequestField

Schema = dict[str, Any]
_KINDS = {"text": "string", "integer": "integer", "float": "number", "boolean": "boolean", "time": "string"}
_REFUSALS = {
    "400": "The body is not valid JSON.",
    "401": "A valid API key is required.",
    "403": "The key lacks the scope.",
    "408": "The header or the body did not arrive in time.",
    "413": "The body is too long.",
    "414": "The request line is too long.",
    "415": "The content type is not application/json, or the charset is not UTF-8.",
    "422": "The rows violate the contract; the response lists the faults.",
    "429": "Too many requests from this caller or in total; retry after Retry-After seconds.",
    "431": "The header is too long.",
    "503": "The online features cannot be read.",
    "504": "The request timed out.",
}
_TIME = "ISO 8601, as 2024-05-01T12:30:00Z, of the years 1678 to 2261; UTC where no offset is given."
_REFUSAL: Schema = {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}}
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
            "/predict": {"post": _operation(contract, "predict", "Predict", "Prediction")},
            "/explain": {"post": _operation(contract, "explain", "Predict and explain", "Explanation")},
            "/model": {"get": _plain("model", "The served model", {"$ref": "#/components/schemas/Model"})},
            "/healthz": {"get": _plain("healthz", "Detailed health of the endpoint", {"type": "object"})},
            "/livez": {"get": _plain("livez", "The process is alive", None)},
            "/readyz": {"get": _plain("readyz", "The model is loaded", None)},
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


def _operation(contract: Contract, name: str, summary: str, answer: str) -> Schema:
    examples = {f"row {i + 1}": {"value": {"rows": [row]}} for i, row in enumerate(contract.examples)}
    if len(contract.examples) > 1:
        examples["all"] = {"value": {"rows": list(contract.examples)}}
    content: Schema = {"schema": {"$ref": "#/components/schemas/Request"}}
    if examples:
        content["examples"] = examples
    return {
        "operationId": name,
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": content}},
        "responses": {
            "200": {"description": "One prediction per row, in order.", "content": _json(_answer(answer))},
            **{status: {"description": why, "content": _REFUSAL} for status, why in _REFUSALS.items()},
        },
    }


def _plain(name: str, summary: str, schema: Schema | None) -> Schema:
    answer: Schema = {"description": summary}
    if schema:
        answer["content"] = _json(schema)
    refused = {
        status: {"description": _REFUSALS[status], "content": _REFUSAL} for status in ("401", "403", "503", "504")
    }
    return {"operationId": name, "summary": summary, "responses": {"200": answer, **refused}}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _answer(of: str) -> Schema:
    rows = {"type": "array", "items": {"$ref": f"#/components/schemas/{of}"}}
    return _object({"model": _identity(), "predictions": rows})


def _identity() -> Schema:
    return _object({"version": {"type": "integer"}, "sha256": {"type": "string"}})


def _object(properties: Schema, optional: tuple[str, ...] = ()) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def _schemas(contract: Contract) -> Schema:
    rows = {"type": "array", "items": {"$ref": "#/components/schemas/Row"}}
    prediction = _prediction(contract)
    explanation = {**prediction, "properties": {**prediction["properties"], **_reasons(contract)}}
    explanation["required"] = prediction["required"] + list(_reasons(contract))
    return {
        "Request": _object({"rows": rows | {"minItems": 1, "maxItems": contract.max_rows}}),
        "Row": _row(contract),
        "Prediction": prediction,
        "Explanation": explanation,
        "Model": {"type": "object"},
        "Refusal": _refusal(),
    }


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


def _prediction(contract: Contract) -> Schema:
    given: Schema = {"prediction_id": {"type": "string", "description": "id in the prediction log"}}
    if ID in contract.extras:
        given[ID] = {"type": ["string", "integer"], "description": "as sent"}
    if contract.has_time:
        given[DECISION_TIME] = {"type": "string", "format": "date-time"}
    features = {"type": "array", "items": {"type": "string"}}
    flags = {
        "missing": features | {"description": "features without a value, or without a fresh one"},
        "unknown": features | {"description": "features with an unknown category"},
    }
    other = {"model": _identity() | {"description": "the model of this prediction, if it is not the one above"}}
    other["warning"] = {"type": "string", "description": "why most features are missing, if they are"}
    other["unavailable"] = features | {"description": "feature views that could not be read from the online store"}
    return _object({**given, **_outcome(contract), **flags, **other}, optional=(ID, "model", "unavailable", "warning"))


def _outcome(contract: Contract) -> Schema:
    share = {"type": "number", "minimum": 0, "maximum": 1}
    name = {"type": "string", "enum": list(contract.classes)}
    if contract.kind == "regression":
        value = {"type": "number", "description": contract.label}
        return {"score": value, "prediction": value}
    if contract.kind == "binary":
        what = f"{contract.label}: the probability of {contract.classes[-1]}"
        return {"score": share | {"description": what}, "prediction": name | {"description": "the likelier class"}}
    scores = _object(dict.fromkeys(contract.classes, share)) | {"description": f"{contract.label}: probabilities"}
    return {"scores": scores, "prediction": name | {"description": "the likeliest class"}}


def _reasons(contract: Contract) -> Schema:
    of = " of the predicted class" if contract.kind == "multiclass" else ""
    value = {"type": ["string", "number", "boolean", "null"]}
    item = _object({"feature": {"type": "string"}, "value": value, "contribution": {"type": "number"}})
    margin = f"The score{of} before the link function; the sum of base and contributions."
    return {
        "base": {"type": "number", "description": f"The margin{of} of the average training row."},
        "margin": {"type": "number", "description": margin},
        "contributions": {"type": "array", "items": item, "description": "Exact SHAP values, largest first."},
    }


def _refusal() -> Schema:
    place = {"row": {"type": "integer"}, "field": {"type": ["string", "null"]}, "problem": {"type": "string"}}
    return {
        "type": "object",
        "properties": {
            "error": {"type": "string"},
            "hint": {"type": "string"},
            "faults": {"type": "array", "items": _object(place), "description": "the first faults"},
            "fault_count": {"type": "integer"},
        },
        "required": ["error"],
    }

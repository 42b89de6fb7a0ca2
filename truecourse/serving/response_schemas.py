"""JSON schemas of the endpoint's responses: those of the models in truecourse/responses.py, narrowed to a contract.

The models hold what any problem's endpoint sends. A contract determines which members of a prediction are present, the
classes and the type of the label.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from truecourse.responses import (
    ErrorResponse,
    ExplanationResponse,
    HealthResponse,
    ModelResponse,
    PredictionResponse,
    PushResponse,
    Response,
)
from truecourse.serving.contract import DECISION_TIME, ID, Contract

Schema = dict[str, Any]
_PLACE = "#/components/schemas/{model}"


class _WithoutTitles(GenerateJsonSchema):
    """Generates schemas without a title for each member: it would repeat the name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def reference(name: str) -> Schema:
    """Build a reference to a schema of the document's components."""
    return {"$ref": _PLACE.format(model=name)}


def response_schemas(contract: Contract) -> dict[str, Schema]:
    """Build the schemas of all responses, by name, as components of an OpenAPI document."""
    models: list[type[Response]] = [
        PredictionResponse, ExplanationResponse, PushResponse, ModelResponse, ErrorResponse, HealthResponse
    ]  # fmt: skip
    _, document = models_json_schema(
        [(model, "validation") for model in models], ref_template=_PLACE, schema_generator=_WithoutTitles
    )
    schemas = {name: _as_sent(schema) for name, schema in document["$defs"].items()}
    for name in ("Prediction", "Explanation"):
        _narrow(schemas[name], contract)
    return schemas


def _as_sent(schema: Schema) -> Schema:
    """Convert a model's schema to what is sent: no unknown members; a member with a default is absent, never null."""
    members = {name: _without_default(member) for name, member in schema["properties"].items()}
    return {**schema, "properties": members, "additionalProperties": False}


def _without_default(member: Schema) -> Schema:
    rest = {name: value for name, value in member.items() if name != "default"}
    if member.get("default", ...) is not None:
        return rest
    (*others, null) = rest.pop("anyOf")
    assert null == {"type": "null"}
    return (others[0] if len(others) == 1 else {"anyOf": others}) | rest


def _narrow(schema: Schema, contract: Contract) -> None:
    """Narrow the schema of a prediction or explanation to what the contract's model returns."""
    members, present = schema["properties"], ["scores" if contract.kind == "multiclass" else "score"]
    if contract.has_time:
        present.append(DECISION_TIME)
    if contract.interval is not None:
        present += ["lower", "upper"]
    if contract.kind == "regression":
        members["score"] |= {"description": contract.label}
        members["prediction"] = {"type": "number", "description": contract.label}
    else:
        rule = contract.decision
        chosen = "the likeliest class" if rule is None else f"the class by the decision rule: {rule.purpose}"
        members["prediction"] = {"enum": list(contract.classes), "type": "string", "description": chosen}
        members |= _probabilities(contract)
    _require(schema, present)
    offered = {ID} & set(contract.extras)
    _remove(schema, {"score", "scores", "lower", "upper", DECISION_TIME, ID} - {*present, *offered})


def _probabilities(contract: Contract) -> Mapping[str, Schema]:
    probability = {"type": "number", "minimum": 0, "maximum": 1}
    if contract.kind == "binary":
        return {"score": {**probability, "description": f"{contract.label}: the probability of {contract.classes[-1]}"}}
    by_class = dict.fromkeys(contract.classes, probability)
    rest = {"required": list(contract.classes), "additionalProperties": False}
    return {
        "scores": {"type": "object", "properties": by_class, **rest, "description": f"{contract.label}: probabilities"}
    }


def _require(schema: Schema, names: Iterable[str]) -> None:
    required = {*schema["required"], *names}
    schema["required"] = [name for name in schema["properties"] if name in required]


def _remove(schema: Schema, names: Iterable[str]) -> None:
    for name in names:
        del schema["properties"][name]

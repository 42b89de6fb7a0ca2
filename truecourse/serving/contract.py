"""The request contract: the fields of a request and their limits, from the problem and the trained vocabulary.

It is stored with the model as contract.json, so that a model is always served with the contract it was trained with.
truecourse/serving/request_reader.py reads requests by it, truecourse/serving/openapi.py describes it to clients.
"""

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from truecourse.modeling.decisions import DecisionRule
from truecourse.modeling.encoding import Vocabulary
from truecourse.modeling.intervals import IntervalRule
from truecourse.problem import Problem
from truecourse.problem.definition import Kind
from truecourse.problem.schema import AnyColumn, Boolean, Float, Integer, Text, Time, constraints, shown_unit
from truecourse.wording import with_unit

FieldType = Literal["text", "integer", "float", "boolean", "time"]
TYPES: Mapping[type, FieldType] = {
    Text: "text", Integer: "integer", Float: "float", Boolean: "boolean", Time: "time",
}  # fmt: skip

ID_LIMIT = 256
"""Maximum characters of an id."""
TEXT_LENGTH = 4096
"""Maximum characters of a text whose column declares no max_length."""
INTEGERS = range(-(2**63), 2**63)
LARGEST_FLOAT = sys.float_info.max
BODY_LIMIT = 8 << 20
EXAMPLES = 3
ID, DECISION_TIME = "id", "decision_time"


class RequestField(BaseModel):
    """One field of a row. `known`: the categories in the training rows, for a categorical feature."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    type: FieldType
    description: str = ""
    nulls: bool = False
    ge: int | float | None = None
    le: int | float | None = None
    one_of: tuple[int | str, ...] | None = None
    pattern: str | None = None
    max_length: int | None = None
    known: tuple[str, ...] | None = None

    @classmethod
    def of(cls, name: str, column: AnyColumn, known: tuple[str, ...] | None, *, needed: bool = True) -> Self:
        """Build a field from its column. `needed`: predictions depend on it; else it is optional and has no limits."""
        # Violations of severity info are in the training rows too: no reason to refuse a request.
        free = column.severity == "info" or not needed
        limits = {} if free else constraints(column)
        limits.pop("in_table", None)
        description = with_unit(column.description, shown_unit(column))
        kind, nulls = TYPES[type(column)], column.nulls or free
        if kind == "text" and "one_of" not in limits:
            limits.setdefault("max_length", TEXT_LENGTH)
        return cls(
            name=name,
            type=kind,
            description=description,
            nulls=nulls,
            known=known,
            **limits,
        )

    @property
    def most_characters(self) -> int:
        """The maximum number of characters of a text."""
        longest = max(map(len, map(str, self.one_of)), default=0) if self.one_of else TEXT_LENGTH
        return self.max_length if self.max_length is not None else longest

    @property
    def bytes(self) -> int:
        """The maximum bytes of the field in a request, with every character escaped."""
        return len(self.name.encode()) + 8 + (12 * self.most_characters if self.type == "text" else 40)


class Contract(BaseModel):
    """The fields of requests and the meaning of responses. `examples`: valid rows of real data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    problem: str
    description: str
    kind: Kind
    label: str
    classes: tuple[str, ...]
    fields: tuple[RequestField, ...]
    has_time: bool
    max_rows: int
    unknown_category: Literal["reject", "missing"]
    definitions: dict[str, str] = {}
    """Digests of the definitions of each feature and of the label: truecourse/features/definition_digests.py."""
    label_definition: str = ""
    examples: tuple[dict[str, Any], ...] = ()
    decision: DecisionRule | None = None
    """How scores become the predicted class; None for the likeliest class."""
    interval: IntervalRule | None = None
    """The bounds of a regression's predictions; None for none."""

    @classmethod
    def of(cls, problem: Problem, vocabulary: Vocabulary, examples: list[dict[str, Any]] | None = None) -> Self:
        # New values of a pooled feature belong to its last category.
        known = {name: values for name, values in vocabulary.categories.items() if name not in vocabulary.pooled}
        fields = [
            RequestField.of(name, column, known.get(name), needed=name in problem.needed_fields)
            for name, column in problem.request_fields.items()
        ]
        return cls(
            problem=problem.name,
            description=problem.description,
            kind=problem.kind,
            label=with_unit(problem.label.description or problem.label.column or "label", problem.label_unit),
            classes=vocabulary.classes,
            fields=tuple(fields),
            has_time=problem.has_time,
            max_rows=problem.serving.max_rows,
            unknown_category=problem.serving.unknown_category,
            examples=tuple(examples or ()),
        )

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        return cls.model_validate_json(data)

    def to_json(self) -> bytes:
        document = self.model_dump(mode="json", exclude_defaults=True)
        return json.dumps(document, indent=1, ensure_ascii=False).encode()

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.fields)

    @cached_property
    def extras(self) -> tuple[str, ...]:
        """The optional members of a row besides its fields: `id`, and `decision_time` if the problem has time."""
        offered = (ID, DECISION_TIME) if self.has_time else (ID,)
        return tuple(name for name in offered if name not in self.names)

    @cached_property
    def max_bytes(self) -> int:
        """The maximum length of a request body."""
        row = 400 + sum(field.bytes for field in self.fields)
        return min(1024 + self.max_rows * row, BODY_LIMIT)


def contract_bytes(
    problem: Problem, vocabulary: Vocabulary, frame: pa.Table, defined: Mapping[str, Any] | None = None
) -> bytes:
    """Build contract.json of a model trained on this frame, with examples from its last rows. `defined`: definitions,
    from truecourse/features/definition_digests.py."""
    from truecourse.serving.request_reader import RowReader

    bare = Contract.of(problem, vocabulary)
    names = [name for name in (*bare.extras, *bare.names) if name in frame.column_names]
    rows = [example(row) for row in frame.select(names).slice(max(0, len(frame) - 200)).to_pylist()]
    kept = RowReader(bare).read(rows, datetime.now(UTC)).accepted
    spread = [kept[i * len(kept) // EXAMPLES] for i in range(EXAMPLES)] if len(kept) >= EXAMPLES else kept
    return Contract.of(problem, vocabulary, [rows[i] for i in spread]).model_copy(update=defined or {}).to_json()


def example(row: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a row to JSON values: times as ISO 8601 in UTC, without missing values."""
    return {
        name: value.astimezone(UTC).isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value
        for name, value in row.items()
        if value is not None
    }

"""Between columns and Feast's protocol messages, by declared type."""

from collections.abc import Iterable, Sequence
from typing import Any

from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from truecourse.schema import AnyColumn, Boolean, Float, Integer, Text

EXACT_EVENT = "__event_us"
"""A value beside the features: the event time in microseconds. The sqlite store keeps whole seconds only, and reads
them by the clock of the machine's time zone."""


def field_of(column: AnyColumn) -> str:
    """The field of a Value that holds this type."""
    for kind, field in ((Text, "string_val"), (Integer, "int64_val"), (Float, "double_val"), (Boolean, "bool_val")):
        if isinstance(column, kind):
            return field
    return "unix_timestamp_val"


def value(field: str, given: Any) -> Value:
    """A Value; one with nothing in it for None."""
    if given is None:
        return Value()
    if field == "unix_timestamp_val":
        return Value(unix_timestamp_val=int(given.timestamp()))
    return Value(**{field: given})


def entity_keys(names: Sequence[str], fields: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> list[EntityKey]:
    """One key a row; `rows` hold the values of `names`, none of them missing."""
    return [
        EntityKey(
            join_keys=names, entity_values=[value(field, given) for field, given in zip(fields, row, strict=True)]
        )
        for row in rows
    ]


def values_of(field: str, values: Sequence[Value | None]) -> list[Any]:
    """n values as Python's own, None for one with nothing in it, and for NaN. `field`: field_of() their column."""
    found = [getattr(v, field) if v is not None and v.WhichOneof("val") else None for v in values]
    return [None if v != v else v for v in found] if field == "double_val" else found

"""Aggregations as tags of Feast's objects, so that `feast` commands can evaluate them without the problem."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pyarrow as pa

import truecourse.problem
from truecourse.data.arrow_types import arrow_type
from truecourse.problem import Aggregations
from truecourse.problem.loader import declaration_document
from truecourse.problem.schema import RESERVED_TAG, AnyColumn

_TAG = f"{RESERVED_TAG}aggregations"
_DURATIONS = ("window", "known_ahead")


@dataclass(frozen=True)
class TaggedAggregations:
    """Aggregations, and the Arrow types of their features."""

    view: Aggregations
    types: dict[str, pa.DataType]


def tags_of(view: Aggregations, columns: Mapping[str, AnyColumn]) -> dict[str, str]:
    """The tags of the Feast source and view of Aggregations with these feature columns."""
    return {_TAG: json.dumps([declaration_document(view), declaration_document(columns)])}


def tagged_aggregations(tags: Mapping[str, str]) -> TaggedAggregations | None:
    """The Aggregations that the tags hold; None if they hold none."""
    if _TAG not in tags:
        return None
    view, columns = _declaration(json.loads(tags[_TAG]))
    return TaggedAggregations(view, {name: arrow_type(column) for name, column in columns.items()})


def _declaration(document: Any) -> Any:
    """The inverse of declaration_document() for Aggregations, their functions and columns."""
    if isinstance(document, list):
        return [_declaration(part) for part in document]
    if not isinstance(document, dict):
        return document
    name = document.get("is")
    if not isinstance(name, str):
        return {key: _declaration(part) for key, part in document.items()}
    values = {
        key: timedelta(seconds=part) if key in _DURATIONS else _declaration(part)
        for key, part in document.items()
        if key != "is"
    }
    return getattr(truecourse.problem, name)(**values)

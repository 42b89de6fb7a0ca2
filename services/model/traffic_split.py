"""The traffic split: the challenger answers a share of the entities, the champion all others."""

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

from services.model.predictor import Predictor
from truecourse.problem import Problem
from truecourse.serving.rows import Rows


@dataclass(frozen=True)
class TrafficSplit:
    """Champion, challenger and the challenger's traffic weight, from entry `number` of the aliases (0: none was read).

    Immutable: a worker replaces it as a whole, and a request keeps the one that it started with."""

    champion: Predictor
    challenger: Predictor | None = None
    shadow: bool = False
    share: float = 0.0
    number: int = 0

    def challenger_rows(self, rows: Rows) -> list[int]:
        """Indices of the rows that the challenger answers."""
        if self.challenger is None or not self.share:
            return []
        return [i for i in range(len(rows)) if traffic_position(self.champion.problem, rows, i) < self.share]


def traffic_position(problem: Problem, rows: Rows, i: int) -> float:
    """Position of a row's entity in [0, 1), by a hash: the same in every process and at every time.

    It does not depend on the models: an entity below a traffic weight is below every larger one. The entity is all keys
    of the problem's entities; without keys it is the row's id, or else the whole row."""
    keys = problem.entity_keys
    if keys:
        entity: Any = [exact_text(rows, key, i) for key in keys]
    else:
        entity = rows.ids[i] if rows.ids[i] is not None else rows.given[i]
    text = json.dumps([problem.name, entity], sort_keys=True, default=str)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def exact_text(rows: Rows, name: str, i: int) -> Any:
    """A key in a form that does not depend on the other rows: floats with NaN, exact integers, times as text."""
    kind, given = rows.types[name], rows.values[name][i]
    if kind == "time":
        return "NaT" if given is None else given.isoformat(timespec="microseconds")
    if kind in ("float", "boolean"):
        return math.nan if given is None else float(given)
    return given

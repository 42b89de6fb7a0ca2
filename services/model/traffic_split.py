"""Who answers a request: the champion, or the challenger for its share of the entities."""

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

from services.model.predictor import Predictor
from truecourse.problem import Problem
from truecourse.references import Aliases
from truecourse.serving.rows import Rows


@dataclass(frozen=True)
class TrafficSplit:
    """The models in office, by the aliases' entry `number` (0: none was read). Never changed, only replaced: a request
    is answered by those it began with."""

    champion: Predictor
    challenger: Predictor | None = None
    shadow: bool = False
    share: float = 0.0
    number: int = 0

    def challenged(self, rows: Rows) -> list[int]:
        """The places of the rows that the challenger answers."""
        if self.challenger is None or not self.share:
            return []
        return [i for i in range(len(rows)) if traffic_position(self.champion.problem, rows, i) < self.share]


def is_challenger_active(aliases: Aliases) -> bool:
    """Whether the challenger has anything to do."""
    return aliases.challenger is not None and (aliases.shadow or aliases.share > 0)


def traffic_position(problem: Problem, rows: Rows, i: int) -> float:
    """Where a row's entity stands, 0 <= place < 1: the same in every process and at every time. It does not depend on
    the models, so an entity below a share is below every wider one.

    The entity is all keys of the problem's entities; where it has none the row's id, or else all that was sent."""
    keys = list(dict.fromkeys(key for entity in problem.entities for key in entity.join_keys))
    if keys:
        entity: Any = [_exact(rows, key, i) for key in keys]
    else:
        entity = rows.ids[i] if rows.ids[i] is not None else rows.given[i]
    text = json.dumps([problem.name, entity], sort_keys=True, default=str)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _exact(rows: Rows, name: str, i: int) -> Any:
    """The same for a row alone and among many: numbers as float64 with NaN, whole numbers exact, times as text."""
    kind, given = rows.types[name], rows.values[name][i]
    if kind == "time":
        return "NaT" if given is None else given.isoformat(timespec="microseconds")
    if kind in ("float", "boolean"):
        return math.nan if given is None else float(given)
    return given

"""Changes of numeric values: unit conversions, and arithmetic with a constant for injected faults."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from truecourse.arrays import Array

CONVERSIONS: dict[str, tuple[float, float]] = {
    "f_to_c": (5 / 9, -160 / 9),
    "c_to_f": (9 / 5, 32.0),
    "mi_to_km": (1.609344, 0.0),
    "km_to_mi": (1 / 1.609344, 0.0),
    "in_to_mm": (25.4, 0.0),
    "mph_to_ms": (0.44704, 0.0),
    "min_to_s": (60.0, 0.0),
    "s_to_min": (1 / 60, 0.0),
}
"""Factor and offset of each named conversion."""
FORMS = f"{', '.join(CONVERSIONS)}, *NUMBER, /NUMBER, +NUMBER or -NUMBER"
_ARITHMETIC = re.compile(r"([*/+-])(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class UnitChange:
    """value * factor + offset."""

    factor: float
    offset: float

    def __call__(self, values: Array) -> Array:
        with np.errstate(over="ignore"):  # beyond the range of a double it is infinite
            return np.asarray(values * self.factor + self.offset)


def parse_change(text: str) -> UnitChange | None:
    """Parse a change; None for an invalid text, or for one that changes nothing."""
    if text in CONVERSIONS:
        return UnitChange(*CONVERSIONS[text])
    match = _ARITHMETIC.fullmatch(text)
    if match is None:
        return None
    number = float(match[2])
    operations: dict[str, Callable[[], UnitChange]] = {
        "*": lambda: UnitChange(number, 0.0),
        "/": lambda: UnitChange(1 / number if number else math.inf, 0.0),
        "+": lambda: UnitChange(1.0, number),
        "-": lambda: UnitChange(1.0, -number),
    }
    parsed = operations[match[1]]()
    return parsed if parsed != UnitChange(1.0, 0.0) and math.isfinite(parsed.factor) and parsed.factor else None

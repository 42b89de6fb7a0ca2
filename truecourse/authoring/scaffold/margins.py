"""Ranges for a column's values: the observed range plus a margin."""

import sys
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

_INTEGER = 2**63 - 1
_FLOAT = sys.float_info.max


def with_margin(low: float, high: float) -> tuple[float, float]:
    """Extend a range by its width on either side, to round numbers; not across zero if no observed value is.

    Integers stay integers. The result fits in 64 bits."""
    least, most = Decimal(low), Decimal(high)
    span = (most - least) or abs(most) or Decimal(1)
    under = Decimal(0) if least >= 0 and least - span <= 0 else _rounded(least - span, ROUND_FLOOR)
    over = Decimal(0) if most <= 0 and most + span >= 0 else _rounded(most + span, ROUND_CEILING)
    if isinstance(low, int) and isinstance(high, int):
        return max(int(under), -_INTEGER), min(int(over), _INTEGER)
    return max(float(under), -_FLOAT), min(float(over), _FLOAT)


def _rounded(value: Decimal, mode: str) -> Decimal:
    """Round to two significant digits, away from the observed values; whole numbers stay whole."""
    if not value:
        return value
    step = Decimal(1).scaleb(value.adjusted() - 1)
    if value == value.to_integral_value():
        step = max(step, Decimal(1))
    return (value / step).to_integral_value(rounding=mode) * step

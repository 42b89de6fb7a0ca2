"""Split numbers into odd integers and powers of 2, compiled. Import it lazily: importing Numba takes a quarter of a
second."""

import math
from typing import Any

import numpy as np
from numba import njit

from truecourse.arrays import Array


@njit(nogil=True, cache=True)
def split_floats(values: Array, valid: Array, odds: Array, shifts: Array) -> Any:
    """Write the odd integers and shifts of finite doubles. Return their common exponent, the largest shift, and the
    number of bits of the largest odd * 2**shift."""
    exponent = 1 << 20
    for row in range(len(values)):
        odds[row] = shifts[row] = 0
        if valid[row] and values[row] != 0:
            fraction, power = math.frexp(values[row])
            number = np.int64(math.ldexp(fraction, 53))
            zeros = _trailing_zeros(number)
            odds[row], shifts[row] = number >> zeros, power - 53 + zeros
            exponent = min(exponent, shifts[row])
    return _shift(odds, shifts, exponent)


@njit(nogil=True, cache=True)
def split_integers(values: Array, valid: Array, odds: Array, shifts: Array) -> Any:
    """As split_floats() for int64."""
    exponent = 1 << 20
    for row in range(len(values)):
        odds[row] = shifts[row] = 0
        if valid[row] and values[row] != 0:
            zeros = _trailing_zeros(values[row])
            odds[row], shifts[row] = values[row] >> zeros, zeros
            exponent = min(exponent, zeros)
    return _shift(odds, shifts, exponent)


@njit(nogil=True, cache=True)
def _shift(odds: Array, shifts: Array, exponent: int) -> Any:
    most = widest = 0
    for row in range(len(odds)):
        if odds[row]:
            shifts[row] -= exponent
            most = max(most, shifts[row])
            number, bits = abs(odds[row]), shifts[row]
            while number:
                number, bits = number >> 1, bits + 1
            widest = max(widest, bits)
    return (exponent if exponent < 1 << 20 else 0), most, widest


@njit(nogil=True, cache=True)
def _trailing_zeros(number: Any) -> int:
    zeros = 0
    while not (number >> zeros) & 0xFF:
        zeros += 8
    while not (number >> zeros) & 1:
        zeros += 1
    return zeros


@njit(nogil=True, cache=True)
def widen(odds: Array, shifts: Array, high: Array, low: Array) -> None:
    """Write odd * 2**shift, of at most 126 bits, as two words: high * 2**64 + low."""
    for row in range(len(odds)):
        odd, shift = odds[row], shifts[row]
        if shift >= 64:
            high[row], low[row] = odd << (shift - 64), 0
        else:
            high[row] = odd >> min(64 - shift, 63)
            low[row] = np.uint64(odd) << np.uint64(shift)

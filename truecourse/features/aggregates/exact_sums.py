"""Compiled sums and variances of exact numbers, each rounded once. Import it lazily, as kernels.py, which explains the
arguments. Numba notices a change of a compiled function in its own file only, so all that call each other are here.

A number is odd * 2**(shift + exponent), with an odd integer of at most 63 bits and an exponent for all numbers of a
column, so that shift >= 0. Sums are limbs of 32 bits in int64, lowest first, each with a sign, so that additions need
no carry (a small superaccumulator, as in Neal, Fast Exact Summation Using Small and Large Superaccumulators, 2015).
"""

import math
from typing import Any

import numpy as np
from numba import njit

from truecourse.arrays import Array

_LIMB = 0xFFFFFFFF
_LOWEST = -1074
"""The exponent of the smallest positive double."""
_EXACT = 1 << 53
"""Integers below this are exact doubles."""


@njit(nogil=True, cache=True)
def sum_numbers(
    groups: Array, by_start: Array, by_end: Array, starts: Array, ends: Array, valid: Array,
    times: Array, out: Array, counts: Array,
    odds: Array, shifts: Array, exponent: int, limbs: int,
) -> None:  # fmt: skip
    """Sum numbers odds * 2**(shifts + exponent), and round each sum once. `counts`: the number of values.

    Sums are kept as `limbs` limbs of 32 bits, which is exact."""
    total, scratch = np.zeros(limbs, np.int64), np.empty(limbs, np.int64)
    for group in range(len(groups)):
        begin, limit, decision, end = groups[group, 0], groups[group, 1], groups[group, 2], groups[group, 3]
        added = removed = begin
        count, rounded, changed = 0, 0.0, False
        total[:] = 0
        for place in range(decision, end):
            time = times[place]
            while added < limit and starts[by_start[added]] <= time:
                row = by_start[added]
                if valid[row] and starts[row] < ends[row]:
                    add_product(total, odds[row], shifts[row], 1)
                    count, changed = count + 1, True
                added += 1
            while removed < limit and ends[by_end[removed]] <= time:
                row = by_end[removed]
                if valid[row] and starts[row] < ends[row]:
                    add_product(total, odds[row], shifts[row], -1)
                    count, changed = count - 1, True
                removed += 1
            if changed:
                rounded, changed = round_limbs(total, scratch, exponent), False
            out[place] = rounded
            counts[place] = count


@njit(nogil=True, cache=True)
def sum_wide(
    groups: Array, by_start: Array, by_end: Array, starts: Array, ends: Array, valid: Array,
    times: Array, out: Array, counts: Array,
    high: Array, low: Array, exponent: int,
) -> None:  # fmt: skip
    """As sum_numbers() for numbers (high * 2**64 + low) * 2**exponent whose sums have fewer than 127 bits."""
    for group in range(len(groups)):
        begin, limit, decision, end = groups[group, 0], groups[group, 1], groups[group, 2], groups[group, 3]
        added = removed = begin
        count, top, bottom = 0, np.int64(0), np.uint64(0)
        for place in range(decision, end):
            time = times[place]
            while added < limit and starts[by_start[added]] <= time:
                row = by_start[added]
                if valid[row] and starts[row] < ends[row]:
                    bottom += low[row]
                    top += high[row] + np.int64(bottom < low[row])
                    count += 1
                added += 1
            while removed < limit and ends[by_end[removed]] <= time:
                row = by_end[removed]
                if valid[row] and starts[row] < ends[row]:
                    top -= high[row] + np.int64(bottom < low[row])
                    bottom -= low[row]
                    count -= 1
                removed += 1
            out[place] = round_wide(top, bottom, exponent)
            counts[place] = count


@njit(nogil=True, cache=True)
def variances(
    groups: Array, by_start: Array, by_end: Array, starts: Array, ends: Array, valid: Array,
    times: Array, out: Array, odds: Array, shifts: Array, exponent: int, limbs: int, limbs2: int,
) -> None:  # fmt: skip
    """The sample variances of numbers odds * 2**(shifts + exponent), each rounded once; NaN for fewer than two.

    The sum has `limbs` limbs of 32 bits, the sum of squares has `limbs2`."""
    total, squares = np.zeros(limbs, np.int64), np.zeros(limbs2, np.int64)
    size = max(2 * limbs, limbs2 + 2) + 4
    scratch = np.empty((3, size), np.uint64)
    for group in range(len(groups)):
        begin, limit, decision, end = groups[group, 0], groups[group, 1], groups[group, 2], groups[group, 3]
        added = removed = begin
        count, rounded, changed = 0, np.nan, False
        total[:] = 0
        squares[:] = 0
        for place in range(decision, end):
            time = times[place]
            while added < limit and starts[by_start[added]] <= time:
                row = by_start[added]
                if valid[row] and starts[row] < ends[row]:
                    add_product(total, odds[row], shifts[row], 1)
                    add_square(squares, odds[row], shifts[row], 1)
                    count, changed = count + 1, True
                added += 1
            while removed < limit and ends[by_end[removed]] <= time:
                row = by_end[removed]
                if valid[row] and starts[row] < ends[row]:
                    add_product(total, odds[row], shifts[row], -1)
                    add_square(squares, odds[row], shifts[row], -1)
                    count, changed = count - 1, True
                removed += 1
            if changed:
                rounded, changed = round_variance(total, squares, count, scratch, exponent), False
            out[place] = rounded


@njit(nogil=True, cache=True)
def small_variances(
    groups: Array, by_start: Array, by_end: Array, starts: Array, ends: Array, valid: Array,
    times: Array, out: Array, values: Array, exponent: int,
) -> None:  # fmt: skip
    """As variances() for numbers values * 2**exponent with (rows of a key * largest value)**2 < 2**62."""
    scratch = np.empty(8, np.uint64)
    for group in range(len(groups)):
        begin, limit, decision, end = groups[group, 0], groups[group, 1], groups[group, 2], groups[group, 3]
        added = removed = begin
        count = total = squares = 0
        for place in range(decision, end):
            time = times[place]
            while added < limit and starts[by_start[added]] <= time:
                row = by_start[added]
                if valid[row] and starts[row] < ends[row]:
                    count, total, squares = count + 1, total + values[row], squares + values[row] * values[row]
                added += 1
            while removed < limit and ends[by_end[removed]] <= time:
                row = by_end[removed]
                if valid[row] and starts[row] < ends[row]:
                    count, total, squares = count - 1, total - values[row], squares - values[row] * values[row]
                removed += 1
            out[place] = round_small_variance(total, squares, count, scratch, exponent)


@njit(nogil=True, cache=True)
def add_product(total: Array, odd: int, shift: int, sign: int) -> None:
    """Add sign * odd * 2**shift to the limbs `total`."""
    if odd < 0:
        odd, sign = -odd, -sign
    place, bits = shift >> 5, shift & 31
    low, high = (odd & _LIMB) << bits, (odd >> 32) << bits
    total[place] += sign * (low & _LIMB)
    total[place + 1] += sign * ((low >> 32) + (high & _LIMB))
    total[place + 2] += sign * (high >> 32)


@njit(nogil=True, cache=True)
def add_square(total: Array, odd: int, shift: int, sign: int) -> None:
    """Add sign * (odd * 2**shift)**2 to the limbs `total`."""
    odd = abs(odd)
    mask, half = np.uint64(_LIMB), np.uint64(32)
    low, high = np.uint64(odd & _LIMB), np.uint64(odd >> 32)
    least, middle, most = low * low, low * high, high * high
    second = (least >> half) + np.uint64(2) * (middle & mask)
    third = (second >> half) + np.uint64(2) * (middle >> half) + (most & mask)
    fourth = (third >> half) + (most >> half)
    place, bits = (2 * shift) >> 5, (2 * shift) & 31
    for part in (least & mask, second & mask, third & mask, fourth):
        moved = np.int64(part) << bits
        total[place] += sign * (moved & _LIMB)
        total[place + 1] += sign * (moved >> 32)
        place += 1


@njit(nogil=True, cache=True)
def _magnitude(total: Array, out: Array) -> Any:
    """Write the absolute value of limbs with signs as limbs from 0 to 2**32 - 1. Return whether it was negative, and
    the number of limbs up to the highest that is not 0."""
    carry, top = np.int64(0), 0
    for place in range(len(total)):
        value = total[place] + carry
        out[place] = value & _LIMB
        carry = value >> 32
    if carry < 0:
        borrow = np.int64(1)
        for place in range(len(total)):
            value = (np.int64(out[place]) ^ _LIMB) + borrow
            out[place] = value & _LIMB
            borrow = value >> 32
    for place in range(len(total)):
        if out[place]:
            top = place + 1
    return carry < 0, top


@njit(nogil=True, cache=True)
def round_limbs(total: Array, scratch: Array, exponent: int) -> float:
    """The double nearest to a sum times 2**exponent (ties to even), infinite beyond the range of doubles."""
    negative, top = _magnitude(total, scratch)
    rounded = _nearest(scratch, top, exponent, False)
    return -rounded if negative else rounded


@njit(nogil=True, cache=True)
def _nearest(limbs: Array, top: int, exponent: int, more: bool) -> float:
    """The double nearest to limbs * 2**exponent. `more`: whether a positive remainder, below the last bit, follows."""
    if top == 0:
        return 0.0
    highest = 32 * top - 1
    while not (np.int64(limbs[top - 1]) >> (highest & 31)) & 1:
        highest -= 1
    lowest = max(highest - 52, _LOWEST - exponent, 0)
    number, rest = np.int64(0), more
    for place in range(top - 1, -1, -1):
        limb, bit = np.int64(limbs[place]), 32 * place
        if bit >= lowest:
            number = number | (limb << (bit - lowest))
        elif bit + 32 > lowest:
            number = number | (limb >> (lowest - bit))
        if bit < lowest - 1:
            below = min(lowest - 1 - bit, 32)
            rest = rest or (limb & ((1 << below) - 1)) != 0
    if 0 < lowest <= 32 * top:
        half = (np.int64(limbs[(lowest - 1) >> 5]) >> ((lowest - 1) & 31)) & 1
        if half == 1 and (rest or number & 1 == 1):
            number += 1
    return math.ldexp(float(number), lowest + exponent)


@njit(nogil=True, cache=True)
def round_wide(high: Any, low: Any, exponent: int) -> float:
    """The double nearest to (high * 2**64 + low) * 2**exponent, for an exponent for which it cannot be subnormal."""
    is_negative = high < 0
    if is_negative:
        low = ~low + np.uint64(1)
        high = ~high + np.int64(low == 0)
    if high == 0:
        rounded = math.ldexp(np.float64(low), exponent)
    else:
        _, bits = math.frexp(np.float64(high))  # one more where the conversion rounded up
        top = (np.uint64(high) << np.uint64(64 - bits)) | (low >> np.uint64(bits)) if bits < 64 else np.uint64(high)
        more = low << np.uint64(64 - bits) if bits < 64 else low
        rounded = math.ldexp(np.float64(top | np.uint64(more != 0)), bits + exponent)
    return -rounded if is_negative else rounded


@njit(nogil=True, cache=True)
def round_variance(total: Array, squares: Array, count: int, scratch: Array, exponent: int) -> float:
    """The double nearest to the sample variance of `count` numbers times 2**exponent; NaN for fewer than two.

    It is (count * sum of squares - sum**2) / (count * (count - 1)). `scratch` has 3 rows of limbs."""
    if count < 2:
        return np.nan
    sums, wide, square = scratch[0], scratch[1], scratch[2]
    _, top = _magnitude(total, sums)
    _, top2 = _magnitude(squares, wide)
    half, mask, number = np.uint64(32), np.uint64(_LIMB), np.uint64(count)
    size = max(2 * top, top2 + 1)
    wide[top2 : size + 1] = 0
    carry = np.uint64(0)
    for place in range(size):
        product = wide[place] * number + carry
        wide[place] = product & mask
        carry = product >> half
    square[: size + 1] = 0
    for first in range(top):
        carry = np.uint64(0)
        for second in range(top):
            product = sums[first] * sums[second] + square[first + second] + carry
            square[first + second] = product & mask
            carry = product >> half
        square[first + top] = carry
    borrow = np.int64(0)
    for place in range(size):
        value = np.int64(wide[place]) - np.int64(square[place]) + borrow
        sums[place] = value & _LIMB
        borrow = value >> 32
    return _quotient(sums, size, count, 2 * exponent)


@njit(nogil=True, cache=True)
def round_small_variance(total: int, squares: int, count: int, scratch: Array, exponent: int) -> float:
    """As round_variance() for a sum and a sum of squares with (count * largest number)**2 < 2**62."""
    if count < 2:
        return np.nan
    above, below = count * squares - total * total, count * (count - 1)
    if above < _EXACT and below < _EXACT:  # the division of two exact doubles is rounded once
        return math.ldexp(above / below, 2 * exponent)
    scratch[0], scratch[1] = above & _LIMB, above >> 32
    return _quotient(scratch, 2, count, 2 * exponent)


@njit(nogil=True, cache=True)
def _quotient(limbs: Array, size: int, count: int, exponent: int) -> float:
    """The double nearest to limbs * 2**exponent / (count * (count - 1)). The first 5 limbs may be overwritten.

    Five limbs, the first not 0, give more than the 54 bits that rounding needs; lower ones only tell whether more
    follows."""
    while size and not limbs[size - 1]:
        size -= 1
    if size == 0:
        return 0.0
    drop, rest = size - 5, False
    for place in range(drop):
        rest = rest or limbs[place] != 0
    if drop > 0:
        limbs[:5] = limbs[drop:size]
    elif drop < 0:
        for place in range(4, -1, -1):
            limbs[place] = limbs[place + drop] if place + drop >= 0 else np.uint64(0)
    number = np.uint64(count)
    divisor = number * (number - np.uint64(1))
    if divisor >> np.uint64(32):
        rest = _divide(limbs, 5, number) or rest
        divisor = number - np.uint64(1)
    rest = _divide(limbs, 5, divisor) or rest
    size = 5
    while size and not limbs[size - 1]:
        size -= 1
    return _nearest(limbs, size, exponent + 32 * drop, rest)


@njit(nogil=True, cache=True)
def _divide(limbs: Array, size: int, divisor: Any) -> Any:
    """Divide limbs by a number below 2**32 in place. Return whether there was a remainder."""
    rest = np.uint64(0)
    for place in range(size - 1, -1, -1):
        part = (rest << np.uint64(32)) | limbs[place]
        limbs[place] = part // divisor
        rest = part - limbs[place] * divisor
    return rest != 0

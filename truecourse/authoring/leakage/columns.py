"""Columns that predict the label almost perfectly by themselves, by their values or by being filled."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from truecourse.authoring.leakage.suspects import (
    EXACT_R2,
    MAX_P_VALUE,
    MIN_ROWS,
    NEARLY_PERFECT_R2,
    Codes,
    Label,
    Mask,
    Numbers,
    Suspect,
    area_under_curve,
    encode,
    r_squared,
    rank,
    to_floats,
)
from truecourse.wording import counted


def column_suspects(label: Label, name: str, column: pa.Array) -> Iterator[Suspect]:
    """Suspicions from one column's values and from its missingness."""
    numbers = to_floats(column)
    codes, _ = encode(column)
    filled = codes >= 0
    if filled.sum() >= MIN_ROWS:
        if label.codes is not None:
            yield from _class_suspects(label, name, codes, numbers, filled)
        else:
            yield from _regression_suspects(label, name, codes, numbers, filled)
    yield from missingness_suspects(label, name, filled)


def _class_suspects(label: Label, name: str, codes: Codes, numbers: Numbers | None, filled: Mask) -> Iterator[Suspect]:
    truth, values = label.codes[filled], codes[filled]  # type: ignore[index]
    errors = len(truth) - np.bincount(truth).max()
    if errors < 10:
        return
    share = f" (of the {counted(len(truth), 'row')} that have it)" if len(truth) < len(codes) else ""
    if values.max() + 1 <= len(truth) / 5:
        table = np.zeros((values.max() + 1, truth.max() + 1))
        np.add.at(table, (values, truth), 1)
        hits = table.max(axis=1)[table.sum(axis=1) > 1].sum()
        if len(truth) - hits <= 0.02 * errors:
            exact = bool(hits == len(truth))
            how = "determines" if exact else f"predicts {hits / len(truth):.2%} of"
            yield Suspect((name,), f"{how} {label.name}{' in every row' if exact else ''} by itself{share}", exact)
    if numbers is None:
        return
    if len(label.shown) == 2:
        area = area_under_curve(numbers[filled], truth)
        if max(area, 1 - area) >= 0.997:
            exact = max(area, 1 - area) == 1 and len(truth) == len(codes) >= 500 and bool(errors >= 50)
            how = "determines" if exact else "orders"
            what = f"{how} {label.name} {'by a threshold' if exact else 'almost perfectly'}"
            yield Suspect((name,), f"{what}: AUC {max(area, 1 - area):.4f}{share}", exact)
    wrong = _neighbour_errors(numbers[filled], truth)
    if wrong <= 0.02 * errors:
        what = f"sorts the rows by {label.name}: neighbours agree in {1 - wrong / len(truth):.2%} of rows{share}"
        yield Suspect((name,), what, False)


def _neighbour_errors(numbers: Numbers, truth: Codes) -> int:
    """Count rows whose class differs from the row before, sorted by the numbers; ties are in random order."""
    shuffled = np.random.default_rng(0).permutation(len(numbers))
    order = shuffled[np.argsort(numbers[shuffled], kind="stable")]
    return int((truth[order][1:] != truth[order][:-1]).sum())


def _regression_suspects(
    label: Label, name: str, codes: Codes, numbers: Numbers | None, filled: Mask
) -> Iterator[Suspect]:
    truth, values = label.numbers[filled], codes[filled]  # type: ignore[index]
    total = truth.var() * len(truth)
    if not total or len(np.unique(truth)) < 10:
        return
    share = f" (of the {counted(len(truth), 'row')} that have it)" if len(truth) < len(codes) else ""
    if numbers is not None:
        same = float(np.isclose(numbers[filled], truth, rtol=1e-9, atol=0).mean())
        if same >= 0.95:
            yield Suspect((name,), f"equals {label.name} in {same:.2%} of rows{share}", True)
        explained = r_squared(numbers[filled], truth)
        if explained >= NEARLY_PERFECT_R2:
            how = "determines" if explained >= EXACT_R2 else "explains almost all of"
            yield Suspect((name,), f"{how} {label.name}: R² {explained:.6f}{share}", explained >= EXACT_R2)
        ordered = r_squared(rank(numbers[filled]), rank(truth))
        if ordered >= EXACT_R2:
            yield Suspect((name,), f"orders the rows exactly as {label.name} does: rank R² {ordered:.6f}{share}", True)
    counts = np.bincount(values)
    if len(counts) <= len(truth) / 5 and (counts[values] > 1).mean() >= 0.9:
        means = np.bincount(values, truth) / np.maximum(counts, 1)
        left = float(((truth - means[values]) ** 2).sum() / total)
        if left <= 1 - NEARLY_PERFECT_R2:
            exact = left <= 1 - EXACT_R2
            how = "determines" if exact else "explains almost all of"
            yield Suspect(
                (name,), f"{how} {label.name} by its {counted(len(counts), 'value')}: R² {1 - left:.6f}{share}", exact
            )
        if _splits_into_ranges(values, truth):
            what = f"divides {label.name} into ranges: each of its {counted(len(np.unique(values)), 'value')} has one"
            yield Suspect((name,), f"{what}{share}", False)


def _splits_into_ranges(values: Codes, truth: Numbers) -> bool:
    """Whether each value has a range of the label of its own, without overlap, and at least 5 rows."""
    counts = np.bincount(values)
    held = np.flatnonzero(counts)
    if not 2 <= len(held) <= 50 or counts[held].min() < 5:
        return False
    low, high = np.full(len(counts), np.inf), np.full(len(counts), -np.inf)
    np.minimum.at(low, values, truth)
    np.maximum.at(high, values, truth)
    order = held[np.argsort(low[held])]
    return bool((high[order][:-1] <= low[order][1:]).all())


def missingness_suspects(label: Label, name: str, filled: Mask) -> Iterator[Suspect]:
    """Suspicion that a column is filled (or empty) almost only where the label has one value."""
    truth = label.codes if label.codes is not None else label.numbers
    assert truth is not None
    for rows, how in ((filled, "filled"), (~filled, "empty")):
        count = int(rows.sum())
        if not 10 <= count <= len(truth) - 10:
            continue
        values, counts = np.unique(truth[rows], return_counts=True)
        most = values[counts.argmax()]
        base, inside = float((truth == most).mean()), counts.max() / count
        if inside >= 0.98 and base ** counts.max() < MAX_P_VALUE and base < 0.95:
            value = label.shown[int(most)] if label.codes is not None else f"{most:g}"
            inside_of = counted(count, "row")
            what = f"is {how} in {inside_of}, of which {inside:.1%} have {label.name} {value} ({base:.1%} of all)"
            yield Suspect((name,), what, False)
            return

"""Combinations of columns that equal or determine the label: pairs, and linear formulas."""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np

from truecourse.authoring.leakage.suspects import (
    EXACT_R2,
    MIN_ROWS,
    Codes,
    Label,
    Numbers,
    Suspect,
    area_under_curve,
    r_squared,
)

_MAX_COLUMNS = 60
"""Columns that are tried in pairs and in linear formulas."""
_SEPARATED, _NEARLY_SEPARATED = 0.9999, 0.95
"""Areas under the ROC curve of a difference that determines the class, and of columns that nearly do so alone."""
_MAX_CATEGORIES = 40
"""Categorical columns that are tried in pairs."""


def combination_suspects(label: Label, numbers: Mapping[str, Numbers]) -> list[Suspect]:
    """Pairs of columns, or a linear formula of a few, that equal the label."""
    if label.numbers is None or len(numbers) < 2:
        return []
    names, matrix, truth = _complete_rows(label.numbers, numbers)
    if len(names) < 2:
        return []
    if label.codes is None:
        found = list(_pair_suspects(label.name, names, matrix, truth))
    else:
        found = list(_order_suspects(label.name, names, matrix, truth.astype(np.int64)))
    named = {name for suspect in found for name in suspect.columns}
    free = [i for i, name in enumerate(names) if name not in named]
    formula = _linear_formula([names[i] for i in free], matrix[:, free], truth)
    if formula:
        what = f"{'gives' if len(formula) == 1 else 'give'} {label.name} by a linear formula: R² above {EXACT_R2}"
        found.append(Suspect(tuple(formula), what, True))
    return found


def _complete_rows(truth: Numbers, numbers: Mapping[str, Numbers]) -> tuple[list[str], Numbers, Numbers]:
    """Names of the varying, mostly filled columns; a matrix of the rows that have all of them; the labels of these."""
    names = [n for n, v in numbers.items() if np.isfinite(v).mean() > 0.8 and np.nanstd(v) > 0]
    if not names:
        return [], np.empty((0, 0)), truth
    matrix = np.column_stack([numbers[name] for name in names])
    rows = np.isfinite(matrix).all(axis=1)
    matrix, truth = matrix[rows], truth[rows]
    if len(truth) < MIN_ROWS or truth.std() == 0:
        return [], matrix, truth
    varying = matrix.std(axis=0) > 0
    return [name for name, varies in zip(names, varying, strict=True) if varies], matrix[:, varying], truth


def _pair_suspects(label: str, names: list[str], matrix: Numbers, truth: Numbers) -> Iterator[Suspect]:
    """Sums, differences, products and quotients of two columns that equal the label in at least 95% of the rows."""
    if len(np.unique(truth)) < 10:
        return
    nonzero = np.flatnonzero(truth != 0)
    if len(nonzero) < MIN_ROWS:
        return
    few = nonzero[:: max(1, len(nonzero) // 200)]
    for i, j in combinations(_strongest(matrix, truth), 2):
        for sign, combined in _combinations(matrix[few, i], matrix[few, j]):
            if _share_equal(combined, truth[few]) < 0.95:
                continue
            one, other = (i, j) if sign != "swapped" else (j, i)
            exact = dict(_combinations(matrix[nonzero, i], matrix[nonzero, j]))[sign]
            share = _share_equal(exact, truth[nonzero])
            alone = max(_share_equal(matrix[nonzero, k], truth[nonzero]) for k in (i, j))
            if share >= 0.95 and alone < 0.8:
                what = f"give {label}: {names[one]} {sign} {names[other]} equals it in {share:.2%} of rows"
                yield Suspect((names[i], names[j]), what.replace("swapped", "subtracted from"), True)
                break


def _order_suspects(label: str, names: list[str], matrix: Numbers, truth: Codes) -> Iterator[Suspect]:
    """Pairs of columns whose difference orders two classes without error, while neither does nearly so alone."""
    few = slice(None, None, max(1, len(truth) // 1000))
    if not 20 <= truth.sum() <= len(truth) - 20 or not 5 <= truth[few].sum() <= len(truth[few]) - 5:
        return
    alone = [_separation(column, truth) for column in matrix.T]
    named: set[int] = set()
    for i, j in combinations(_strongest(matrix, truth.astype(np.float64)), 2):
        if {i, j} & named or max(alone[i], alone[j]) > _NEARLY_SEPARATED:
            continue
        if _separation(matrix[few, i] - matrix[few, j], truth[few]) < _SEPARATED:
            continue
        if (area := _separation(matrix[:, i] - matrix[:, j], truth)) >= _SEPARATED:
            named |= {i, j}
            what = f"determine {label}: the difference of both orders it, AUC {area:.4f} (alone at most "
            yield Suspect((names[i], names[j]), f"{what}{max(alone[i], alone[j]):.4f})", False)


def _separation(scores: Numbers, truth: Codes) -> float:
    """The area under the ROC curve in the better direction."""
    area = area_under_curve(scores, truth)
    return max(area, 1 - area)


def category_suspects(label: Label, columns: Mapping[str, Codes]) -> Iterator[Suspect]:
    """Pairs of categorical columns that determine the class in every row, while neither does alone.

    `columns`: codes from 0 without missing values, with at most a twentieth as many values as rows."""
    truth = label.codes
    if truth is None or len(truth) - np.bincount(truth).max() < 20:
        return
    kept = {n: c for n, c in columns.items() if c.min() >= 0 and 2 <= c.max() + 1 <= len(c) / 20}
    named: set[str] = set()
    for one, other in combinations(list(kept)[:_MAX_CATEGORIES], 2):
        if {one, other} & named:
            continue
        cells = kept[one] * (kept[other].max() + 1) + kept[other]
        used = np.unique(cells)
        if len(used) > len(truth) / 20 or not _determines(cells, truth):
            continue
        named |= {one, other}
        yield Suspect((one, other), f"determine {label.name} together in every row, and neither alone", True)


def _determines(cells: Codes, truth: Codes) -> bool:
    """Whether each value of `cells` has one class."""
    order = np.argsort(cells, kind="stable")
    same = cells[order][1:] == cells[order][:-1]
    return bool((truth[order][1:] == truth[order][:-1])[same].all())


def _strongest(matrix: Numbers, truth: Numbers) -> list[int]:
    """Positions of the _MAX_COLUMNS columns with the greatest R², ascending."""
    strength = np.array([r_squared(column, truth) for column in matrix.T])
    return sorted(int(place) for place in np.argsort(-strength, kind="stable")[:_MAX_COLUMNS])


def _combinations(one: Numbers, other: Numbers) -> list[tuple[str, Numbers]]:
    with np.errstate(all="ignore"):
        return [("+", one + other), ("-", one - other), ("swapped", other - one), ("×", one * other),
                ("/", one / other), ("divided into", other / one)]  # fmt: skip


def _share_equal(computed: Numbers, truth: Numbers) -> float:
    """The share of rows in which both numbers agree: to seven digits, or to cents where numbers are large."""
    with np.errstate(all="ignore"):
        close = np.abs(computed - truth) <= np.maximum(1e-7 * np.abs(truth), 0.00501 if truth.std() > 10 else 0)
    return float(close.mean())


def _linear_formula(names: list[str], matrix: Numbers, truth: Numbers) -> list[str]:
    """The fewest columns (at most five) whose linear combination equals the label, by backward elimination."""
    kept = _strongest(matrix, truth)
    if len(kept) < 2 or len(truth) < 3 * len(kept):
        return []
    scaled = (matrix - matrix.mean(axis=0)) / matrix.std(axis=0)
    target = (truth - truth.mean()) / truth.std()
    gram, cross = scaled.T @ scaled / len(target), scaled.T @ target / len(target)
    if _least_squares_r2(gram, cross, kept) < EXACT_R2:
        return []
    while len(kept) > 1:
        fits = [(_least_squares_r2(gram, cross, [k for k in kept if k != left]), left) for left in kept]
        best, out = max(fits)
        if best < EXACT_R2:
            break
        kept.remove(out)
    return [names[k] for k in sorted(kept)] if len(kept) <= 5 else []


def _least_squares_r2(gram: Numbers, cross: Numbers, kept: list[Any]) -> float:
    """R² of a least-squares fit on these columns."""
    solved = np.linalg.lstsq(gram[np.ix_(kept, kept)], cross[kept], rcond=1e-10)[0]
    return float(solved @ cross[kept])

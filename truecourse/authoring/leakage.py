"""Find leak suspects: columns that predict the label so well that they were probably filled in after it was known.

Each suspect comes with its evidence, computed on the labelled rows. Only the problem's author can decide whether it is
a leak. With fewer than MIN_ROWS labelled rows there are no suspects."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.problem.definition import Kind
from truecourse.wording import counted

MIN_ROWS = 40
"""Labelled rows needed; with fewer, there are no suspects."""
MAX_ROWS = 20_000
"""Rows of the sample in which suspects are searched."""
_NEARLY_PERFECT_R2 = 0.998
"""A column with at least this R² explains the label almost perfectly."""
_EXACT_R2 = 0.999999
_MAX_COLUMNS = 60
"""Columns that are tried in pairs and in linear formulas."""
_MAX_P_VALUE = 1e-6
"""Largest probability that a finding arises by chance."""
Numbers = np.ndarray[Any, np.dtype[np.float64]]
Codes = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Suspect:
    """`columns` that may leak the label, and `what` was found, with figures.

    `determines`: the columns determine the label exactly."""

    columns: tuple[str, ...]
    what: str
    determines: bool

    def __str__(self) -> str:
        return f"{' and '.join(self.columns)} {self.what}"


@dataclass(frozen=True)
class _Label:
    """The label's n values: `codes` for classes, `numbers` for a regression and for two classes.

    `shown` holds the class names, in the order of the codes."""

    name: str
    codes: Codes | None
    numbers: Numbers | None
    shown: tuple[str, ...]

    def __len__(self) -> int:
        values = self.codes if self.codes is not None else self.numbers
        return 0 if values is None else len(values)


def find_leak_suspects(name: str, kind: Kind, label: pa.Array, features: Mapping[str, pa.Array]) -> list[Suspect]:
    """Find leak suspects among `features` (n typed values each) for the n values of `label`.

    Returns none if fewer than MIN_ROWS labels are not null. Each column appears once, with its strongest evidence."""
    known = pc.is_valid(label)
    label = label.filter(known)
    if len(label) < MIN_ROWS:
        return []
    values = {feature: column.filter(known) for feature, column in features.items()}
    truth = _encode_label(name, kind, label)
    found: list[Suspect] = []
    for feature, column in values.items():
        found += list(_single_column_suspects(truth, feature, column))[:1]
    named = {column for suspect in found for column in suspect.columns}
    numbers = {f: n for f, c in values.items() if f not in named and (n := _to_floats(c)) is not None}
    return found + _combination_suspects(truth, numbers)


def _encode_label(name: str, kind: Kind, label: pa.Array) -> _Label:
    if kind == "regression":
        return _Label(name, None, np.asarray(label.cast(pa.float64()), dtype=np.float64), ())
    codes, shown = _encode(label)
    return _Label(name, codes, codes.astype(np.float64) if len(shown) == 2 else None, shown)


def _encode(column: pa.Array) -> tuple[Codes, tuple[str, ...]]:
    """Encode values as integer codes, ordered by their texts; null is -1. Also returns the texts."""
    texts = column if pa.types.is_string(column.type) else column.cast(pa.string())
    uniques, codes = np.unique(np.asarray(texts.fill_null("\0"), dtype=str), return_inverse=True)
    if column.null_count:  # NUL sorts before every text
        return codes.astype(np.int64) - 1, tuple(uniques[1:])
    return codes.astype(np.int64), tuple(uniques)


def _to_floats(column: pa.Array) -> Numbers | None:
    kind = column.type
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return None
    numbers = np.asarray(column.cast(pa.float64(), safe=False).fill_null(np.nan), dtype=np.float64)
    return numbers if np.isfinite(numbers).any() else None


def _single_column_suspects(label: _Label, name: str, column: pa.Array) -> Iterator[Suspect]:
    """Suspicions from one column's values and from its missingness."""
    numbers = _to_floats(column)
    codes, _ = _encode(column)
    filled = codes >= 0
    if filled.sum() >= MIN_ROWS:
        if label.codes is not None:
            yield from _class_suspects(label, name, codes, numbers, filled)
        else:
            yield from _regression_suspects(label, name, codes, numbers, filled)
    yield from _missingness_suspects(label, name, filled)


def _class_suspects(
    label: _Label, name: str, codes: Codes, numbers: Numbers | None, filled: np.ndarray[Any, Any]
) -> Iterator[Suspect]:
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
        auc = _auc(numbers[filled], truth)
        if max(auc, 1 - auc) >= 0.997:
            exact = max(auc, 1 - auc) == 1 and len(truth) == len(codes) >= 500 and bool(errors >= 50)
            how = "determines" if exact else "orders"
            what = f"{how} {label.name} {'by a threshold' if exact else 'almost perfectly'}"
            yield Suspect((name,), f"{what}: AUC {max(auc, 1 - auc):.4f}{share}", exact)
    wrong = _neighbour_errors(numbers[filled], truth)
    if wrong <= 0.02 * errors:
        what = f"sorts the rows by {label.name}: neighbours agree in {1 - wrong / len(truth):.2%} of rows{share}"
        yield Suspect((name,), what, False)


def _auc(scores: Numbers, truth: Codes) -> float:
    ranks = _ranks(scores)
    positive = truth == 1
    count = positive.sum()
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (len(truth) - count)))


def _ranks(values: Numbers) -> Numbers:
    """Ranks from 1; ties share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Numbers = (ends - (counts - 1) / 2)[inverse]
    return ranks


def _neighbour_errors(numbers: Numbers, truth: Codes) -> int:
    """Count rows whose class differs from the row before, sorted by the numbers; ties are in random order."""
    shuffled = np.random.default_rng(0).permutation(len(numbers))
    order = shuffled[np.argsort(numbers[shuffled], kind="stable")]
    return int((truth[order][1:] != truth[order][:-1]).sum())


def _regression_suspects(
    label: _Label, name: str, codes: Codes, numbers: Numbers | None, filled: np.ndarray[Any, Any]
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
        explained = _r2(numbers[filled], truth)
        if explained >= _NEARLY_PERFECT_R2:
            how = "determines" if explained >= _EXACT_R2 else "explains almost all of"
            yield Suspect((name,), f"{how} {label.name}: R² {explained:.6f}{share}", explained >= _EXACT_R2)
        ordered = _r2(_ranks(numbers[filled]), _ranks(truth))
        if ordered >= _EXACT_R2:
            yield Suspect((name,), f"orders the rows exactly as {label.name} does: rank R² {ordered:.6f}{share}", True)
    counts = np.bincount(values)
    if len(counts) <= len(truth) / 5 and (counts[values] > 1).mean() >= 0.9:
        means = np.bincount(values, truth) / np.maximum(counts, 1)
        left = float(((truth - means[values]) ** 2).sum() / total)
        if left <= 1 - _NEARLY_PERFECT_R2:
            exact = left <= 1 - _EXACT_R2
            how = "determines" if exact else "explains almost all of"
            yield Suspect(
                (name,), f"{how} {label.name} by its {counted(len(counts), 'value')}: R² {1 - left:.6f}{share}", exact
            )


def _r2(one: Numbers, other: Numbers) -> float:
    """Squared correlation; 0 where one of the two is constant."""
    if not len(one) or one.std() == 0 or other.std() == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1] ** 2)


def _missingness_suspects(label: _Label, name: str, filled: np.ndarray[Any, Any]) -> Iterator[Suspect]:
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
        if inside >= 0.98 and base ** counts.max() < _MAX_P_VALUE and base < 0.95:
            value = label.shown[int(most)] if label.codes is not None else f"{most:g}"
            inside_of = counted(count, "row")
            what = f"is {how} in {inside_of}, of which {inside:.1%} have {label.name} {value} ({base:.1%} of all)"
            yield Suspect((name,), what, False)
            return


def _combination_suspects(label: _Label, numbers: Mapping[str, Numbers]) -> list[Suspect]:
    """Pairs of columns, or a linear formula of a few, that equal the label."""
    if label.numbers is None or len(numbers) < 2:
        return []
    names, matrix, truth = _complete_rows(label.numbers, numbers)
    if len(names) < 2:
        return []
    found = list(_pair_suspects(label.name, names, matrix, truth)) if label.codes is None else []
    named = {name for suspect in found for name in suspect.columns}
    free = [i for i, name in enumerate(names) if name not in named]
    formula = _linear_formula([names[i] for i in free], matrix[:, free], truth)
    if formula:
        what = f"{'gives' if len(formula) == 1 else 'give'} {label.name} by a linear formula: R² above {_EXACT_R2}"
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


def _strongest(matrix: Numbers, truth: Numbers) -> list[int]:
    """Positions of the _MAX_COLUMNS columns with the greatest R², ascending."""
    strength = np.array([_r2(column, truth) for column in matrix.T])
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
    if _least_squares_r2(gram, cross, kept) < _EXACT_R2:
        return []
    while len(kept) > 1:
        fits = [(_least_squares_r2(gram, cross, [k for k in kept if k != left]), left) for left in kept]
        best, out = max(fits)
        if best < _EXACT_R2:
            break
        kept.remove(out)
    return [names[k] for k in sorted(kept)] if len(kept) <= 5 else []


def _least_squares_r2(gram: Numbers, cross: Numbers, kept: list[Any]) -> float:
    """R² of a least-squares fit on these columns."""
    solved = np.linalg.lstsq(gram[np.ix_(kept, kept)], cross[kept], rcond=1e-10)[0]
    return float(solved @ cross[kept])

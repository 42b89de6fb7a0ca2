"""Find leak suspects: columns that predict the label so well that they were probably filled in after it was known.

Each suspect comes with its evidence, computed on the labelled rows. Only the problem's author can decide whether it is
a leak. With fewer than MIN_ROWS labelled rows there are no suspects."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.authoring.leakage.columns import column_suspects, missingness_suspects
from truecourse.authoring.leakage.combinations import category_suspects, combination_suspects
from truecourse.authoring.leakage.suspects import MIN_ROWS, Numbers, Suspect, encode, encode_label, to_floats
from truecourse.authoring.leakage.texts import text_suspects
from truecourse.problem.definition import Kind


def find_leak_suspects(name: str, kind: Kind, label: pa.Array, features: Mapping[str, pa.Array]) -> list[Suspect]:
    """Find leak suspects among `features` (n typed values each) for the n values of `label`.

    Returns none if fewer than MIN_ROWS labels are not null. Each column appears once, with its strongest evidence.
    Times are tried in differences, and by where they are missing."""
    known = pc.is_valid(label)
    label = label.filter(known)
    if len(label) < MIN_ROWS:
        return []
    values = {feature: column.filter(known) for feature, column in features.items()}
    truth = encode_label(name, kind, label)
    found: list[Suspect] = []
    numbers: dict[str, Numbers] = {}
    for feature, column in values.items():
        if pa.types.is_timestamp(column.type):
            numbers[feature] = _seconds(column)
            found += missingness_suspects(truth, feature, ~np.isnan(numbers[feature]))
            continue
        suspects = next(column_suspects(truth, feature, column), None) or next(
            text_suspects(truth, feature, column), None
        )
        if suspects:
            found.append(suspects)
        elif (floats := to_floats(column)) is not None:
            numbers[feature] = floats
    found += combination_suspects(truth, numbers)
    named = {column for suspect in found for column in suspect.columns}
    categories = {f: encode(c)[0] for f, c in values.items() if f not in named and _is_category(c)}
    return found + list(category_suspects(truth, categories))


def _seconds(column: pa.Array) -> Numbers:
    micro = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64())
    return np.asarray(micro.cast(pa.float64(), safe=False).fill_null(np.nan), dtype=np.float64) / 1e6


def _is_category(column: pa.Array) -> bool:
    if pa.types.is_timestamp(column.type) or column.null_count:
        return False
    return not pa.types.is_floating(column.type) and pc.count_distinct(column).as_py() <= len(column) / 20

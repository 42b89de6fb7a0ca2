"""Search for few rows in the files of a table."""

from typing import Any

import pyarrow.dataset as ds

_FILE = "__filename"


def find_rows(dataset: ds.Dataset, condition: Any, name: str) -> list[dict[str, Any]]:
    """Find the rows of a table's dataset that `condition` selects, each with the key of its `file`.

    The columns of the condition are read first, and all others only of the row groups that have such rows."""
    found: list[dict[str, Any]] = []
    files = set(dataset.to_table(columns=[_FILE], filter=condition)[_FILE].to_pylist())
    for fragment in dataset.get_fragments(filter=condition):
        if fragment.path not in files:
            continue
        for group in fragment.split_by_row_group(condition, dataset.schema):
            if group.scanner(schema=dataset.schema, columns=[], filter=condition).count_rows():
                rows = group.to_table(dataset.schema, filter=condition).to_pylist()
                found += [{"file": f"{name}/{fragment.path}", **row} for row in rows]
    return found

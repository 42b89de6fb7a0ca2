"""Correctness of comparisons, monitoring and lineage, measured on data with a known truth.

The rows come from all modules of this package, each with `rows(quick)`.
"""

import importlib
from pathlib import Path

from benchmarks.harness import Row


def rows(quick: bool) -> list[Row]:
    parts = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
    return [row for part in parts for row in importlib.import_module(f"benchmarks.truth.{part}").rows(quick)]

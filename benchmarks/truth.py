"""Is what comparisons, monitoring and lineage say true? One row a promise, in worlds whose truth is known.

The rows come from the modules `benchmarks/truth_<part>.py`, those that there are, each with `rows(quick)`.
"""

import importlib
from pathlib import Path

from benchmarks.harness import Row


def rows(quick: bool) -> list[Row]:
    parts = sorted(path.stem for path in Path(__file__).parent.glob("truth_*.py"))
    return [row for part in parts for row in importlib.import_module(f"benchmarks.{part}").rows(quick)]

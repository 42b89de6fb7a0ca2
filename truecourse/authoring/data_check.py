"""Check a problem's data for what its specification cannot show: columns that leak the label, cells that do not
parse."""

import json
from collections import Counter
from dataclasses import dataclass

import pyarrow as pa

from truecourse.authoring.leakage.search import find_leak_suspects
from truecourse.authoring.leakage.suspects import MAX_ROWS, Suspect
from truecourse.data.parsing import LINE, UNREADABLE
from truecourse.data.readers import read_batches
from truecourse.data.sources import locate, scratch
from truecourse.problem import Problem
from truecourse.problem.schema import Time
from truecourse.storage.object_store import open_store


@dataclass(frozen=True)
class DataCheck:
    """Result of a data check over `rows` rows; leaks are searched in a sample of at most leakage.MAX_ROWS rows.

    `unreadable` counts the cells of each column that do not parse as its declared type. Malformed lines are counted
    under parsing.LINE. `unchecked`: what was not checked, and why."""

    rows: int
    suspects: tuple[Suspect, ...]
    unreadable: dict[str, int]
    unchecked: tuple[str, ...] = ()

    def warnings(self) -> list[str]:
        lines = [f"suspected leak: {suspect}" for suspect in self.suspects]
        for column, count in self.unreadable.items():
            what = "lines are malformed" if column == LINE else f"cells of {column} do not parse as the declared type"
            lines.append(f"{count} of {self.rows} {what}")
        return [*lines, *self.unchecked]


def check_source(problem: Problem) -> DataCheck:
    """Check the source rows of a problem without a spine.

    Raises SourceError for a source that cannot be read or lacks a declared column."""
    table = problem.label_table
    kept: list[pa.RecordBatch] = []
    unreadable: Counter[str] = Counter()
    rows, step = 0, 1
    with scratch() as folder:
        for located in locate(problem, table, open_store(), folder):
            for batch in read_batches(located, table):
                for text in batch.column(UNREADABLE).drop_null().to_pylist():
                    texts = json.loads(text)
                    unreadable.update([LINE] if LINE in texts else list(texts))
                kept.append(batch.take(pa.array(range(-rows % step, len(batch), step), pa.int64())))
                rows += len(batch)
                if sum(map(len, kept)) > 2 * MAX_ROWS:
                    kept = [part.take(pa.array(range(0, len(part), 2), pa.int64())) for part in kept]
                    step *= 2
    sample = pa.Table.from_batches(kept) if kept else None
    return DataCheck(rows, _suspects(problem, sample, str(problem.label.column)), dict(unreadable))


def check_frame(problem: Problem, frame: pa.Table) -> DataCheck:
    """Check a frame of decisions with their request fields, features and `label`."""
    step = max(1, -(-len(frame) // MAX_ROWS))
    sample = frame.take(pa.array(range(0, len(frame), step), pa.int64()))
    return DataCheck(len(frame), _suspects(problem, sample, "label"), {})


def _suspects(problem: Problem, sample: pa.Table | None, label: str) -> tuple[Suspect, ...]:
    """Leak suspects among the model inputs that are columns of the sample."""
    if sample is None or label not in sample.column_names:
        return ()
    names = [n for n, c in problem.features.items() if n in sample.column_names and not isinstance(c, Time)]
    features = {name: sample.column(name).combine_chunks() for name in names}
    return tuple(find_leak_suspects(label, problem.kind, sample.column(label).combine_chunks(), features))

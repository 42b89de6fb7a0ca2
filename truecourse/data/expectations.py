"""What a table's declared schema expects of each row, compiled, and Great Expectations run on a chunk of rows."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from truecourse.data.parsing import LINE, UNREADABLE, unreadable_texts
from truecourse.errors import ValidationFailed
from truecourse.problem.schema import AnyColumn, Severity, Table
from truecourse.wording import counted

EXAMPLES = 5
TYPES = {"Text": "text", "Integer": "whole number", "Float": "number", "Boolean": "true or false", "Time": "ISO 8601"}


@dataclass(frozen=True)
class Expectation:
    """One rule of one column; of the whole line or table where `column` is empty."""

    column: str
    name: str
    rule: str
    severity: Severity
    quarantines: bool
    """Whether a row that fails it goes to quarantine."""


@dataclass
class Tally:
    """What became of an expectation so far. `failures`: (row, value) of every failing row, unless it is only told."""

    checked: int = 0
    failed: int = 0
    examples: list[tuple[int, str | None]] = field(default_factory=list)
    failures: list[tuple[int, str | None]] = field(default_factory=list)

    def add(self, expectation: Expectation, failures: list[tuple[int, str | None]]) -> None:
        self.failed += len(failures)
        for row, value in failures[:1000]:  # different values say more than one value many times
            if len(self.examples) < EXAMPLES and value not in [seen for _, seen in self.examples]:
                self.examples.append((row, value))
        if expectation.quarantines:
            self.failures += failures


Tallies = dict[Expectation, Tally]
READABLE_LINE = Expectation("", "line", "a line has the declared number of fields", "warning", True)


class TalliesByRange:
    """What became of each expectation, for each of several ranges of rows: `starts` <= row < `ends`, both rising."""

    def __init__(self, expectations: list[Expectation], starts: Sequence[int], ends: Sequence[int]) -> None:
        self.expectations = expectations
        self._ends = list(ends)
        self.ranges: list[Tallies] = [
            {expectation: Tally(checked=end - start) for expectation in expectations}
            for start, end in zip(starts, ends, strict=True)
        ]

    def add(self, expectation: Expectation, failures: Iterable[tuple[int, str | None]]) -> None:
        by_range: dict[int, list[tuple[int, str | None]]] = {}
        for failure in failures:
            by_range.setdefault(bisect_right(self._ends, failure[0]), []).append(failure)
        for number, some in by_range.items():
            self.ranges[number][expectation].add(expectation, some)


def compile_expectations(table: Table) -> list[Expectation]:
    found = [READABLE_LINE]
    for name, column in table.columns.items():
        found += [_expectation(name, column, kind, rule) for kind, rule in _rules(column)]
    return found


def _expectation(name: str, column: AnyColumn, kind: str, rule: str) -> Expectation:
    """A cell that cannot be read is never `info`: the row goes to quarantine, or, in an `info` column that may be null,
    stays with null and is counted as a warning."""
    if kind == "type" and column.severity == "info":
        return Expectation(name, kind, rule, "warning", quarantines=not column.nulls)
    return Expectation(name, kind, rule, column.severity, quarantines=column.severity == "warning")


def _rules(column: AnyColumn) -> list[tuple[str, str]]:
    rules = [("type", TYPES[type(column).__name__])]
    if not column.nulls:
        rules.append(("not_null", "never missing"))
    low, high = getattr(column, "ge", None), getattr(column, "le", None)
    if low is not None or high is not None:
        rules.append(("range", " ≤ ".join(str(part) for part in (low, "value", high) if part is not None)))
    if (values := getattr(column, "one_of", None)) is not None:
        rules.append(("one_of", "one of " + ", ".join(map(str, values))))
    if (pattern := getattr(column, "pattern", None)) is not None:
        rules.append(("pattern", f"matches {pattern}"))
    if (length := getattr(column, "max_length", None)) is not None:
        rules.append(("max_length", f"at most {counted(length, 'character')}"))
    if column.in_table is not None:
        rules.append(("in_table", f"a key of {column.in_table}"))
    if column.unique:
        rules.append(("unique", "never twice in a source"))
    return rules


def check_unreadable(chunk: pa.Table, tallies: TalliesByRange) -> set[tuple[int, str]]:
    """Count cells and lines that did not parse; the (row, column) of such cells."""
    lost = chunk.filter(pc.is_valid(chunk.column(UNREADABLE)))
    cells: dict[tuple[int, str], str] = {}
    for row, text in zip(lost.column("_tc_row").to_pylist(), lost.column(UNREADABLE).to_pylist(), strict=True):
        cells |= {(row, column): value for column, value in unreadable_texts(text).items()}
    by_column: dict[str, list[tuple[int, str | None]]] = {}
    for (row, column), value in cells.items():
        by_column.setdefault(column, []).append((row, value))
    for expectation in tallies.expectations:
        if expectation.name in ("type", "line"):
            tallies.add(expectation, by_column.get(expectation.column or LINE, ()))
    return set(cells)


def check_references(chunk: pa.Table, keys: Mapping[str, pa.Array], tallies: TalliesByRange) -> None:
    """`keys`: by column, the values that its `in_table` has."""
    for expectation in tallies.expectations:
        if expectation.name == "in_table":
            values = chunk.column(expectation.column)
            known = pc.is_in(values, value_set=keys[expectation.column])
            bad = chunk.filter(pc.and_not(pc.is_valid(values), known))
            tallies.add(expectation, failures_of(bad, expectation.column))


def failures_of(rows: pa.Table, column: str) -> list[tuple[int, str | None]]:
    return list(zip(rows.column("_tc_row").to_pylist(), map(_text, rows.column(column).to_pylist()), strict=True))


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


class Suite:
    """The Great Expectations suite of a table. GX is imported when one is made."""

    def __init__(self, table: Table, expectations: list[Expectation]) -> None:
        import great_expectations as gx
        from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults

        stores = InMemoryStoreBackendDefaults(init_temp_docs_sites=False)  # or it leaves a folder in /tmp
        config = DataContextConfig(store_backend_defaults=stores, analytics_enabled=False)
        context = gx.get_context(mode="ephemeral", project_config=config)
        context.variables.progress_bars = {"globally": False}
        asset = context.data_sources.add_pandas("chunks").add_dataframe_asset(table.name)
        self._batches = asset.add_batch_definition_whole_dataframe("chunk")
        self._new_suite: Callable[..., Any] = gx.ExpectationSuite
        self._compiled = {e: made for e in expectations if (made := _compiled(e, table)) is not None}

    def check(self, chunk: pa.Table, unreadable: set[tuple[int, str]], tallies: TalliesByRange) -> None:
        """Run every expectation on the chunk; the rows of those that fail are then asked for, and tallied."""
        import pandas as pd

        nullable = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
        frame = chunk.to_pandas(types_mapper=nullable.get)
        failing = [e for e, result in self._run(frame, list(self._compiled), "BOOLEAN_ONLY") if not result.success]
        for expectation, result in self._run(frame, failing, "COMPLETE") if failing else ():
            places = result.result.get("unexpected_index_list")
            if places is None:
                raise ValidationFailed(
                    f"Great Expectations could not check it: {result.exception_info}",
                    where=f"{expectation.column}: {expectation.rule}",
                    hint="correct the expectation in problem.py",
                )
            failures = failures_of(chunk.take(pa.array(places, pa.int64())), expectation.column)
            if expectation.name == "not_null":  # an unreadable cell is counted once, as unreadable
                failures = [(row, value) for row, value in failures if (row, expectation.column) not in unreadable]
            tallies.add(expectation, failures)

    def _run(self, frame: Any, expectations: list[Expectation], form: str) -> list[tuple[Expectation, Any]]:
        suite = self._new_suite(name=form.lower())
        for number, expectation in enumerate(expectations):
            compiled = self._compiled[expectation].copy()
            compiled.id, compiled.meta = None, {"number": number}
            suite.add_expectation(compiled)
        batch = self._batches.get_batch(batch_parameters={"dataframe": frame})
        answer = batch.validate(suite, result_format={"result_format": form})
        return [(expectations[r.expectation_config.meta["number"]], r) for r in answer.results]


def _compiled(expectation: Expectation, table: Table) -> Any:
    """Great Expectations' own form of a rule; None for the rules that span chunks or tables."""
    import great_expectations.expectations as gxe

    name, column = expectation.column, table.columns.get(expectation.column)
    said: dict[str, Any] = {"column": name, "severity": expectation.severity}
    made: dict[str, Callable[[], Any]] = {
        "not_null": lambda: gxe.ExpectColumnValuesToNotBeNull(**said),
        "range": lambda: gxe.ExpectColumnValuesToBeBetween(
            **said, min_value=getattr(column, "ge", None), max_value=getattr(column, "le", None)
        ),
        "one_of": lambda: gxe.ExpectColumnValuesToBeInSet(**said, value_set=list(getattr(column, "one_of", ()))),
        "pattern": lambda: gxe.ExpectColumnValuesToMatchRegex(**said, regex=getattr(column, "pattern", "")),
        "max_length": lambda: gxe.ExpectColumnValueLengthsToBeBetween(
            **said, max_value=getattr(column, "max_length", None)
        ),
    }
    return made[expectation.name]() if expectation.name in made else None

"""Expectations compiled from a table's declared schema, and Great Expectations run on chunks of rows."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from truecourse.compat import great_expectations_import
from truecourse.data.parsing import LINE, UNREADABLE, unreadable_texts
from truecourse.errors import ValidationFailed
from truecourse.problem.schema import AnyColumn, Severity, Table
from truecourse.settings import quiet_environment
from truecourse.wording import counted

EXAMPLES = 5
TYPES = {"Text": "text", "Integer": "whole number", "Float": "number", "Boolean": "true or false", "Time": "ISO 8601"}


@dataclass(frozen=True)
class Expectation:
    """One rule of one column, or of the whole line or table if `column` is empty."""

    column: str
    name: str
    rule: str
    severity: Severity
    quarantines: bool
    """Whether a row that fails it goes to quarantine."""


@dataclass
class Tally:
    """Counts of an expectation so far. `failures`: (row, value) of each failing row, if these are quarantined.

    `quarantined`: for a delivery that was accepted before the rules changed, the rows that were quarantined then. Its
    other rows stay, and are only counted in `kept`, unless cells or lines cannot be read or the rule has severity
    `info`. `failed_before` counts the failures of rows that were quarantined then: they refuse nothing."""

    checked: int = 0
    failed: int = 0
    kept: int = 0
    failed_before: int = 0
    quarantined: frozenset[int] | None = None
    examples: list[tuple[int, str | None]] = field(default_factory=list)
    failures: list[tuple[int, str | None]] = field(default_factory=list)

    def add(self, expectation: Expectation, failures: list[tuple[int, str | None]]) -> None:
        if self.quarantined is not None:
            failed_before = [failure for failure in failures if failure[0] in self.quarantined]
            self.failed_before += len(failed_before)
            if expectation.name not in ("type", "line") and expectation.severity != "info":
                self.kept += len(failures) - len(failed_before)
                failures = failed_before
        self.failed += len(failures)
        for row, value in failures[:1000]:  # distinct values are better examples than repeated ones
            if len(self.examples) < EXAMPLES and value not in [seen for _, seen in self.examples]:
                self.examples.append((row, value))
        if expectation.quarantines or (self.failed_before and expectation.severity == "critical"):
            self.failures += failures


Tallies = dict[Expectation, Tally]
READABLE_LINE = Expectation("", "line", "a line has the declared number of fields", "warning", True)


class TalliesByRange:
    """Tallies of each expectation for each of several row ranges: `starts` <= row < `ends`, both ascending.
    `quarantined`: by range, as in Tally."""

    def __init__(
        self,
        expectations: list[Expectation],
        starts: Sequence[int],
        ends: Sequence[int],
        quarantined: Sequence[frozenset[int] | None],
    ) -> None:
        self.expectations = expectations
        self._ends = list(ends)
        self.ranges: list[Tallies] = [
            {expectation: Tally(checked=end - start, quarantined=rows) for expectation in expectations}
            for start, end, rows in zip(starts, ends, quarantined, strict=True)
        ]

    def add(self, expectation: Expectation, failures: Iterable[tuple[int, str | None]]) -> None:
        by_range: dict[int, list[tuple[int, str | None]]] = {}
        for failure in failures:
            by_range.setdefault(bisect_right(self._ends, failure[0]), []).append(failure)
        for number, some in by_range.items():
            self.ranges[number][expectation].add(expectation, some)


def compile_expectations(table: Table) -> list[Expectation]:
    expectations = [READABLE_LINE]
    for name, column in table.columns.items():
        expectations += [_expectation(name, column, kind, rule) for kind, rule in _rules(column)]
    return expectations


def _expectation(name: str, column: AnyColumn, kind: str, rule: str) -> Expectation:
    """An unreadable cell has at least severity `warning`: its row is quarantined. In an `info` column that may be null,
    the row stays, with null, and is counted as a warning."""
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
    """Count cells and lines that did not parse. Return the (row, column) of these cells."""
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
    """Check the foreign keys of a chunk. `keys`: the allowed values by column, from its `in_table`."""
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
    """The Great Expectations suite of a table. The library is imported when a suite is created."""

    def __init__(self, table: Table, expectations: list[Expectation]) -> None:
        quiet_environment()
        gx = great_expectations_import.import_library()
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}
        asset = context.data_sources.add_pandas("chunks").add_dataframe_asset(table.name)
        self._batches = asset.add_batch_definition_whole_dataframe("chunk")
        self._new_suite: Callable[..., Any] = gx.ExpectationSuite
        self._compiled = {e: form for e in expectations if (form := _gx_expectation(e, table)) is not None}

    def check(self, chunk: pa.Table, unreadable: set[tuple[int, str]], tallies: TalliesByRange) -> None:
        """Run every expectation on the chunk, then find the failing rows of those that fail, and tally them."""
        import pandas as pd

        nullable = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
        frame = chunk.to_pandas(types_mapper=nullable.get)
        failing = [e for e, result in self._run(frame, list(self._compiled), "BOOLEAN_ONLY") if not result.success]
        for expectation, result in self._run(frame, failing, "COMPLETE") if failing else ():
            positions = result.result.get("unexpected_index_list")
            if positions is None:
                raise ValidationFailed(
                    f"Great Expectations could not evaluate it: {result.exception_info}",
                    where=f"{expectation.column}: {expectation.rule}",
                    hint="correct the expectation in problem.py",
                )
            failures = failures_of(chunk.take(pa.array(positions, pa.int64())), expectation.column)
            if expectation.name == "not_null":  # count an unreadable cell once, as unreadable
                failures = [(row, value) for row, value in failures if (row, expectation.column) not in unreadable]
            tallies.add(expectation, failures)

    def _run(self, frame: Any, expectations: list[Expectation], form: str) -> list[tuple[Expectation, Any]]:
        suite = self._new_suite(name=form.lower())
        for number, expectation in enumerate(expectations):
            compiled = self._compiled[expectation].copy()
            compiled.id, compiled.meta = None, {"number": number}
            suite.add_expectation(compiled)
        batch = self._batches.get_batch(batch_parameters={"dataframe": frame})
        results = batch.validate(suite, result_format={"result_format": form}).results
        return [(expectations[r.expectation_config.meta["number"]], r) for r in results]


def _gx_expectation(expectation: Expectation, table: Table) -> Any:
    """Create the Great Expectations form of a rule; None for rules that span chunks or tables."""
    import great_expectations.expectations as gxe

    name, column = expectation.column, table.columns.get(expectation.column)
    common: dict[str, Any] = {"column": name, "severity": expectation.severity}
    factories: dict[str, Callable[[], Any]] = {
        "not_null": lambda: gxe.ExpectColumnValuesToNotBeNull(**common),
        "range": lambda: gxe.ExpectColumnValuesToBeBetween(
            **common, min_value=getattr(column, "ge", None), max_value=getattr(column, "le", None)
        ),
        "one_of": lambda: gxe.ExpectColumnValuesToBeInSet(**common, value_set=list(getattr(column, "one_of", ()))),
        "pattern": lambda: gxe.ExpectColumnValuesToMatchRegex(**common, regex=getattr(column, "pattern", "")),
        "max_length": lambda: gxe.ExpectColumnValueLengthsToBeBetween(
            **common, max_value=getattr(column, "max_length", None)
        ),
    }
    return factories[expectation.name]() if expectation.name in factories else None

"""Choose each column's declaration: the narrowest one with which the parser reads nearly all of its cells."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.authoring.scaffold.declarations import (
    MARKERS,
    PLAIN_MARKERS,
    Dialect,
    candidates,
    detect_dialect,
    is_code,
    parse_numbers,
    propose_markers,
)
from truecourse.authoring.scaffold.staging import StagedFiles, is_plain
from truecourse.authoring.scaffold.time_formats import is_day_first, swap_day_month
from truecourse.data.parsing import as_text, is_text, read_cells
from truecourse.problem.schema import AnyColumn, Boolean, Csv, Float, Integer, Text, Time

_SAMPLE = 2000
_MAX_SHOWN = 5
_MAX_KEPT = 500
_LONG = re.compile(r"(?<![\d.,])\d{19,}(?![\d.,])")


@dataclass(frozen=True)
class Choice:
    """The declaration chosen for a column; fields as in ColumnProfile. `held`: the number of non-null cells."""

    declared: AnyColumn | None
    held: int = 0
    unreadable: int = 0
    exceptions: tuple[tuple[str, int], ...] = ()
    remarks: tuple[str, ...] = ()
    why_not: str = ""
    totals: tuple[str, ...] = ()


@dataclass(frozen=True)
class FileTypes:
    """The CSV dialect of the files and the declaration of each column, by position."""

    csv: Csv
    choices: tuple[Choice, ...]


def max_exceptions(held: int) -> int:
    """The number of cells that may fail to parse in a typed column: 1%, or up to three if that is at most 10%."""
    return max(held // 100, min(3, held // 10))


@dataclass
class _Trial:
    """One declaration, tried on all cells of a column.

    `back` counts times that are earlier than the row before; `months` holds the distinct months since 1970, `days` the
    distinct days of the month."""

    column: AnyColumn
    failed: Counter[str] = field(default_factory=Counter)
    count: int = 0
    back: int = 0
    last: int | None = None
    months: set[int] = field(default_factory=set)
    days: set[int] = field(default_factory=set)

    def read(self, cells: pa.Array, csv: Csv) -> None:
        array, failed = read_cells(cells, self.column, csv)
        self.count += len(failed)
        for text in failed.values():
            if len(self.failed) < _MAX_KEPT or text in self.failed:
                self.failed[text] += 1
        if isinstance(self.column, Time):
            moments = array.drop_null().cast(pa.int64()).to_numpy()
            if len(moments):
                self.back += int((moments[1:] < moments[:-1]).sum()) + (
                    self.last is not None and moments[0] < self.last
                )
                self.last = int(moments[-1])
                self._note_calendar(moments.astype("datetime64[us]"))

    def _note_calendar(self, moments: np.ndarray) -> None:
        months = moments.astype("datetime64[M]")
        days = (moments.astype("datetime64[D]") - months.astype("datetime64[D]")).astype(int) + 1
        self.months |= set(np.unique(months.astype(int)).tolist())
        self.days |= set(np.unique(days).tolist())

    @property
    def is_monthly(self) -> bool:
        """Whether all times fall on the same day of the month, in more than 12 months."""
        return len(self.days) == 1 and len(self.months) > 12


@dataclass
class _Column:
    """A column with the declarations tried on it. `zeros` counts whole numbers with a leading zero."""

    name: str
    kind: pa.DataType
    markers: frozenset[str]
    trials: list[_Trial]
    why_not: str = ""
    sample: tuple[str, ...] = ()
    held: int = 0
    zeros: int = 0
    example: str = ""


def choose_types(staged: StagedFiles) -> FileTypes:
    """Detect the files' dialect and choose a declaration for each column. Reads every cell."""
    samples = [_sample_texts(staged.sample(i), staged.csv) for i in range(len(staged.names))]
    columns = []
    is_csv = staged.format == "csv"
    markers = [propose_markers(texts) if is_csv else frozenset[str]() for texts in samples]
    kinds = staged.kinds
    plain = [[t for t in texts if t not in m] for texts, m in zip(samples, markers, strict=True)]
    dialect = Dialect()
    if is_csv:
        dialect = detect_dialect(t for t, kind in zip(plain, kinds, strict=True) if is_text(kind))
    csv = replace(staged.csv, decimal=dialect.decimal, thousands=dialect.thousands)  # type: ignore[arg-type]
    for name, kind, texts, marks in zip(staged.names, kinds, plain, markers, strict=True):
        why_not = _undeclarable_reason(name, kind, staged)
        tried = [] if why_not else _column_candidates(name, kind, texts, dialect, staged)
        columns.append(_Column(name, kind, marks, [_Trial(c) for c in tried], why_not, tuple(texts)))
    for batch in staged.batches():
        for column, cells in zip(columns, batch.columns, strict=True):
            _read(column, cells, _with_markers(csv, column.markers))
    chosen = [_choose(column, csv, staged.total_texts.get(i, set())) for i, column in enumerate(columns)]
    nulls = sorted({marker for _, found in chosen for marker in found})
    csv = replace(csv, null_values=(*csv.null_values, *(n for n in nulls if n not in csv.null_values)))
    return FileTypes(csv, tuple(choice for choice, _ in chosen))


def _sample_texts(cells: pa.Array, csv: Csv) -> list[str]:
    """Up to about _SAMPLE non-null values, as stripped texts."""
    if is_text(cells.type):
        cells, _ = read_cells(cells, Text(), csv)
    held = cells.drop_null()
    if not len(held):
        return []
    held = held.take(pa.array(range(0, len(held), max(1, len(held) // _SAMPLE)), pa.int64()))
    return [text.strip() for text in as_text(held).to_pylist()]


def _with_markers(csv: Csv, markers: frozenset[str]) -> Csv:
    return replace(csv, null_values=(*csv.null_values, *sorted(markers))) if markers else csv


def _undeclarable_reason(name: str, kind: pa.DataType, staged: StagedFiles) -> str:
    if not name.strip():
        return "has no name; give it one in the file to keep it"
    if name in staged.twice:
        return "its name occurs twice; rename one of the two in the file to keep them"
    if pa.types.is_null(kind):
        return "is empty"
    if not (is_text(kind) or is_plain(kind)):
        shown = str(kind).split("[")[0].split("<")[0]
        return f"holds values of type {shown}, which is not supported; write them as text or numbers to keep them"
    return ""


def _column_candidates(
    name: str, kind: pa.DataType, texts: Sequence[str], dialect: Dialect, staged: StagedFiles
) -> list[AnyColumn]:
    """Declarations to try, the narrowest first; without Text, which is the fallback."""
    if is_text(kind):
        found = candidates(name, texts, dialect)
        if staged.format == "parquet":  # stored as text on purpose: plain digits are codes
            found = [column for column in found if column != Integer()]
        return found
    if pa.types.is_boolean(kind):
        return [Boolean()]
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return [Time()]
    if pa.types.is_integer(kind):
        return [*(c for c in candidates(name, texts, Dialect()) if isinstance(c, Time)), Integer()]
    if pa.types.is_decimal(kind) and kind.scale <= 0:
        return [Integer()]
    return [Float()]


def _read(column: _Column, cells: pa.Array, csv: Csv) -> None:
    if column.why_not and not column.why_not.startswith("its name"):
        column.held += len(cells) - cells.null_count
        return
    if is_text(column.kind):
        texts, _ = read_cells(cells, Text(), csv)
        column.held += len(texts) - texts.null_count
        if any(isinstance(trial.column, Integer) for trial in column.trials):
            zeros = pc.fill_null(pc.match_substring_regex(texts, r"^0\d+$"), False)
            if count := pc.sum(zeros).as_py():
                column.zeros += count
                column.example = column.example or texts.filter(zeros)[0].as_py()
    else:
        column.held += len(cells) - cells.null_count
    for trial in column.trials:
        if trial.count <= max_exceptions(column.held) + 200:  # after more failures it cannot pass
            trial.read(cells, csv)
        else:
            trial.count += len(cells)


def _choose(column: _Column, csv: Csv, totals: set[str]) -> tuple[Choice, frozenset[str]]:
    """The choice for a column, and the texts that are read as null."""
    found = frozenset[str]()
    if column.why_not:
        return Choice(None, column.held, why_not=column.why_not), found
    if not column.held:
        return Choice(None, 0, why_not="is empty"), column.markers
    for trial in column.trials if csv.null_values else ():
        markers = {text for text in trial.failed if text.lower() in MARKERS}
        trial.count -= sum(trial.failed.pop(text) for text in markers)
        column.markers |= markers
    remarks: list[str] = []
    best = _best(column, remarks)
    if best is None:
        if not is_text(column.kind) and not column.trials:
            return Choice(None, column.held, why_not="no type can read it"), found
        plain = frozenset(m for m in column.markers if m.lower() in PLAIN_MARKERS)
        remarks += _text_reason(column, csv)
        remarks_with_markers = _with_marker_remark(plain, remarks)
        return Choice(Text(), column.held, remarks=remarks_with_markers, totals=tuple(sorted(totals))), plain
    remarks += _format_remarks(best.column)
    marks = column.markers if is_text(column.kind) else found
    exceptions = tuple(best.failed.most_common(_MAX_SHOWN))
    return Choice(best.column, column.held, best.count, exceptions, _with_marker_remark(marks, remarks)), marks


def _best(column: _Column, remarks: list[str]) -> _Trial | None:
    """The narrowest declaration within max_exceptions; a wider one if it reads more cells. None for Text."""
    most = max_exceptions(column.held)
    if not is_text(column.kind):
        return min(column.trials, key=lambda t: t.count) if any(t.count == 0 for t in column.trials) or (
            isinstance(column.trials[-1].column, Float)) else None  # fmt: skip
    passing = [trial for trial in column.trials if trial.count <= most]
    if not passing:
        return None
    times = [trial for trial in passing if isinstance(trial.column, Time)]
    if times and times[0] is passing[0]:
        return _best_time(times, csv_day_first=False, remarks=remarks)
    best = passing[0]
    whole = next((t for t in column.trials if isinstance(t.column, Integer)), best)
    if isinstance(best.column, Integer | Float) and _LONG.search(" ".join(whole.failed)):
        remarks.append("kept as text: whole numbers of more than 64 bits")
        return None
    if isinstance(best.column, Integer):
        wider = next((t for t in passing if isinstance(t.column, Float) and t.count < best.count), None)
        if wider is None and _holds_codes(column, best, remarks):
            return None
        return wider or best
    return best


def _holds_codes(column: _Column, trial: _Trial, remarks: list[str]) -> bool:
    """Whether the digits are codes, not quantities: some have leading zeros, or other values contain letters."""
    if column.zeros:
        remarks.append(f"codes, because of leading zeros, such as {column.example!r}")
        return True
    codes = [text for text in trial.failed if is_code(text)]
    if codes:
        remarks.append(f"codes, because of values such as {', '.join(map(repr, codes[:3]))}")
    return bool(codes)


def _best_time(times: list[_Trial], *, csv_day_first: bool, remarks: list[str]) -> _Trial:
    fewest = min(trial.count for trial in times)
    best = [trial for trial in times if trial.count == fewest]
    first = best[0]
    form = first.column.format if isinstance(first.column, Time) else None
    other = swap_day_month(form) if form else None
    rival = next((t for t in best if isinstance(t.column, Time) and t.column.format == other), None) if other else None
    if rival is None or form is None:
        return first
    if first.is_monthly != rival.is_monthly:
        chosen = first if first.is_monthly else rival
        why = "so that all rows are of one day of each month"
    elif first.back != rival.back:
        chosen = min((first, rival), key=lambda t: t.back)
        why = "so that the rows are in order of time"
    else:
        day_first = "." in form or csv_day_first
        chosen = first if is_day_first(form) == day_first else rival
        why = "as is usual with points" if "." in form else "as is usual with slashes and dashes in American files"
    assert isinstance(chosen.column, Time)
    order = "day before month" if is_day_first(str(chosen.column.format)) else "month before day"
    swapped = other if chosen is first else form
    remarks.append(f"no day is above 12: read as {order}, {why}; for the other order write format={swapped!r}")
    return chosen


def _format_remarks(declared: AnyColumn) -> list[str]:
    if isinstance(declared, Time) and declared.format:
        return [f"times are written as {declared.format}"]
    if isinstance(declared, Integer | Float) and declared.symbol:
        return [f"numbers are written with {declared.symbol}, which is removed"]
    return []


def _text_reason(column: _Column, csv: Csv) -> list[str]:
    """Why a column of many numbers is declared as text."""
    texts = list(dict.fromkeys(column.sample))
    found = parse_numbers(texts) if texts and not column.zeros else None
    if found is None or not is_text(column.kind) or any(map(is_code, (*texts, *_failures(column)))):
        return []
    if found.dialect.decimal != csv.decimal and found.dialect.certain:
        return [f"kept as text: its decimal sign is {found.dialect.decimal!r}, that of the file {csv.decimal!r}"]
    tried = next((t for t in column.trials if isinstance(t.column, Float)), None)
    if tried is None or not tried.failed or len(column.trials[-1].failed) >= _MAX_KEPT:
        return []
    shown = ", ".join(f"{text!r} {count}" for text, count in tried.failed.most_common(_MAX_SHOWN))
    share = tried.count / column.held
    return [f"kept as text: {share:.1%} of its cells are not numbers ({shown}); Float() sets those rows aside"]


def _failures(column: _Column) -> list[str]:
    return [text for trial in column.trials for text in trial.failed]


def _with_marker_remark(markers: frozenset[str], remarks: Sequence[str]) -> tuple[str, ...]:
    if not markers:
        return tuple(remarks)
    return (f"read as missing: {', '.join(map(repr, sorted(markers)))}", *remarks)

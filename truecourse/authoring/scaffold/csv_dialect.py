"""Detect a data file's format, and for CSV its encoding, delimiter, title lines and header.

`duckdb.sniff_csv` and `clevercsv` were measured on the files of tests/unit/test_csv_dialect.py: they take another
delimiter or header where lines stand above the header, where a few rows are short or where each row begins with a name
that the header lacks."""

import codecs
import csv
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from truecourse.data.decoding import detect_encoding, marked_encoding
from truecourse.errors import SourceError
from truecourse.problem.schema import Csv, Format

HEAD_BYTES = 256 * 1024
DELIMITERS = (",", ";", "\t", "|")
_ROWS = 500


@dataclass(frozen=True)
class CsvForm:
    """A CSV file's dialect, column names and title lines."""

    csv: Csv
    header: tuple[str, ...]
    titles: tuple[str, ...]
    """The lines above the header."""


def detect_format(file: Path, where: str) -> Format:
    """Detect the format from the file's first bytes. Raises SourceError for an unsupported format."""
    with file.open("rb") as opened:
        head = opened.read(4096)
    if head[:4] == b"PAR1":
        return "parquet"
    if head[:4] == b"PK\3\4":
        hint = "save a workbook's sheet as CSV; give an archive the suffix .zip"
        raise SourceError("is a zip archive or an Excel workbook", where=where, hint=hint)
    if marked_encoding(file) is None and _wide_encoding(head) is None and b"\0" in head:
        raise SourceError("is neither CSV, JSON lines nor Parquet", where=where, hint="convert it to CSV or Parquet")
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if text.startswith((b"[{", b"[\n", b"[ ", b"[\r")):
        hint = "write one JSON object per line (JSON lines), or CSV"
        raise SourceError("is one JSON array", where=where, hint=hint)
    return "jsonl" if text.startswith(b"{") and b'"' in text else "csv"


def detect_csv_form(file: Path, where: str) -> CsvForm:
    """Detect how a CSV file is written.

    Raises SourceError for a file without text or header line, for binary data, and if most rows have another number of
    cells than the header."""
    encoding = _encoding(file, where)
    with file.open("rb") as opened:
        head = opened.read(HEAD_BYTES)
    # the utf-16 codecs remove a byte order mark; utf-8 does not
    text = head.decode(encoding, errors="ignore").removeprefix("\ufeff")
    if "\0" in text[:HEAD_BYTES]:
        raise SourceError("is neither CSV, JSON lines nor Parquet", where=where, hint="convert it to CSV or Parquet")
    ended = max(text.rfind("\n"), text.rfind("\r")) + 1
    lines = text[:ended] if len(head) == HEAD_BYTES and ended else text
    best = _separator_line(lines) or max((_layout(lines, sign) for sign in DELIMITERS), key=lambda layout: layout.rank)
    if not any(name.strip() for name in best.header):
        raise SourceError("has no header line", where=where, hint="name the columns in its first line")
    _require_same_width(best, where)
    titles = tuple(line.strip() for line in islice(io.StringIO(lines, newline=""), best.skipped))
    dialect = Csv(delimiter=best.delimiter, encoding=encoding, skip_lines=best.skipped)
    return CsvForm(dialect, best.header, titles)


@dataclass(frozen=True)
class _Layout:
    """The first lines, split by a delimiter; `share` of the rows have `width` cells, the most common number."""

    delimiter: str
    header: tuple[str, ...]
    skipped: int
    width: int
    share: float
    rows: tuple[tuple[str, ...], ...]

    @property
    def rank(self) -> tuple[bool, int, float]:
        return (self.width > 1 and self.share >= 0.6, -self.skipped, self.width * self.share)


def _separator_line(text: str) -> _Layout | None:
    """The layout given by a first line such as `sep=;`, which Excel supports; None without such a line."""
    first, _, rest = text.partition("\n")
    sign = first.strip().removeprefix("sep=")
    if not first.startswith("sep=") or len(sign) != 1:
        return None
    layout = _layout(rest, sign)
    return replace(layout, skipped=layout.skipped + 1)


def _layout(text: str, delimiter: str) -> _Layout:
    numbered = list(_rows(text, delimiter))
    widths = Counter(len(row) for _, row in numbered[1:] or numbered)
    if not widths:
        return _Layout(delimiter, (), 0, 0, 0.0, ())
    width, count = widths.most_common(1)[0]
    near = {width, width - 1, width + 1} if width > 3 else {width}
    if width > 1:
        start = next((i for i, (_, row) in enumerate(numbered) if len(row) in near), 0)
        first = len(numbered[0][1])
        start = 0 if first > 1 and abs(first - width) <= 1 else start
        start = _header_row([row for _, row in numbered], start, width)
    else:
        start = 0
    skipped = numbered[start][0] - 1 if start else 0
    header, rows = tuple(numbered[start][1]), tuple(tuple(row) for _, row in numbered[start + 1 :])
    return _Layout(delimiter, header, skipped, width, count / max(1, len(numbered) - 1), rows)


def _header_row(rows: list[list[str]], start: int, width: int) -> int:
    """The index of the header: the first row with enough filled cells. Spreadsheets pad title lines with empty ones."""
    for place in range(start, min(start + 20, len(rows))):
        filled = sum(bool(cell.strip()) for cell in rows[place])
        if filled > width / 2 or width < 3:
            return place
    return start


def _rows(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The first _ROWS rows that are not blank, each with the number of its first line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    begins, found = 1, 0
    try:
        for row in reader:
            if any(cell.strip() for cell in row) or len(row) > 1:
                yield begins, row
                found += 1
            begins = reader.line_num + 1
            if found >= _ROWS:
                return
    except csv.Error:  # a quote that is never closed
        return


def _require_same_width(layout: _Layout, where: str) -> None:
    """Raise SourceError if most rows have another number of cells than the header; ingest would set them aside."""
    names, cells = len(layout.header), layout.width
    if names == cells or len(layout.rows) < 2 or layout.share < 0.6:
        return
    what = f"the header has {names} names, and the rows have {cells} cells: cells and header differ"
    sign = {"\t": "a tab"}.get(layout.delimiter, repr(layout.delimiter))
    full = [row for row in layout.rows if len(row) == cells]
    if cells == names + 1 and not any(row[-1].strip() for row in full):
        what += f"; every row ends in {sign}"
        hint = f"end the header line in {sign} too (a column without a name is left out), or remove it from the rows"
    elif cells == names + 1:
        what += f"; the first cell of each row ({full[0][0]!r}, {full[-1][0]!r}) may be a row name, as R writes it"
        hint = f"write a name and {sign} before the header, as in row{layout.delimiter}{layout.header[0]}, or "
        hint += "write the file without row names (row.names=FALSE)"
    else:
        hint = "give each column one name in the header line"
    raise SourceError(what, where=where, hint=hint)


def _encoding(file: Path, where: str) -> str:
    """Detect the encoding, including UTF-16 without a byte order mark.

    Raises SourceError for UTF-8 with a few invalid lines."""
    with file.open("rb") as opened:
        head = opened.read(4096)
    if marked_encoding(file) is None and (wide := _wide_encoding(head)):
        return wide
    encoding = detect_encoding(file)
    if encoding in ("utf-8", "utf-16"):
        return encoding
    invalid, valid = _count_undecodable(file)
    if invalid is not None and valid >= 10 * invalid[2]:
        number, line, _ = invalid
        what = f"line {number} is not UTF-8, unlike the other lines: {line[:60]!r}"
        raise SourceError(what, where=where, hint="correct that line, or write the whole file in one encoding")
    return encoding


def _wide_encoding(head: bytes) -> str | None:
    """Detect UTF-16 without a byte order mark: every other byte of Latin text is zero."""
    even, odd = head[0:2000:2], head[1:2000:2]
    if len(odd) < 4:
        return None
    if odd.count(0) > 0.7 * len(odd) and even.count(0) == 0:
        return "utf-16-le"
    return "utf-16-be" if even.count(0) > 0.7 * len(even) and odd.count(0) == 0 else None


def _count_undecodable(file: Path) -> tuple[tuple[int, bytes, int] | None, int]:
    """Count the lines beyond ASCII.

    Returns (number, bytes, count) of the invalid lines, by the first of them, or None; and the number of valid ones."""
    first: tuple[int, bytes] | None = None
    invalid = valid = 0
    with file.open("rb") as opened:
        for number, line in enumerate(opened, start=1):
            if line.isascii():
                continue
            try:
                line.decode("utf-8")
                valid += 1
            except UnicodeDecodeError:
                invalid += 1
                first = first or (number, line.strip())
    return (None if first is None else (*first, invalid)), valid

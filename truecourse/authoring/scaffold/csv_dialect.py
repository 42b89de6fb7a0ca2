"""How a data file is written: its format, and for CSV its encoding, delimiter, title lines and header."""

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
    csv: Csv
    header: tuple[str, ...]
    titles: tuple[str, ...]
    """The lines above the header."""


def detect_format(file: Path, where: str) -> Format:
    """Told by the file's first bytes. Raises SourceError for what is none of the formats."""
    with file.open("rb") as opened:
        head = opened.read(4096)
    if head[:4] == b"PAR1":
        return "parquet"
    if head[:4] == b"PK\3\4":
        hint = "if it is a workbook, save its sheet as CSV; if it is an archive, name it .zip"
        raise SourceError("is a zip archive or an Excel workbook", where=where, hint=hint)
    if marked_encoding(file) is None and _wide_encoding(head) is None and b"\0" in head:
        raise SourceError("is neither CSV, JSON lines nor Parquet", where=where, hint="convert it to CSV or Parquet")
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if text.startswith((b"[{", b"[\n", b"[ ", b"[\r")):
        hint = "write one JSON object a line (JSON lines), or CSV"
        raise SourceError("is one JSON array", where=where, hint=hint)
    return "jsonl" if text.startswith(b"{") and b'"' in text else "csv"


def detect_csv_form(file: Path, where: str) -> CsvForm:
    """Raises SourceError for a file with no text or no header line, bytes that are no text, or rows that all have
    another number of cells than the header."""
    encoding = _encoding(file, where)
    with file.open("rb") as opened:
        head = opened.read(HEAD_BYTES)
    # the utf-16 codecs take a mark off; utf-8 leaves it
    text = head.decode(encoding, errors="ignore").removeprefix("\ufeff")
    if "\0" in text[:HEAD_BYTES]:
        raise SourceError("is neither CSV, JSON lines nor Parquet", where=where, hint="convert it to CSV or Parquet")
    ended = max(text.rfind("\n"), text.rfind("\r")) + 1
    whole = text[:ended] if len(head) == HEAD_BYTES and ended else text
    best = _separator_line(whole) or max((_layout(whole, sign) for sign in DELIMITERS), key=lambda layout: layout.rank)
    if not any(name.strip() for name in best.header):
        raise SourceError("has no header line", where=where, hint="name the columns in its first line")
    _require_same_width(best, where)
    titles = tuple(line.strip() for line in islice(io.StringIO(whole, newline=""), best.skipped))
    made = Csv(delimiter=best.delimiter, encoding=encoding, skip_lines=best.skipped)
    return CsvForm(made, best.header, titles)


@dataclass(frozen=True)
class _Layout:
    """What a delimiter makes of the first lines. `width`: the cells of most rows; `share` of the rows have so many."""

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
    """What a first line of `sep=;`, which Excel reads, says."""
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
    """The first row that names its columns: spreadsheets fill title lines up with empty cells."""
    for place in range(start, min(start + 20, len(rows))):
        filled = sum(bool(cell.strip()) for cell in rows[place])
        if filled > width / 2 or width < 3:
            return place
    return start


def _rows(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The first rows, blank ones left out, each with the number of the line it begins on."""
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
    """Rows that all have one cell more or less than the header has names would all be set aside by ingest."""
    names, cells = len(layout.header), layout.width
    if names == cells or len(layout.rows) < 2 or layout.share < 0.6:
        return
    what = f"the header has {names} names, and the rows have {cells} cells: cells and header differ"
    sign = {"\t": "a tab"}.get(layout.delimiter, repr(layout.delimiter))
    full = [row for row in layout.rows if len(row) == cells]
    if cells == names + 1 and not any(row[-1].strip() for row in full):
        what += f"; every row ends in {sign}"
        hint = f"end the header line in {sign} too (a column with no name is left out), or take it off the rows"
    elif cells == names + 1:
        what += f"; the first cell of each row ({full[0][0]!r}, {full[-1][0]!r}) may be a row name, as R writes it"
        hint = f"write a name and {sign} before the header, as in row{layout.delimiter}{layout.header[0]}, or "
        hint += "write the file without row names (row.names=FALSE)"
    else:
        hint = "give each column one name in the header line"
    raise SourceError(what, where=where, hint=hint)


def _encoding(file: Path, where: str) -> str:
    """As detect_encoding finds it; UTF-16 without a mark too. Raises SourceError for UTF-8 with a few broken lines."""
    with file.open("rb") as opened:
        head = opened.read(4096)
    if marked_encoding(file) is None and (wide := _wide_encoding(head)):
        return wide
    encoding = detect_encoding(file)
    if encoding in ("utf-8", "utf-16"):
        return encoding
    broken, sound = _count_undecodable(file)
    if broken is not None and sound >= 10 * broken[2]:
        number, line, _ = broken
        what = f"line {number} is not UTF-8, as the other lines are: {line[:60]!r}"
        raise SourceError(what, where=where, hint="mend that line, or write the whole file in one encoding")
    return encoding


def _wide_encoding(head: bytes) -> str | None:
    """UTF-16 without a mark: every other byte of Latin text is zero."""
    even, odd = head[0:2000:2], head[1:2000:2]
    if len(odd) < 4:
        return None
    if odd.count(0) > 0.7 * len(odd) and even.count(0) == 0:
        return "utf-16-le"
    return "utf-16-be" if even.count(0) > 0.7 * len(even) and odd.count(0) == 0 else None


def _count_undecodable(file: Path) -> tuple[tuple[int, bytes, int] | None, int]:
    """The first line that is not UTF-8 (its number and bytes) with how many there are, and how many lines are UTF-8
    beyond ASCII."""
    first: tuple[int, bytes] | None = None
    broken = sound = 0
    with file.open("rb") as opened:
        for number, line in enumerate(opened, start=1):
            if line.isascii():
                continue
            try:
                line.decode("utf-8")
                sound += 1
            except UnicodeDecodeError:
                broken += 1
                first = first or (number, line.strip())
    return (None if first is None else (*first, broken)), sound

"""Split delimited text (CSV, TSV) into rows and cells, and separate malformed lines.

A cell that begins with the quote ends with the next single quote; a doubled quote stands for one. A quote elsewhere in
a cell is an ordinary character. A line is malformed if its quote is never closed or is closed inside a cell, or if it
has more or fewer cells than the header; a row of several lines with the wrong number of cells is malformed as a whole.
The text and number of a malformed line are kept, and reading continues with the next line. Arrow reads the blocks in
which every quote is well placed; the others are read line by line, with the same result.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.csv

from truecourse.data.decoding import count_lines
from truecourse.data.parsing import Malformed
from truecourse.errors import SourceError
from truecourse.problem.schema import Csv

MAX_ROW_BYTES = 4 << 20
"""Most bytes of one row: a quote that is not closed within them counts as never closed."""
AGREEING = 6
"""A quoted cell whose lines look like rows with this many delimiters in total has swallowed rows."""
_STEP = 1_000
"""Rows read line by line before Arrow is tried again; doubled each time it fails."""
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|\Z)")


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows: an array of text for each column wanted, null in the rows of malformed lines."""

    cells: list[pa.Array]
    rows: int
    malformed: tuple[Malformed, ...] = ()


@dataclass
class _Row:
    """One row read line by line: its cells, or the fault of its lines. `lines`: their texts. `end`: where the next row
    begins. `blank`: an empty line, which is skipped."""

    cells: list[str]
    lines: list[str]
    end: int
    fault: str = ""
    blank: bool = False


class Records:
    """The header and rows of a stream of UTF-8 text. Raises SourceError if it has no header."""

    def __init__(self, blocks: Iterator[bytes], csv: Csv, where: str) -> None:
        self._blocks, self._csv = blocks, csv
        self._buffer, self._ended = b"", False
        self._line = 1
        self._scanner = _Scanner(csv)
        for _ in range(csv.skip_lines):
            self._skip_line()
        self.names = tuple(csv.names) if csv.names else self._header(where)

    def chunks(self, wanted: Sequence[int]) -> Iterator[Chunk]:
        """Yield all rows, with the columns at these positions."""
        step = _STEP
        while self._fill(2 * MAX_ROW_BYTES):
            end, irregular = _well_formed(self._buffer, self._csv, len(self.names), self._ended)
            step = _STEP if end > MAX_ROW_BYTES // 4 else 2 * step
            if end:
                piece = self._buffer[:end]
                chunk = self._read_with_arrow(piece, wanted)
                yield self._read_by_line(piece, wanted, len(piece))[0] if chunk is None else chunk
                self._consume(end)
            if irregular and self._fill(2 * MAX_ROW_BYTES):
                chunk, end = self._read_by_line(self._buffer, wanted, step)
                yield chunk
                self._consume(end)

    def _fill(self, least: int) -> bool:
        """Read until the buffer holds `least` bytes or the stream ends. Return whether the buffer holds any."""
        parts = [self._buffer]
        held = len(self._buffer)
        while held < least and not self._ended:
            block = next(self._blocks, b"")
            self._ended = not block
            parts.append(block)
            held += len(block)
        self._buffer = b"".join(parts)
        return bool(self._buffer)

    def _consume(self, end: int) -> None:
        """Remove the first `end` bytes from the buffer, and count their lines."""
        self._line += count_lines(self._buffer[:end])
        self._buffer = self._buffer[end:]

    def _skip_line(self) -> None:
        self._fill(MAX_ROW_BYTES)
        line = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n|\Z)").match(self._buffer)
        assert line is not None
        self._consume(line.end())

    def _header(self, where: str) -> tuple[str, ...]:
        hint = "write the column names in the first line, or in the source: csv=Csv(names=[...])"
        while self._fill(MAX_ROW_BYTES):
            row = self._scanner.row(self._buffer[:MAX_ROW_BYTES].decode(errors="ignore"), 0, None)
            if row.fault:
                what = f"line {self._line}, the header, cannot be split into names: {row.fault}"
                raise SourceError(what, where=where, hint=hint)
            line = self._line
            self._consume(len("".join(row.lines).encode()))
            if not row.blank:
                if "\0" in "".join(row.cells):
                    hint = 'set its encoding, for example csv=Csv(encoding="utf-16-le")'
                    raise SourceError(f"line {line} contains zero bytes", where=where, hint=hint)
                return tuple(name.strip() for name in row.cells) if self._csv.trim else tuple(row.cells)
        raise SourceError("has no header line", where=where, hint=hint)

    def _read_with_arrow(self, piece: bytes, wanted: Sequence[int]) -> Chunk | None:
        """Read text with Arrow; None if some line has more or fewer cells than the header."""
        if piece.isspace() and not piece.strip(b"\r\n"):
            return Chunk([pa.nulls(0, pa.string())] * len(wanted), 0)
        invalid: list[object] = []

        def note(row: object) -> str:
            invalid.append(row)
            return "skip"

        quote = self._csv.quote if self._csv.quote and self._csv.quote.encode() in piece else False
        names = [f"c{number}" for number in range(len(self.names))]
        table = pa.csv.read_csv(
            pa.py_buffer(piece),
            pa.csv.ReadOptions(block_size=len(piece) + 1, column_names=names),
            pa.csv.ParseOptions(
                delimiter=self._csv.delimiter,
                quote_char=quote,
                double_quote=True,
                newlines_in_values=bool(quote),
                invalid_row_handler=note,
            ),
            pa.csv.ConvertOptions(
                check_utf8=False,
                column_types=dict.fromkeys(names, pa.string()),
                include_columns=[names[position] for position in wanted],
                strings_can_be_null=False,
            ),
        )
        if invalid:
            return None
        return Chunk([_array(column) for column in table.columns], len(table))

    def _read_by_line(self, piece: bytes, wanted: Sequence[int], most: int) -> tuple[Chunk, int]:
        """Read up to `most` rows line by line. Return them and their size in bytes. A row that may continue after the
        text is left for the next call."""
        text, width, line = piece.decode(), len(self.names), self._line
        rows: list[list[str] | None] = []
        malformed: list[Malformed] = []
        at = 0
        limit = len(text) if self._ended or most >= len(piece) else len(text) // 2
        while at < limit and len(rows) < most:
            row = self._scanner.row(text, at, width)
            at = row.end
            if row.fault:
                for number, content in enumerate(row.lines):
                    malformed.append(Malformed(len(rows), line + number, content.rstrip("\r\n"), row.fault))
                    rows.append(None)
            elif not row.blank:
                rows.append(row.cells)
            line += len(row.lines)
        cells = [pa.array([row and row[position] for row in rows], pa.string()) for position in wanted]
        return Chunk(cells, len(rows), tuple(malformed)), len(text[:at].encode())


def _array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


class _Scanner:
    """Splits text into rows one by one, by the rules of this module."""

    def __init__(self, csv: Csv) -> None:
        self._quote, self._delimiter, self._trim = csv.quote, csv.delimiter, csv.trim
        quote, delimiter = re.escape(csv.quote), re.escape(csv.delimiter)
        space = ("[ \t]*" if csv.delimiter != "\t" else "[ ]*") if csv.trim else ""
        self._plain = re.compile(rf"[^{delimiter}\r\n]*")
        self._open = re.compile(space + quote)
        self._quoted = re.compile(f"([^{quote}]*(?:{quote}{quote}[^{quote}]*)*){quote}{space}") if quote else None

    def row(self, text: str, at: int, width: int | None) -> _Row:
        """The row that begins at position `at` of the text. `width`: its number of cells, if known."""
        line = _LINE.match(text, at)
        assert line is not None
        raw = line.group()
        content = raw.rstrip("\r\n")
        if not content or (self._trim and not content.strip() and width != 1):
            return _Row([], [raw], line.end(), blank=True)
        if self._quoted is None or self._quote not in content:
            return self._checked(content.split(self._delimiter), [raw], line.end(), width)
        cells: list[str] = []
        place = at
        while True:
            opened = self._open.match(text, place)
            if opened:
                closed = self._quoted.match(text, opened.end(), min(len(text), at + MAX_ROW_BYTES))
                if closed is None:
                    return _Row([], [raw], line.end(), "a quote is opened and never closed")
                cells.append(closed.group(1).replace(self._quote * 2, self._quote))
                place = closed.end()
            else:
                plain = self._plain.match(text, place)
                assert plain is not None
                cells.append(plain.group())
                place = plain.end()
            if text[place : place + 1] == self._delimiter:
                place += 1
                continue
            if place < len(text) and text[place] not in "\r\n":
                return _Row([], [raw], line.end(), "text follows a closing quote")
            break
        end = place + (2 if text[place : place + 2] == "\r\n" else 1 if place < len(text) else 0)
        lines = [raw] if end == line.end() else [part for part in _LINE.findall(text[at:end]) if part]
        if width is not None and len(lines) > 1 and self._has_swallowed_rows(lines, width):
            return _Row([], [raw], line.end(), "a quote is opened, and the next quote is several rows later")
        return self._checked(cells, lines, end, width)

    def _checked(self, cells: list[str], lines: list[str], end: int, width: int | None) -> _Row:
        count = len(cells)
        if width is None or count == width:
            return _Row(cells, lines, end)
        return _Row([], lines, end, f"has {count} cell{'s' * (count != 1)}, not {width}")

    def _has_swallowed_rows(self, lines: list[str], width: int) -> bool:
        """Whether each line of one row would be a row if quotes were ordinary characters."""
        if len(lines) < 3 or (len(lines) - 1) * (width - 1) < AGREEING:
            return False
        return all(line.count(self._delimiter) == width - 1 for line in lines)


def _well_formed(text: bytes, csv: Csv, width: int, ended: bool) -> tuple[int, bool]:
    """The number of leading bytes that are complete rows with well placed quotes, and whether the text after them must
    be read line by line (otherwise more text is needed). `ended`: no text comes after this."""
    if not csv.quote or csv.quote.encode() not in text:
        # A trailing carriage return may be half of a line end.
        end = len(text) if ended else text.rfind(b"\n") + 1 or text.rfind(b"\r", 0, -1) + 1
        return end, not end
    codes = np.frombuffer(text, np.uint8)
    ends = _line_ends(codes, ended)
    quotes = np.flatnonzero(codes == ord(csv.quote))
    outside = np.searchsorted(quotes, ends) % 2 == 0
    misplaced = _first_misplaced(codes, quotes, csv)
    swallowing = _first_swallowing(codes, ends, outside, csv, width)
    limit = min(misplaced, swallowing)
    if len(quotes) % 2 and ended:
        limit = min(limit, int(quotes[-1]))
    complete = ends[outside & (ends < limit)]
    end = int(complete[-1]) + 1 if len(complete) else 0
    if limit == len(text) and ended and len(quotes) % 2 == 0:
        return len(text), False
    return end, limit < len(text) or len(text) - end >= MAX_ROW_BYTES


def _line_ends(codes: np.ndarray, ended: bool) -> np.ndarray:
    """Positions of the last byte of every line end. A trailing carriage return may be half of one."""
    feeds = codes == ord("\n")
    returns = codes == ord("\r")
    if returns.any():
        alone = returns.copy()
        alone[:-1] &= ~feeds[1:]
        alone[-1] &= ended
        feeds = feeds | alone
    return np.flatnonzero(feeds)


def _first_misplaced(codes: np.ndarray, quotes: np.ndarray, csv: Csv) -> int:
    """Position of the first quote that neither opens nor closes a cell and is not doubled; len(codes) if none."""
    boundary = np.zeros(256, dtype=bool)
    boundary[[ord(csv.delimiter), ord("\n"), ord("\r"), ord(csv.quote)]] = True
    opening, closing = quotes[0::2], quotes[1::2]
    good_open = boundary[codes[np.maximum(opening - 1, 0)]] | (opening == 0)
    following = np.minimum(closing + 1, len(codes) - 1)
    good_close = boundary[codes[following]] | (closing == len(codes) - 1)
    bad = [int(opening[~good_open][0])] if not good_open.all() else []
    bad += [int(closing[~good_close][0])] if not good_close.all() else []
    return min(bad, default=len(codes))


def _first_swallowing(codes: np.ndarray, ends: np.ndarray, outside: np.ndarray, csv: Csv, width: int) -> int:
    """Position of the first row of which each line would be a row without quotes; len(codes) if there is none."""
    if outside.all() or width < 2:
        return len(codes)
    if not len(ends) or ends[-1] < len(codes) - 1:
        ends, outside = np.append(ends, len(codes)), np.append(outside, True)
    starts = np.concatenate(([0], ends[:-1] + 1))
    delimiters = np.flatnonzero(codes == ord(csv.delimiter))
    counts = np.searchsorted(delimiters, ends) - np.searchsorted(delimiters, starts)
    row = np.concatenate(([0], np.cumsum(outside)[:-1]))
    lines, agreeing = np.bincount(row), np.bincount(row, weights=counts == width - 1)
    swallowed = (lines >= 3) & (lines == agreeing) & ((lines - 1) * (width - 1) >= AGREEING)
    if not swallowed.any():
        return len(codes)
    return int(starts[np.argmax(row == np.argmax(swallowed))])

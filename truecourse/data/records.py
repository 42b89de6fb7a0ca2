"""Rows of delimited text (CSV, TSV): split into cells, and the lines that are no rows told apart.

A cell that begins with the quote ends with the next single one; two of them stand for one. A quote elsewhere in a cell
is a character like others. A line is set aside (its text and number are kept, and reading goes on with the next line)
if a quote that it opens is never closed, or closed amid a cell, or if it has more or fewer cells than the header; so
are all lines of a row that has too many or too few. Stretches in which every quote stands where it should are read by
Arrow, all others line by line, with the same result.
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

LONGEST = 4 << 20
"""Bytes of one row: a quote that is not closed within as many is taken as one that is never closed."""
AGREEING = 6
"""So many delimiters, just where rows of the file would have them, show that a quoted cell has swallowed rows."""
_STEP = 1_000
"""Rows read line by line before it is tried again whether Arrow can go on; twice as many each time it cannot."""
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|\Z)")


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows: an array of text for each column wanted, null in the rows of malformed lines."""

    cells: list[pa.Array]
    rows: int
    malformed: tuple[Malformed, ...] = ()


@dataclass
class _Row:
    """One row read line by line: its cells, or why its lines are none. `lines`: their texts. `end`: where the next row
    begins. `blank`: an empty line, which is no row and no fault."""

    cells: list[str]
    lines: list[str]
    end: int
    fault: str = ""
    blank: bool = False


class Records:
    """The header and rows of a stream of UTF-8 text. Raises SourceError for one that has no header."""

    def __init__(self, blocks: Iterator[bytes], csv: Csv, where: str) -> None:
        self._blocks, self._csv = blocks, csv
        self._buffer, self._ended = b"", False
        self._line = 1
        self._scanner = _Scanner(csv)
        for _ in range(csv.skip_lines):
            self._skip_line()
        self.names = tuple(csv.names) if csv.names else self._header(where)

    def chunks(self, wanted: Sequence[int]) -> Iterator[Chunk]:
        """All rows, with the columns at these positions."""
        step = _STEP
        while self._fill(2 * LONGEST):
            end, odd = _well_formed(self._buffer, self._csv, len(self.names), self._ended)
            step = _STEP if end > LONGEST // 4 else 2 * step
            if end:
                piece = self._buffer[:end]
                chunk = self._quick(piece, wanted)
                yield self._slow(piece, wanted, len(piece))[0] if chunk is None else chunk
                self._forget(end)
            if odd and self._fill(2 * LONGEST):
                chunk, end = self._slow(self._buffer, wanted, step)
                yield chunk
                self._forget(end)

    def _fill(self, least: int) -> bool:
        """Read on until there are so many bytes, or no more to come. Whether there are any."""
        parts = [self._buffer]
        held = len(self._buffer)
        while held < least and not self._ended:
            block = next(self._blocks, b"")
            self._ended = not block
            parts.append(block)
            held += len(block)
        self._buffer = b"".join(parts)
        return bool(self._buffer)

    def _forget(self, end: int) -> None:
        self._line += count_lines(self._buffer[:end])
        self._buffer = self._buffer[end:]

    def _skip_line(self) -> None:
        self._fill(LONGEST)
        found = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n|\Z)").match(self._buffer)
        assert found is not None
        self._forget(found.end())

    def _header(self, where: str) -> tuple[str, ...]:
        hint = "name the columns in the first line, or in the source: csv=Csv(names=[...])"
        while self._fill(LONGEST):
            row = self._scanner.row(self._buffer[:LONGEST].decode(errors="ignore"), 0, None)
            if row.fault:
                what = f"line {self._line}, the header, cannot be split into names: {row.fault}"
                raise SourceError(what, where=where, hint=hint)
            line = self._line
            self._forget(len("".join(row.lines).encode()))
            if not row.blank:
                if "\0" in "".join(row.cells):
                    hint = 'name its encoding, csv=Csv(encoding="utf-16-le") for example'
                    raise SourceError(f"line {line} holds zero bytes", where=where, hint=hint)
                return tuple(name.strip() for name in row.cells) if self._csv.trim else tuple(row.cells)
        raise SourceError("has no header line", where=where, hint=hint)

    def _quick(self, piece: bytes, wanted: Sequence[int]) -> Chunk | None:
        """By Arrow; None if some line has more or fewer cells than the header."""
        if piece.isspace() and not piece.strip(b"\r\n"):
            return Chunk([pa.nulls(0, pa.string())] * len(wanted), 0)
        odd: list[bool] = []

        def note(row: object) -> str:
            odd.append(True)
            return "skip"

        quote = self._csv.quote if self._csv.quote and self._csv.quote.encode() in piece else False
        names = [f"c{place}" for place in range(len(self.names))]
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
                include_columns=[names[place] for place in wanted],
                strings_can_be_null=False,
            ),
        )
        if odd:
            return None
        return Chunk([_array(column) for column in table.columns], len(table))

    def _slow(self, piece: bytes, wanted: Sequence[int], most: int) -> tuple[Chunk, int]:
        """Line by line, up to `most` rows; the bytes that they take. A row that may go on behind the text waits."""
        text, width, line = piece.decode(), len(self.names), self._line
        rows: list[list[str] | None] = []
        malformed: list[Malformed] = []
        at = 0
        whole = len(text) if self._ended or most >= len(piece) else len(text) // 2
        while at < whole and len(rows) < most:
            row = self._scanner.row(text, at, width)
            at = row.end
            if row.fault:
                for number, told in enumerate(row.lines):
                    malformed.append(Malformed(len(rows), line + number, told.rstrip("\r\n"), row.fault))
                    rows.append(None)
            elif not row.blank:
                rows.append(row.cells)
            line += len(row.lines)
        cells = [pa.array([row and row[place] for row in rows], pa.string()) for place in wanted]
        return Chunk(cells, len(rows), tuple(malformed)), len(text[:at].encode())


def _array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


class _Scanner:
    """One row after another, by the rules of this module."""

    def __init__(self, csv: Csv) -> None:
        self._quote, self._delimiter, self._trim = csv.quote, csv.delimiter, csv.trim
        quote, delimiter = re.escape(csv.quote), re.escape(csv.delimiter)
        space = ("[ \t]*" if csv.delimiter != "\t" else "[ ]*") if csv.trim else ""
        self._plain = re.compile(rf"[^{delimiter}\r\n]*")
        self._open = re.compile(space + quote)
        self._quoted = re.compile(f"([^{quote}]*(?:{quote}{quote}[^{quote}]*)*){quote}{space}") if quote else None

    def row(self, text: str, at: int, width: int | None) -> _Row:
        """The row that begins at this place of the text, of `width` cells if that is known."""
        line = _LINE.match(text, at)
        assert line is not None
        told = line.group()
        content = told.rstrip("\r\n")
        if not content or (self._trim and not content.strip() and width != 1):
            return _Row([], [told], line.end(), blank=True)
        if self._quoted is None or self._quote not in content:
            return self._checked(content.split(self._delimiter), [told], line.end(), width)
        cells: list[str] = []
        place = at
        while True:
            opened = self._open.match(text, place)
            if opened:
                closed = self._quoted.match(text, opened.end(), min(len(text), at + LONGEST))
                if closed is None:
                    return _Row([], [told], line.end(), "a quote is opened and never closed")
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
                return _Row([], [told], line.end(), "text follows a closing quote")
            break
        end = place + (2 if text[place : place + 2] == "\r\n" else 1 if place < len(text) else 0)
        lines = [told] if end == line.end() else [part for part in _LINE.findall(text[at:end]) if part]
        if width is not None and len(lines) > 1 and self._swallowed(lines, width):
            return _Row([], [told], line.end(), "a quote is opened, and the next one is rows away")
        return self._checked(cells, lines, end, width)

    def _checked(self, cells: list[str], lines: list[str], end: int, width: int | None) -> _Row:
        count = len(cells)
        if width is None or count == width:
            return _Row(cells, lines, end)
        return _Row([], lines, end, f"has {count} cell{'s' * (count != 1)}, not {width}")

    def _swallowed(self, lines: list[str], width: int) -> bool:
        """Whether the lines of one row are each a row if quotes are no more than characters."""
        if len(lines) < 3 or (len(lines) - 1) * (width - 1) < AGREEING:
            return False
        return all(line.count(self._delimiter) == width - 1 for line in lines)


def _well_formed(text: bytes, csv: Csv, width: int, ended: bool) -> tuple[int, bool]:
    """How many bytes from the first are whole rows with every quote in its place, and whether what follows must be
    read line by line (otherwise more text must be awaited). `ended`: no text comes after this."""
    if not csv.quote or csv.quote.encode() not in text:
        # A carriage return that is the last byte may be half of a line end.
        end = len(text) if ended else text.rfind(b"\n") + 1 or text.rfind(b"\r", 0, -1) + 1
        return end, not end
    signs = np.frombuffer(text, np.uint8)
    ends = _line_ends(signs, ended)
    quotes = np.flatnonzero(signs == ord(csv.quote))
    outside = np.searchsorted(quotes, ends) % 2 == 0
    wrong = _misplaced(signs, quotes, csv)
    swallowing = _swallowing(signs, ends, outside, csv, width)
    limit = min(wrong, swallowing)
    if len(quotes) % 2 and ended:
        limit = min(limit, int(quotes[-1]))
    whole = ends[outside & (ends < limit)]
    end = int(whole[-1]) + 1 if len(whole) else 0
    if limit == len(text) and ended and len(quotes) % 2 == 0:
        return len(text), False
    return end, limit < len(text) or len(text) - end >= LONGEST


def _line_ends(signs: np.ndarray, ended: bool) -> np.ndarray:
    """The places of the last byte of every line end. A carriage return that is the last byte may be half of one."""
    feeds = signs == ord("\n")
    returns = signs == ord("\r")
    if returns.any():
        alone = returns.copy()
        alone[:-1] &= ~feeds[1:]
        alone[-1] &= ended
        feeds = feeds | alone
    return np.flatnonzero(feeds)


def _misplaced(signs: np.ndarray, quotes: np.ndarray, csv: Csv) -> int:
    """The place of the first quote that neither opens nor closes a cell, nor is doubled; else len(signs)."""
    beside = np.zeros(256, dtype=bool)
    beside[[ord(csv.delimiter), ord("\n"), ord("\r"), ord(csv.quote)]] = True
    opening, closing = quotes[0::2], quotes[1::2]
    good_open = beside[signs[np.maximum(opening - 1, 0)]] | (opening == 0)
    following = np.minimum(closing + 1, len(signs) - 1)
    good_close = beside[signs[following]] | (closing == len(signs) - 1)
    bad = [int(opening[~good_open][0])] if not good_open.all() else []
    bad += [int(closing[~good_close][0])] if not good_close.all() else []
    return min(bad, default=len(signs))


def _swallowing(signs: np.ndarray, ends: np.ndarray, outside: np.ndarray, csv: Csv, width: int) -> int:
    """The first byte of the first row whose lines are each a row without quotes; len(signs) if there is none."""
    if outside.all() or width < 2:
        return len(signs)
    if not len(ends) or ends[-1] < len(signs) - 1:
        ends, outside = np.append(ends, len(signs)), np.append(outside, True)
    starts = np.concatenate(([0], ends[:-1] + 1))
    delimiters = np.flatnonzero(signs == ord(csv.delimiter))
    counts = np.searchsorted(delimiters, ends) - np.searchsorted(delimiters, starts)
    row = np.concatenate(([0], np.cumsum(outside)[:-1]))
    lines, agreeing = np.bincount(row), np.bincount(row, weights=counts == width - 1)
    swallowed = (lines >= 3) & (lines == agreeing) & ((lines - 1) * (width - 1) >= AGREEING)
    if not swallowed.any():
        return len(signs)
    return int(starts[np.argmax(row == np.argmax(swallowed))])

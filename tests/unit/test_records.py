"""Delimited text to rows: the Arrow and the Python reader agree with each other and with Python's csv module."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from truecourse.data import records
from truecourse.data.records import Records
from truecourse.errors import SourceError
from truecourse.problem.schema import Csv

DELIMITERS = st.sampled_from([",", ";", "\t", "|"])
ENDS = st.sampled_from(["\n", "\r\n", "\r"])
CELLS = st.text(st.sampled_from("ab1 ,;\t|\"'\n\ré€\u2028\u0085"), max_size=6)


def read(text: str, dialect: Csv, block: int = 1 << 20) -> tuple[list[list[str] | None], list[tuple[int, str]]]:
    """All rows (None for a malformed line), and the number and text of the malformed lines."""
    data = text.encode()
    blocks = (data[start : start + block] for start in range(0, len(data), block))
    reader = Records(blocks, dialect, "here")
    rows: list[list[str] | None] = []
    malformed: list[tuple[int, str]] = []
    for chunk in reader.chunks(range(len(reader.names))):
        bad = {line.row for line in chunk.malformed}
        columns = [cells.to_pylist() for cells in chunk.cells]
        assert all(len(column) == chunk.rows for column in columns)
        rows += [None if row in bad else [column[row] for column in columns] for row in range(chunk.rows)]
        malformed += [(line.line, line.text) for line in chunk.malformed]
    return rows, malformed


@given(
    rows=st.integers(1, 4).flatmap(
        lambda width: st.lists(st.lists(CELLS, min_size=width, max_size=width), min_size=1, max_size=8)
    ),
    delimiter=DELIMITERS, end=ENDS, quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)  # fmt: skip
def test_what_python_writes_is_read_back_exactly(rows: Any, delimiter: str, end: str, quoting: Any) -> None:
    if quoting == csv.QUOTE_MINIMAL and end != "\r\n":  # then Python leaves the other sign of a line end unquoted
        rows = [[cell.replace("\r" if end == "\n" else "\n", "") for cell in row] for row in rows]
    text = io.StringIO()
    names = [f"n{place}" for place in range(len(rows[0]))]
    csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows([names, *rows])
    found, malformed = read(text.getvalue(), Csv(delimiter=delimiter, trim=False))
    assert (found, malformed) == (rows, [])


@settings(max_examples=400)
@given(body=st.text(st.sampled_from('ab1 ,,,"""\n\n\r'), max_size=60), trim=st.booleans(), width=st.integers(1, 3))
def test_the_arrow_and_the_python_reader_agree_on_any_text(body: str, trim: bool, width: int) -> None:
    names = [f"n{place}" for place in range(width)]
    dialect = Csv(names=names, trim=trim)
    with pytest.MonkeyPatch.context() as patch:
        quick = read(body, dialect)
        patch.setattr(records, "_well_formed", lambda text, *_: (0, True))
        careful = read(body, dialect)
    assert quick == careful
    rows, malformed = quick
    assert len(malformed) == rows.count(None)
    lines = body.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    assert all(lines[number - 1] == text for number, text in malformed)


@given(bad=st.sampled_from(['1,"green,0', '1,"green" big,0', "1,2", "1,2,3,4", 'x,"1,2']), at=st.integers(0, 40))
def test_a_malformed_line_loses_only_itself(bad: str, at: int) -> None:
    lines = [f'{n},"a, {n}",{n % 2}' for n in range(40)]
    lines.insert(at, bad)
    rows, malformed = read("\n".join(["a,b,c", *lines]), Csv())
    assert malformed == [(at + 2, bad)]
    assert [row[0] for row in rows if row] == [str(n) for n in range(40)]


def test_rows_between_two_stray_quotes_are_kept() -> None:
    lines = [f"{n},red,{n % 2}" for n in range(50)]
    lines[10], lines[30] = '10,"red,0', '30,12",1'
    rows, malformed = read("\n".join(["a,b,c", *lines]), Csv())
    assert malformed == [(12, '10,"red,0')]
    assert rows[30] == ["30", '12"', "1"]


def test_multi_line_texts_are_cells() -> None:
    letter = "Dear Sir,\n\nyes, no, and perhaps.\nYours"
    rows, malformed = read(f'n,text,y\n1,"{letter}",0\n2,"""so""",1\n', Csv())
    assert (rows, malformed) == ([["1", letter, "0"], ["2", '"so"', "1"]], [])


@pytest.mark.parametrize("block", [1, 7, 64])
def test_block_boundaries_do_not_matter(block: int) -> None:
    text = 'a,b\r\n1,"x\r\ny"\r\n2,é€"\r\n3\r\n"4",z'
    assert read(text, Csv(), block) == read(text, Csv())
    assert read(text, Csv(), block) == ([["1", "x\r\ny"], ["2", 'é€"'], None, ["4", "z"]], [(5, "3")])


def test_a_file_larger_than_the_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_ROW_BYTES", 4096)
    rows = [f'{n},"cell {n}, of {"many " * (n % 7)}\nlines",x' for n in range(2_000)]
    rows[700], rows[1500] = '700,"oops,x', "1500,12,x,y"
    found, malformed = read("\n".join(["n,t,x", *rows]), Csv(), 1000)
    assert malformed == [(2 + 1400, rows[700]), (2 + 1400 + 1 + 2 * 799, rows[1500])]
    assert [row[0] for row in found if row] == [str(n) for n in range(2_000) if n not in (700, 1500)]


def test_titles_above_the_header_and_space_after_the_delimiter() -> None:
    text = 'Report of May\n\na, b\n1, "x, y"\n 2 ,z\n  \n'
    rows, malformed = read(text, Csv(skip_lines=2))
    assert (rows, malformed) == ([["1", "x, y"], [" 2 ", "z"]], [])
    assert Records(iter([text.encode()]), Csv(skip_lines=2), "here").names == ("a", "b")


@pytest.mark.parametrize(
    ("text", "says"), [("", "no header"), ("\n\n", "no header"), ('"a,b\n1,2', "line 1, the header")]
)
def test_a_file_with_no_header(text: str, says: str) -> None:
    with pytest.raises(SourceError, match=says):
        read(text, Csv())


CASES = Path(__file__).parents[1] / "data" / "cases"


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("36-quotes/unclosed.csv", [11]), ("36-quotes/late-unclosed.csv", [321]), ("36-quotes/after.csv", [11]),
        ("36-quotes/inside.csv", []), ("15-ragged/few.csv", [6, 51, 78]),
    ],
)  # fmt: skip
def test_reading_can_resume_in_the_middle(name: str, lines: list[int]) -> None:
    text = (CASES / name).read_text()
    rows, malformed = read(text, Csv())
    assert len(rows) == 400
    assert malformed == [(line, text.split("\n")[line - 1]) for line in lines]

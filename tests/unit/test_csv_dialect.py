"""CSV dialects that libraries detect otherwise, and a comparison with DuckDB's sniffer."""

from pathlib import Path

import duckdb
import pytest

from truecourse.authoring.scaffold.csv_dialect import detect_csv_form
from truecourse.errors import SourceError

CASES = Path(__file__).parent.parent / "data" / "cases"
NUMBERS = range(60)
Form = tuple[str, int, tuple[str, ...]]
"""Delimiter, lines above the header, column names."""
FORMS: dict[str, tuple[list[str], Form]] = {
    "title lines": (
        ["Sales of 2024;;", "by me", "product;amount;y", *(f"p{n % 5};{n},5;{n % 2}" for n in NUMBERS)],
        (";", 2, ("product", "amount", "y")),
    ),
    "title lines with empty cells": (
        ["Report 2024,,,", "of all towns,,,", "town,size,price,y", *(f"t{n % 5},{n},{n / 2},{n % 2}" for n in NUMBERS)],
        (",", 2, ("town", "size", "price", "y")),
    ),
    "notes with commas": (
        ["Report", "Made in May, by hand", "", "a,b,c,d,y", *(f"{n},{n % 7},x,{n / 2},{n % 2}" for n in NUMBERS)],
        (",", 3, ("a", "b", "c", "d", "y")),
    ),
    "a separator line": (["sep=;", "a;b;y", *(f"{n};{n % 7},5;{n % 2}" for n in NUMBERS)], (";", 1, ("a", "b", "y"))),
    "short rows": (
        ["a,b,c,y", *("1,2" if n in (7, 40) else f"{n},{n % 7},x,{n % 2}" for n in NUMBERS)],
        (",", 0, ("a", "b", "c", "y")),
    ),
    "commas in texts": (
        ["id;text;y", *(f"{n};well, {'so, ' * (n % 3)}it goes;{n % 2}" for n in NUMBERS)],
        (";", 0, ("id", "text", "y")),
    ),
    "decimal commas": (["a|b|y", *(f"{n},5|{n % 7}|{n % 2}" for n in NUMBERS)], ("|", 0, ("a", "b", "y"))),
    "quotes in names": (
        ['"a ""b""",c,y', *(f"{n},{n % 7},{n % 2}" for n in NUMBERS)],
        (",", 0, ('a "b"', "c", "y")),
    ),
    "cells over two lines": (
        ["id,text,y", *(f'{n},"one\n""two"", {n % 3}",{n % 2}' for n in NUMBERS)],
        (",", 0, ("id", "text", "y")),
    ),
}


@pytest.fixture(params=FORMS)
def named_file(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    return request.param, write_case(request.param, tmp_path)


def write_case(name: str, folder: Path) -> Path:
    file = folder / "data.csv"
    file.write_text("\n".join(FORMS[name][0]))
    return file


def test_the_dialect_is_detected(named_file: tuple[str, Path]) -> None:
    name, file = named_file
    form = detect_csv_form(file, "here")
    assert (form.csv.delimiter, form.csv.skip_lines, form.header) == FORMS[name][1]


def test_duckdb_takes_another_dialect(tmp_path: Path) -> None:
    """If this fails, DuckDB has improved: detect_csv_form() can use it for the cases that it gets right."""
    wrong = {name for name, (_, form) in FORMS.items() if form not in sniff(write_case(name, tmp_path))}
    assert wrong == {"title lines", "title lines with empty cells", "short rows"}
    headers = [header for _, _, header in sniff(CASES / "15-ragged" / "rownames.csv")]
    assert [header for header in headers if "weight" in header] == [], "it takes the first row as the header"
    with pytest.raises(SourceError, match="the header has 4 names, and the rows have 5 cells"):
        detect_csv_form(CASES / "15-ragged" / "rownames.csv", "here")


def sniff(file: Path) -> list[Form]:
    """DuckDB's results, strict and lenient. It is given that there is a header."""
    forms = []
    for strict in ("true", "false"):
        query = f"SELECT Delimiter, SkipRows, Columns FROM sniff_csv('{file}', header = true, all_varchar = true, "
        ((delimiter, skipped, columns),) = duckdb.sql(f"{query} sample_size = -1, strict_mode = {strict})").fetchall()
        forms.append((delimiter, skipped, tuple(column["name"] for column in columns)))
    return forms

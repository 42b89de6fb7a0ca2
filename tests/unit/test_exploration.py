"""Explorations: their counts are those of pandas for any table, their measures those of the literature."""

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from scipy.stats.contingency import association as contingency

from cli.main import execute
from tests import static_tables
from truecourse.data import readers
from truecourse.errors import NotFound, SourceError
from truecourse.exploration import source as sources
from truecourse.exploration.association import correlation_ratio, cramers_v, rank_correlation
from truecourse.exploration.explore import explore
from truecourse.exploration.page import render_page
from truecourse.exploration.records import Exploration, Interval
from truecourse.exploration.source import Roles, decisions_source, file_source
from truecourse.problem.loader import load_problem

WORDS = st.one_of(st.none(), st.sampled_from(["a", "b", "ö <i>", "it's", 'say "x"', "x,y"]))
NUMBERS = st.one_of(st.none(), st.integers(-3, 3), st.floats(-1e6, 1e6).map(lambda x: round(x, 3)))
TABLES = st.lists(st.tuples(WORDS, NUMBERS, st.integers(0, 50), st.booleans()), min_size=1, max_size=60)


NO_ROLES = Roles()


def explored(path: Path, roles: Roles = NO_ROLES) -> Exploration:
    with file_source(str(path), roles) as source:
        return explore(source, now=datetime(2026, 1, 1, tzinfo=UTC))


@settings(
    max_examples=20, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(TABLES)
def test_counts_are_those_of_pandas(home: Path, tmp_path: Path, rows: list[tuple[Any, ...]]) -> None:
    table = pd.DataFrame(rows, columns=["word", "number", "count", "flag"])
    table.to_parquet(tmp_path / "t.parquet")
    found = explored(tmp_path / "t.parquet")
    assert found.rows == len(table)
    assert set(found.left_out) == {name for name in table if table[name].isna().all()}
    table = table.drop(columns=list(found.left_out))
    assert found.complete_rows == int(table.notna().all(axis=1).sum())
    for column in found.columns:
        values = table[column.name]
        assert (column.missing, column.distinct, column.distinct_exact) == (
            int(values.isna().sum()), values.nunique(), True,
        )  # fmt: skip
        if column.type in ("Integer", "Float"):
            assert (column.minimum, column.maximum) == (values.min(), values.max())
            assert column.mean == pytest.approx(float(values.astype(float).mean()))
        if column.top:
            assert [rows for _, rows in column.top] == sorted(values.value_counts().tolist(), reverse=True)[:10]
    patterns = {frozenset(p.columns): p.rows for p in found.patterns}
    absent = Counter(frozenset(table.columns[row]) for row in table.isna().to_numpy())
    assert patterns == {columns: count for columns, count in absent.items() if columns}
    for key in found.keys:
        assert not table.duplicated(list(key.columns)).any()
    others = [name for name in table.columns if name not in found.duplicates.without]
    assert found.duplicates.rows == int(table[others].duplicated().sum()) if others else 0
    assert "<i>" not in render_page(found)


def test_a_large_file_gives_the_same_as_a_small_one(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(1)
    table = pd.DataFrame({
        "n": random.integers(0, 40, 5000), "x": random.normal(size=5000).round(4), "late": np.arange(5000),
        "at": pd.date_range("2024-01-01", periods=5000, freq="20min"), "word": random.choice(["a", "b"], 5000),
        "serial": np.arange(5000), "nearly": np.where(np.arange(5000) == 4321, 4319, np.arange(5000)),
    }).astype({"late": str})  # fmt: skip
    table.loc[4000:, "late"] = [f"v{n}" for n in range(1000)]
    table.loc[table.index % 7 == 0, "x"] = np.nan
    table.to_parquet(tmp_path / "t.parquet")
    whole = explored(tmp_path / "t.parquet", Roles(label="word"))
    monkeypatch.setattr(sources, "TYPED_ROWS", 100)
    monkeypatch.setattr(sources, "SAMPLE", 1000)
    monkeypatch.setattr(readers, "BATCH", 500)
    large = explored(tmp_path / "t.parquet", Roles(label="word"))
    assert 1000 <= large.sampled < 2000 < whole.sampled == 5000
    facts = [
        [(c.name, c.type, c.missing, c.unreadable, c.distinct, c.minimum, c.top) for c in found.columns]
        for found in (whole, large)
    ]
    assert facts[0] == facts[1]
    assert {c.name: c.type for c in large.columns}["late"] == "Text"
    assert ("nearly",) not in {key.columns for key in large.keys}
    assert (whole.patterns, whole.keys, whole.coverage) == (large.patterns, large.keys, large.coverage)


def test_measures_of_association_are_those_of_scipy() -> None:
    random = np.random.default_rng(2)
    one, other = random.normal(size=400), random.integers(0, 5, 400).astype(float)
    assert rank_correlation(one, other) == pytest.approx(spearmanr(one, other).statistic)
    codes = random.integers(0, 4, 400)
    table = pd.crosstab(codes, other)
    assert cramers_v(codes, other.astype(int)) == pytest.approx(
        contingency(table.to_numpy(), method="cramer", correction=False), abs=0.1
    )
    assert cramers_v(codes, codes) == pytest.approx(1, abs=1e-9)
    assert correlation_ratio(codes, codes * 2.0) == pytest.approx(1)
    noise = [(cramers_v(random.integers(0, 9, 300), codes[:300]), correlation_ratio(codes, random.normal(size=400)))
             for _ in range(200)]  # fmt: skip
    assert np.mean(np.square(noise)) < 0.01  # corrected for bias: without association about 0


def test_a_relation_is_the_share_of_the_error_that_is_explained(home: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    group, noise = random.integers(0, 5, 4000), random.normal(size=4000)
    table = pd.DataFrame({"group": [f"g{g}" for g in group], "noise": random.normal(size=4000), "y": group + noise})
    table.to_csv(tmp_path / "t.csv", index=False)
    found = relations(tmp_path / "t.csv")
    true = np.var(group) / (np.var(group) + 1)
    assert found["group"].low is not None
    assert found["group"].low < true < (found["group"].high or 0)
    assert found["group"].value == pytest.approx(true, abs=0.03)
    assert abs(found["noise"].value) < 0.02


def test_many_values_explain_nothing_by_being_many(home: Path, tmp_path: Path) -> None:
    """In the rows that the means are taken of, they explain a tenth."""
    random = np.random.default_rng(3)
    table = pd.DataFrame({"name": [f"n{n}" for n in random.integers(0, 49, 400)], "y": random.normal(size=400)})
    table.to_csv(tmp_path / "t.csv", index=False)
    assert relations(tmp_path / "t.csv")["name"].value < 0.02


def relations(path: Path) -> dict[str, Interval]:
    columns = explored(path, Roles(label="y")).columns
    return {column.name: column.relation for column in columns if column.relation is not None}


def test_findings_name_what_stands_out(home: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    days = pd.date_range("2024-01-01", periods=400, freq="D")
    days = days[np.r_[:100, 140:400]]
    size = len(days)
    temperature = np.where(random.random(size) < 0.08, -999, random.normal(15, 6, size).round(1))
    price = random.lognormal(2, 1, size).round(2)
    price[5] = 10**6
    codes = random.choice(["x", "y", "z"], size)
    table = pd.DataFrame({
        "day": days, "temperature": temperature, "price": price, "same": 4, "code": codes,
        "name": [{"x": "ex", "y": "why", "z": "zed"}[code] for code in codes],
        "sparse": np.where(random.random(size) < 0.9, np.nan, 1.5), "level": np.arange(size) + random.normal(size=size),
        "tail": random.lognormal(2, 1, size).round(2), "number": [*[str(n) for n in range(size - 1)], "n/a?"],
        "due": [*days[:-1], pd.Timestamp("2031-01-01")],
    })  # fmt: skip
    table.to_csv(tmp_path / "t.csv", index=False)
    found = explored(tmp_path / "t.csv", Roles(time="day"))
    topics = {(finding.topic, finding.columns) for finding in found.findings}
    assert topics >= {
        ("placeholder", ("temperature",)), ("outliers", ("price",)), ("constant", ("same",)),
        ("duplicate columns", ("code", "name")), ("missing", ("sparse",)), ("drift", ("level",)),
        ("unreadable", ("number",)), ("time gap", ("day",)), ("future times", ("due",)),
    }  # fmt: skip
    assert not {columns for topic, columns in topics if topic in ("placeholder", "outliers")} - {
        ("temperature",), ("price",),
    }  # fmt: skip
    (gap,) = (f.sentence for f in found.findings if f.topic == "time gap" and f.columns == ("day",))
    assert gap == "day has no rows for 40 days, from 2024-04-10 to 2024-05-19"
    future = [f.sentence for f in found.findings if f.topic == "future times"]
    assert future == ["due has 1 value in the future, up to 2031-01-01"]


@pytest.mark.parametrize("label", ["two", "three", "number", ""])
def test_numbers_of_any_size_are_explored(home: Path, tmp_path: Path, label: str) -> None:
    random = np.random.default_rng(6)
    table = pd.DataFrame({
        "ends": np.where(random.random(300) < 0.5, 1e308, -1.7e308), "whole": random.integers(-(2**62), 2**62, 300),
        "small": random.normal(size=300) * 1e-300, "spread": 10.0 ** random.uniform(-300, 300, 300), "zero": 0.0,
        "holes": np.where(random.random(300) < 0.3, np.nan, 1e308), "two": random.integers(0, 2, 300),
        "three": random.choice(list("abc"), 300), "number": random.normal(size=300) * 1e300,
    })  # fmt: skip
    table.to_parquet(tmp_path / "t.parquet")
    found = explored(tmp_path / "t.parquet", Roles(label=label))
    assert found.of("leak") == []
    assert {c.name: (c.minimum, c.maximum) for c in found.columns}["ends"] == (-1.7e308, 1e308)
    assert "1.7e+308" in render_page(found)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_few_rows_are_explored(home: Path, tmp_path: Path, rows: int) -> None:
    table = pd.DataFrame({"t": pd.date_range("2024-01-01", periods=3), "x": [1.5, None, 2.5], "y": [0, 1, 0]})
    table.head(rows).to_parquet(tmp_path / "t.parquet")
    assert explored(tmp_path / "t.parquet", Roles(label="y", time="t")).rows == rows


def test_copies_across_a_split_are_leaks(home: Path, tmp_path: Path, configure: Any) -> None:
    static_tables.install_diabetes(tmp_path)
    configure(problems=tmp_path)
    problem, random = load_problem("diabetes"), np.random.default_rng(5)
    inputs = [name for name in problem.features if name not in ("sex",)]
    table = pd.DataFrame({name: random.normal(size=300) for name in inputs} | {
        "id": [f"p{n}" for n in range(300)], "label": random.normal(size=300), "split": "train",
    })  # fmt: skip
    table.loc[200:, "split"] = "test"
    copied = table.copy()
    copied.loc[250:269, [*inputs, "label"]] = table.loc[0:19, [*inputs, "label"]].to_numpy()
    for frame, expected in ((table, []), (copied, ["20 of 100 test rows are copies of rows in training"])):
        with decisions_source(problem, pa.Table.from_pandas(frame, preserve_index=False)) as source:
            assert [finding.sentence for finding in explore(source).of("leak")] == expected


@pytest.mark.parametrize(
    ("text", "what"),
    [("", "the file is empty"), ("a,b\n", "has no rows")],
)
def test_files_without_rows_are_errors(home: Path, tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(SourceError, match=what), file_source(str(tmp_path / "t.csv")):
        pass


def test_unknown_columns_are_errors(home: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("alpha,beta\n1,2\n3,4\n")
    for roles in (Roles(label="alpa"), Roles(time="alpa"), Roles(keys=("alpa",))):
        with pytest.raises(NotFound, match="did you mean alpha"), file_source(str(tmp_path / "t.csv"), roles):
            pass


def test_the_command_answers_and_writes_a_page(home: Path, tmp_path: Path, capfd: Any) -> None:
    path = tmp_path / "beta.csv"
    pd.DataFrame({"k": range(300), "x": np.arange(300) % 7, "y": np.arange(300) % 2}).to_csv(path, index=False)
    assert execute(["explore", str(path), "--label", "y", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert (document["rows"], document["label_kind"]) == (300, "binary")
    assert Path(document["page"]).read_text().startswith("<!doctype html>")
    assert execute(["explore", str(path), "--label", "y"]) == 0
    assert "beta.csv" in capfd.readouterr().out
    wrong = {
        ("explore", str(path), "--version", "1"): "a file has no versions",
        ("explore", str(tmp_path / "no.csv")): "no such file",
        ("explore", "--label", "y"): "those that it declares",
    }
    for arguments, what in wrong.items():
        assert execute([*arguments, "--json"]) == 1
        error = json.loads(capfd.readouterr().out)["error"]
        assert what in error["what"]
        assert error["hint"]

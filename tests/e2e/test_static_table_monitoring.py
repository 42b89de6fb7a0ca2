"""Monitoring of a table without time: new rows in files and in the table, few and many, drifted and stable."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from flows.ingest import ingest
from flows.lifecycle import lifecycle
from flows.score import score
from flows.validate import validate
from truecourse.monitoring.drift.drift_check import check_drift
from truecourse.monitoring.findings import Report
from truecourse.monitoring.quality.quality_check import check_quality
from truecourse.problem.loader import load_problem
from truecourse.storage.delta_tables import Tables

SPECIES = ("Adelie", "Chinstrap", "Gentoo")
PROBLEM = """
from truecourse.problem import (Files, Float, Label, Problem, Table, Text, XGBoost)

PROBLEM = Problem(
    "birds",
    kind="multiclass",
    tables=[
        Table(
            "birds",
            source=Files("birds*.csv"),
            key=["ring"],
            columns={
                "ring": Text(unique=True),
                "bill": Float(nulls=True),
                "flipper": Float(nulls=True),
                "mass": Float(nulls=True),
                "island": Text(nulls=True),
                "species": Text(),
            },
        )
    ],
    label=Label(table="birds", column="species"),
    model=XGBoost(rounds=60, max_depth=3, early_stopping_rounds=10),
)
"""


def birds(count: int, first: int, shift: float = 0.0) -> list[dict[str, Any]]:
    """Rows like those of the penguins data: three species that differ in size; some values are missing."""
    random = np.random.default_rng(first)
    rows = []
    for number in range(first, first + count):
        kind = int(random.choice(3, p=(0.44, 0.2, 0.36)))
        size = random.normal(0, 1, 3) + shift
        rows.append({
            "ring": f"r{number}",
            "bill": round(39 + 5 * (kind > 0) + 2.5 * size[0], 1),
            "flipper": round(190 + 27 * (kind == 2) + 6 * size[1], 0),
            "mass": "" if random.random() < 0.02 else round(3700 + 1300 * (kind == 2) + 400 * size[2], 0),
            "island": ("Torgersen", "Dream", "Biscoe")[int(random.choice(3))],
            "species": SPECIES[kind],
        })  # fmt: skip
    return rows


def write_csv(file: Path, rows: list[dict[str, Any]], *without: str) -> str:
    names = [name for name in rows[0] if name not in without]
    with file.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return str(file)


def drift() -> Report:
    return check_drift(load_problem("birds"), Tables())


def quality() -> Report:
    return check_quality(load_problem("birds"), Tables())


def test_new_rows_of_a_table_without_time_are_monitored(
    tmp_path: Path, home: Path, configure: Callable[..., None], prefect_server: str
) -> None:
    folder = tmp_path / "birds"
    folder.mkdir()
    (folder / "problem.py").write_text(PROBLEM)
    write_csv(folder / "birds.csv", birds(344, 0))
    configure(problems=tmp_path)  # without a setting for the problem: it is the only one
    summary = lifecycle()
    assert summary["champion"] == summary["register"], "344 rows are enough to evaluate a good model"
    first = {check: report.state for check, report in summary["monitor"]["reports"].items()}
    assert (first["drift"], first["quality"]) == ("unknown", "unknown")
    assert first["pipelines"] == "ok"
    assert "0 scored rows have a label that training did not have: too few, 30 are needed" in quality().sentence

    score(source=write_csv(tmp_path / "few.csv", birds(5, 1000, shift=9.0), "ring", "species"))
    assert drift().state in ("unknown", "critical")  # never ok
    score(source=write_csv(tmp_path / "moved.csv", birds(40, 2000, shift=3.0), "ring", "species"))
    moved = drift()
    assert moved.state == "critical"
    assert {finding.subject for finding in moved.findings} >= {"bill", "flipper", "mass"}
    assert moved.figures["new_rows"] in (40, 45)
    # Stable files with the same row numbers neither replace the drifted rows nor dilute them.
    for number in range(4):
        score(source=write_csv(tmp_path / f"usual{number}.csv", birds(300, 3000 + 1000 * number), "ring", "species"))
    diluted = drift()
    assert diluted.state == "critical"
    assert diluted.figures["new_rows"] == 40
    assert len(diluted.figures["batch"]) == 64
    assert "in 40 new rows of one batch" in diluted.sentence

    # New labelled rows of the table: first with the same label rule, then with another.
    write_csv(folder / "birds-later.csv", birds(80, 500))
    ingest("birds")
    validate("birds")
    score()
    well = quality()
    assert (well.state, well.figures["rows"]) == ("ok", 80), well.sentence
    turned = [row | {"species": SPECIES[(SPECIES.index(row["species"]) + 1) % 3]} for row in birds(80, 700)]
    write_csv(folder / "birds-turned.csv", turned)
    ingest("birds")
    validate("birds")
    score()
    lost = quality()
    assert [(finding.subject, finding.cause) for finding in lost.findings] == [("log_loss", "concept drift")]
    assert lost.figures["metrics"]["log_loss"]["difference"]["low"] > 0

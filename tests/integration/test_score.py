"""Batch scoring: repeated and killed runs neither lose nor duplicate rows."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from flows.score import score
from tests.conftest import REPOSITORY, existing
from tests.integration.conftest import Trained
from tests.scored_files import score_file
from truecourse.errors import FeatureError, SourceError
from truecourse.serving import batch_scoring
from truecourse.storage.delta_tables import Tables

HEADER = "id,courier,depot,promised,distance,decision_time\n"
KILLED = """
from truecourse.serving import batch_scoring
batch_scoring.CHUNK_ROWS = 100
from flows.score import score
score("deliveries", start="2024-01-20T00:00:00Z", end="2024-02-05T00:00:00Z")
"""


def decisions(start: datetime, end: datetime) -> list[str]:
    tables = Tables()
    rows = tables.read(existing(tables.version("predictions/deliveries"))).to_pylist()
    return [
        r["id"] for r in rows if r[batch_scoring.ROW] is None and start <= r["decision_time"].replace(tzinfo=None) < end
    ]


def test_scoring_again_writes_nothing(trained: Trained) -> None:
    window: dict[str, Any] = {"start": datetime(2024, 2, 20), "end": datetime(2024, 2, 25)}
    first = score("deliveries", **window)
    assert score("deliveries", **window) == first
    ids = decisions(**window)
    assert len(ids) == len(set(ids)) > 300
    explained = score("deliveries", **window, explain=True)
    assert explained.version > first.version
    assert sorted(decisions(**window)) == sorted(ids)


def test_a_window_with_no_decisions_is_an_error(trained: Trained) -> None:
    with pytest.raises(FeatureError, match="no decisions"):
        score("deliveries", start=datetime(2030, 1, 1))


def test_rows_of_a_file_are_scored_or_rejected(trained: Trained, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(
        HEADER + "good,c01,north,30,2.5,2024-02-27T10:00:00Z\nbad,c01,west,x,2.5,2024-02-27T10:00:00Z\nshort,c01\n"
    )
    tables = Tables()
    before = tables.version("predictions/deliveries")
    count = len(tables.read(before)) if before else 0
    result = score_file("deliveries", file)
    assert (result.scored, result.rejected) == (1, 2)
    assert len(tables.read(result.predictions)) == count + 1
    rejected = [json.loads(line) for line in Path(existing(result.rejected_file)).read_text().splitlines()]
    assert [row["row"] for row in rejected] == [1, 2]
    assert rejected[0]["reasons"][1] == {"field": "promised", "problem": "must be a whole number, not x"}
    assert rejected[0]["values"]["promised"] == "x"
    assert rejected[1]["reasons"][0]["problem"] == "line 4: has 2 cells, not 6: short,c01"
    assert score("deliveries", source=str(file)) == result


def test_a_row_without_an_id_gets_a_unique_one(trained: Trained, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    header, row = HEADER.partition(",")[2], "c01,north,30,2.5,2024-02-27T10:00:00Z\n"
    ids: list[set[str]] = []
    for text in (row, row + row):
        file.write_text(header + text)
        before = {r["id"] for r in Tables().read(existing(Tables().version("predictions/deliveries"))).to_pylist()}
        written = score_file("deliveries", file).predictions
        ids.append({r["id"] for r in Tables().read(written).to_pylist()} - before)
    assert [len(new) for new in ids] == [1, 2]


def test_a_file_without_a_scorable_row_is_an_error_with_the_reasons(trained: Trained, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(HEADER + "bad,c01,west,x,2.5,2024-02-27T10:00:00Z\n" * 3)
    with pytest.raises(
        SourceError, match=r"none of 3 rows can be scored: .*; 3 × promised must be a whole number, not x"
    ):
        score("deliveries", source=str(file))
    file.write_text(HEADER)
    with pytest.raises(SourceError, match="has no rows"):
        score("deliveries", source=str(file))


def test_files_that_cannot_be_scored_are_clear_errors(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        score("deliveries", source=str(tmp_path / "none.csv"))
    (tmp_path / "few.csv").write_text("courier\nc01\n")
    with pytest.raises(SourceError, match=r"has no column .*'depot'"):
        score("deliveries", source=str(tmp_path / "few.csv"))


def test_a_killed_run_is_finished_by_the_next(trained: Trained) -> None:
    tables, name = Tables(), "predictions/deliveries"
    known = tables.version(name)
    before = known.version if known else -1
    process = subprocess.Popen([sys.executable, "-c", KILLED], cwd=REPOSITORY, start_new_session=True)
    deadline = time.monotonic() + 120
    while process.poll() is None and ((now := tables.version(name)) is None or now.version < before + 2):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert process.poll() is None, "it ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    killed_at = tables.version(name)
    assert killed_at is not None
    subprocess.run([sys.executable, "-c", KILLED], cwd=REPOSITORY, check=True)
    spans = [tuple(c["span"]) for v, c in tables.commits(name) if v > before]
    assert len(spans) == len(set(spans)) > killed_at.version - before, "a part was written twice"
    ids = decisions(datetime(2024, 1, 20), datetime(2024, 2, 5))
    assert len(ids) == len(set(ids)) > 1000

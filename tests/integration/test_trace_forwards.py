"""What a file, a row or a table version affects, against homes to which the rows were never delivered."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest

from cli.main import execute
from tasks.features.decision_frame import decision_frame, feature_versions
from tasks.scoring.score_decisions import score_decisions
from tests import traced_home
from tests.frames import store_wine
from tests.integration.conftest import TracedWorld
from truecourse.data.sql import clean_versions
from truecourse.errors import NotFound, SourceError
from truecourse.lineage import affected_features, forward_trace
from truecourse.lineage.affected_features import affected_decisions, affected_views
from truecourse.lineage.dependents import Effects
from truecourse.lineage.source_rows import Selection, find_deliveries, select_deliveries, select_row
from truecourse.problem.loader import load_problem
from truecourse.references import Window
from truecourse.storage.delta_tables import Tables

LATER = "data/deliveries-2.csv"
CORRECTED, PLAIN, QUARANTINED = "1000", "2200", "7"


def decisions() -> pl.DataFrame:
    """All decisions of the current home with features and label."""
    problem, tables = load_problem(), Tables()
    clean = clean_versions(problem, tables)
    return pl.DataFrame(decision_frame(problem, tables, clean, feature_versions(problem, tables, clean)))


def different(now: pl.DataFrame, without: pl.DataFrame) -> set[str]:
    """The ids of decisions that have another value, or do not exist, in the second frame. A sum's order may change."""
    rounded = [f.with_columns(pl.selectors.float().round_sig_figs(9)) for f in (now, without)]
    return set(rounded[0].join(rounded[1], on=now.columns, how="anti", nulls_equal=True)["id"])


def affected(selection: Selection, frame: pl.DataFrame) -> set[str]:
    tables = Tables()
    effects = Effects(selection.problem, affected_views(tables, selection), affected_decisions(tables, selection))
    rows = frame.to_arrow()
    return set(frame.filter(pl.Series(effects.affected(rows.select(effects.columns))))["id"])


def test_affected_decisions_are_those_that_differ_if_the_rows_were_never_delivered(
    traced_world: TracedWorld, tmp_path: Path, configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, tables, frame = load_problem(), Tables(), decisions()
    selections = {
        key: select_row(tables, problem, problem, problem.table("deliveries"), key) for key in (CORRECTED, PLAIN)
    }
    ((_, table, delivery),) = find_deliveries(tables, problem, LATER)
    selections[LATER] = select_deliveries(problem, problem, table, [], [delivery])
    selections["c03"] = select_row(tables, problem, problem, problem.table("couriers"), "c03")
    found = {what: affected(selection, frame) for what, selection in selections.items()}
    monkeypatch.setattr(affected_features, "MOST_ROWS", 10)  # the same by reach only: an upper bound
    bounds = {what: affected(selections[what], frame) | found[what] for what in (CORRECTED, PLAIN)}
    monkeypatch.undo()
    for what, ids in found.items():
        assert 20 < len(ids) < 400, what
        configure(
            home=tmp_path / f"without-{what.replace('/', '-')}",
            problems=traced_world.folder.parent,
            problem="deliveries",
        )
        _deliver_without(traced_world.folder, what)
        assert ids == different(frame, decisions()), what
    for what, ids in bounds.items():
        assert found[what] < ids < set(frame["id"])


def _deliver_without(folder: Path, what: str) -> None:
    """Deliver the same files in the same order to a new home, without a row or the later file."""
    first, later, couriers = (
        folder / "data" / name for name in ("deliveries-1.csv", "deliveries-2.csv", "couriers.jsonl")
    )
    kept = {path: path.read_bytes() for path in (first, later, couriers)}
    later.unlink()
    if what == "c03":
        couriers.write_text("\n".join(line for line in couriers.read_text().splitlines() if '"c03"' not in line))
    else:
        _drop(first, what)
    traced_home.refresh("deliveries")
    if what != LATER:
        later.write_bytes(kept[later])
        _drop(later, what)
        traced_home.refresh("deliveries")
    for path, data in kept.items():
        path.write_bytes(data)


def _drop(file: Path, key: str) -> None:
    rows = pd.read_csv(file, dtype=str, keep_default_na=False)
    rows[rows["delivery"] != key].to_csv(file, index=False)


def answer(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> dict[str, Any]:
    assert execute(["trace", *words, "--json"]) == status
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_rows_snapshots_models_and_predictions(traced_world: TracedWorld, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"courier": name, "depot": "north", "promised": 42, "distance": 6.5} for name in ("c03", "c08")]
    _, of_courier = traced_home.serve("deliveries", 1, rows, datetime(2024, 2, 26))
    (row,) = answer(capsys, "row", "deliveries", PLAIN)["tables"]
    assert row["rows"]["current"] == 1
    (shown,) = row["rows"]["first"]
    assert (shown["file"], shown["line"], shown["values"]["delivery"]) == ("data/deliveries-1.csv", 2201, 2200)
    assert [view["method"] for view in row["features"]] == ["computed again without them"] * 2
    (snapshot,) = row["snapshots"]["items"]
    assert (snapshot["models"], list(snapshot["affected"])) == ([1], ["test"])
    assert row["predictions"]["by_models"] == [], "a test row teaches nothing"
    assert row["predictions"]["batch"]["count"] > 10
    logged = row["predictions"]["logged"]
    assert (logged["count"], logged["of"]) == (1, 2)
    assert logged["first"][0]["prediction_id"] == of_courier
    (corrected,) = answer(capsys, "row", "deliveries", CORRECTED)["tables"]
    assert [one["state"] for one in corrected["rows"]["first"]] == ["superseded", "current"]
    assert corrected["predictions"]["by_models"] == [
        {"version": 1, "logged": 2, "batch": row["predictions"]["batch"]["of"]}
    ]
    assert corrected["decisions"] == {"count": 1, "by": {"decision": 1}, "first": [CORRECTED]}
    (bad,) = answer(capsys, "row", "deliveries", QUARANTINED)["tables"]
    assert bad["rows"]["reasons"] == [{"column": "depot", "expectation": "one_of", "rows": 1}]
    assert bad["rows"]["first"][0]["state"] == "quarantined"
    assert (bad["decisions"]["count"], bad["snapshots"]["count"]) == (0, 0)


def test_files_are_found_by_path_key_and_digest(traced_world: TracedWorld, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "source", LATER)
    (delivery,) = found["deliveries"]
    assert (delivery["state"], delivery["number"], delivery["counts"]["corrected"]) == ("accepted", 1, 1)
    copy = traced_world.folder.parent / "copy.csv"
    copy.write_bytes((traced_world.folder / LATER).read_bytes())
    names = (
        str(traced_world.folder / LATER),
        "deliveries-2.csv",
        delivery["archived"],
        delivery["sha256"][:12],
        str(copy),
    )
    for name in names:
        assert answer(capsys, "source", name)["deliveries"] == [delivery], name
    (of_first,) = answer(capsys, "source", "data/deliveries-1.csv")["tables"]
    assert of_first["rows"]["quarantined"] == 1
    assert of_first["rows"]["current"] + of_first["rows"]["superseded"] == of_first["rows"]["delivered"] - 1
    assert len(of_first["rows"]["first"]) <= 10, "the others are counted"


def test_a_refused_file_affects_nothing(traced_world: TracedWorld, capsys: pytest.CaptureFixture[str]) -> None:
    (traced_world.folder / "data" / "deliveries-3.csv").write_text(
        (traced_world.folder / LATER).read_text().replace("east", "west").replace("south", "west")
    )
    traced_home.refresh("deliveries")
    found = answer(capsys, "source", "data/deliveries-3.csv")
    assert found["deliveries"][0]["state"] == "refused"
    assert "are invalid" in found["deliveries"][0]["refused"][0]
    (effects,) = found["tables"]
    assert effects["rows"]["not stored"] == effects["rows"]["delivered"] > 50
    assert [view["count"] for view in effects["features"]] == [0, 0]


def test_what_was_computed_from_a_table_version(traced_world: TracedWorld, capsys: pytest.CaptureFixture[str]) -> None:
    old = answer(capsys, "table", "deliveries", "--version", "0")
    assert (old["models"], old["snapshots"]["count"], old["features"]["count"]) == ([], 0, 2)
    new = answer(capsys, "table", "deliveries")
    assert new["table"] == "tables/deliveries/clean/deliveries@1"
    assert new["commit"]["deliveries"] == [1]
    assert (new["models"], new["predictions"]["batch"] > 100) == ([1], True)
    (snapshot,) = new["snapshots"]["first"]
    assert len(snapshot["through"]) == 3, "the table, and two feature tables computed from it"


def test_the_terminal_shows_the_same(traced_world: TracedWorld, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("source", LATER), ("row", "deliveries", QUARANTINED), ("table", "deliveries", "--version", "0")):
        assert execute(["trace", *words]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "and 87 more rows" in text
    assert "quarantined for depot: one_of (1 row)" in text
    assert "tables/deliveries/clean/deliveries@0, 2,308 row versions" in text


def test_unknown_names_are_errors_with_hints(traced_world: TracedWorld, capsys: pytest.CaptureFixture[str]) -> None:
    for words, what in {
        ("source", "data/deliverys-1.csv"): "did you mean data/deliveries-1.csv",
        ("row", "deliverys", "1"): "did you mean deliveries",
        ("row", "deliveries", "999999"): "the key of deliveries is delivery",
        ("table", "deliveries", "--version", "9"): "its versions are 0 to 1",
    }.items():
        assert what in answer(capsys, *words, status=1)["error"]["hint"]


def test_a_table_without_time_and_key(tmp_path: Path, home: Path, configure: Callable[..., None]) -> None:
    configure(problems=tmp_path, problem="wine")
    store_wine(tmp_path)
    traced_home.train("wine")
    problem, tables = load_problem(), Tables()
    score_decisions.fn("wine", 1, Window.all(), explain=False)
    (found,) = forward_trace.trace_row(tables, problem, "wines", "5")["tables"]
    assert found["features"] == []
    assert found["decisions"]["by"] == {"decision": 1}
    (snapshot,) = found["snapshots"]["items"]
    assert sum(snapshot["affected"].values()) == 1
    assert found["predictions"]["batch"]["first"][0]["id"] == "5"
    (whole,) = forward_trace.trace_source(tables, problem, "wines.parquet")["tables"]
    assert sum(whole["snapshots"]["items"][0]["affected"].values()) == 178
    assert whole["predictions"]["by_models"] == [{"version": 1, "logged": 0, "batch": 178}]
    with pytest.raises(NotFound, match="no delivery has the row '178'"):
        forward_trace.trace_row(tables, problem, "wines", "178")
    with pytest.raises(SourceError, match="no delivery has this file"):
        forward_trace.trace_source(tables, problem, "other.parquet")

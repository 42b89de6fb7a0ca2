"""A version reads files, tables and requests by the problem that it was trained on, also after edits of columns."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_diabetes, load_wine

from services.model import scoring_script
from services.model.predictor import registered_predictor
from tasks.scoring.score_decisions import score_decisions
from tasks.scoring.score_files import score_file
from tests import traced_home
from tests.conftest import existing
from tests.edited_orders import replace_text
from tests.static_tables import install_diabetes, install_wine
from tests.unevaluated_versions import set_champion
from truecourse.deployment.bento import bento_files
from truecourse.lineage.prediction_links import prediction_links
from truecourse.monitoring.drift.drift_check import check_drift
from truecourse.monitoring.skew.skew_check import check_skew
from truecourse.problem.loader import load_problem
from truecourse.references import ModelVersion, Window
from truecourse.serving.batch_scoring import BATCH, ROW, SCORE, find_scored_rows
from truecourse.serving.prediction_log import find_records
from truecourse.storage.delta_tables import Tables

Configure = Callable[..., None]
SEX, BP = '"sex": Integer(one_of=[1, 2]),', '"bp": Float("mean arterial pressure", ge=30, le=200)'
RENAMED = '"pressure": Float("mean arterial pressure", ge=30, le=200, renamed_from="bp")'
EDITS: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "removed and renamed": ("diabetes", ((SEX, ""), (BP, RENAMED))),
    "renamed": ("diabetes", ((BP, RENAMED),)),
    "added": ("diabetes", ((SEX, f'{SEX} "smoker": Integer(default=0),'),)),
    "widened": ("diabetes", (('"age": Integer("years", ge=0, le=120)', '"age": Float("years", ge=0, le=120)'),)),
    "may be null": ("diabetes", ((BP, BP.replace("ge=30", "nulls=True, ge=30")),)),
    "tightened": ("diabetes", ((BP, BP.replace("ge=30", "ge=90")),)),
    "removed, of three classes": ("wine", (('"magnesium", ', ""), ('"hue", ', ""))),
}


@dataclass(frozen=True)
class World:
    """A champion and its scores of 30 rows of a file, as (k, classes) lists."""

    folder: Path
    version: ModelVersion
    rows: list[dict[str, Any]]
    scores: list[list[float]]

    def edit(self, replacements: tuple[tuple[str, str], ...]) -> None:
        for old, new in replacements:
            replace_text(self.folder / "problem.py", old, new)


def file_scores(name: str, rows: list[dict[str, Any]], file: Path) -> list[list[float]]:
    pd.DataFrame(rows).to_csv(file, index=False)
    result = score_file.fn(name, str(file), None, explain=False)
    assert (result.scored, result.rejected) == (len(rows), 0)
    tables = Tables()
    found = tables.read(result.predictions).to_pandas()
    newest = found[found[BATCH] == found.sort_values("_tc_scored_at")[BATCH].iloc[-1]].sort_values(ROW)
    names = [column for column in newest if column == SCORE or column.startswith(f"{SCORE}_")]
    scores: list[list[float]] = newest[names].to_numpy().tolist()
    return scores


@pytest.fixture(scope="module")
def trained_tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    """A champion of the diabetes and one of the wines, each in a home of its own."""
    worlds = {}
    patients = load_diabetes(as_frame=True, scaled=False).data.astype({"age": int, "sex": int})
    data = {"diabetes": (install_diabetes, patients), "wine": (install_wine, load_wine(as_frame=True).data)}
    for name, (install, frame) in data.items():
        base = tmp_path_factory.mktemp(name)
        with pytest.MonkeyPatch.context() as patch:
            _configure(patch.setenv, base, name)
            install(base / "problems")
            traced_home.refresh(name)
            version = traced_home.train(name)
            set_champion(version)
            rows = frame.iloc[::6].head(30).to_dict("records")
            worlds[name] = World(base, version, rows, file_scores(name, rows, base / "rows.csv"))
    return worlds


def _configure(setenv: Callable[[str, str], None], base: Path, name: str) -> None:
    from truecourse.settings import get_settings

    for key, value in (("HOME", base / ".truecourse"), ("PROBLEMS", base / "problems"), ("PROBLEM", name)):
        setenv(f"TRUECOURSE_{key}", str(value))
    get_settings.cache_clear()


@pytest.mark.parametrize("edit", list(EDITS))
def test_a_champion_reads_rows_as_it_was_trained(
    edit: str, trained_tables: dict[str, World], tmp_path: Path, configure: Configure
) -> None:
    name, replacements = EDITS[edit]
    original = trained_tables[name]
    shutil.copytree(original.folder, tmp_path, dirs_exist_ok=True)
    configure(home=tmp_path / ".truecourse", problems=tmp_path / "problems", problem=name)
    world = World(tmp_path / "problems" / name, original.version, original.rows, original.scores)
    packaged = bento_files(load_problem(), world.version)
    world.edit(replacements)
    problem, tables = load_problem(), Tables()

    backwards = file_scores(name, world.rows[::-1], tmp_path / "backwards.csv")
    assert backwards[::-1] == world.scores
    assert bento_files(problem, world.version) == packaged
    predictor = registered_predictor(world.version, scoring_script.init(world.version).model)
    ids = traced_home.serve(name, world.version.version, world.rows, datetime.now(UTC))
    records = [find_records(tables, problem.name, id)[0] for id in ids]
    classes = predictor.contract.classes if problem.kind == "multiclass" else ()
    served = [[one["scores"][c] for c in classes] if classes else [one["score"]] for one in records]
    np.testing.assert_allclose(served, world.scores, rtol=1e-6)
    for record in (records[0], find_scored_rows(tables, name, f"{_batch(tables, name)}:0")[0]):
        links = prediction_links(tables, record, world.version)
        assert {one["state"] for one in links} == {"verified"}, links

    audit = check_skew(problem, tables)
    assert (audit.findings, audit.figures["not_compared"]) == ((), {})
    assert audit.figures["compared"] == {"request": 30, "score": 30}
    assert check_drift(problem, tables).check == "drift"


def _batch(tables: Tables, name: str) -> str:
    rows = tables.read(existing(tables.version(f"predictions/{name}"))).to_pandas()
    return str(rows.sort_values("_tc_scored_at")[BATCH].iloc[-1])[:16]


def test_tables_are_scored_after_edits_of_their_columns(
    trained_tables: dict[str, World], tmp_path: Path, configure: Configure
) -> None:
    original = trained_tables["diabetes"]
    shutil.copytree(original.folder, tmp_path, dirs_exist_ok=True)
    configure(home=tmp_path / ".truecourse", problems=tmp_path / "problems", problem="diabetes")
    world = World(tmp_path / "problems" / "diabetes", original.version, original.rows, original.scores)
    tables, before = Tables(), table_scores("diabetes")
    world.edit(((BP, RENAMED), (SEX, f'{SEX} "smoker": Integer(default=0),')))
    traced_home.refresh("diabetes")
    assert table_scores("diabetes") == before
    assert len(before) == 442
    names = tables.dataset(existing(tables.version("predictions/diabetes"))).schema.names
    assert "bp" in names
    assert "pressure" not in names
    world.edit(((SEX, ""),))
    traced_home.refresh("diabetes")
    assert table_scores("diabetes") == before, "the kept bytes have the removed column"
    record = find_scored_rows(tables, "diabetes", next(iter(before)))[0]
    links = prediction_links(tables, record, world.version)
    assert {one["state"] for one in links} == {"verified"}, links


def table_scores(name: str) -> dict[str, float]:
    """The champion's scores of all rows of the tables by id."""
    rows = Tables().read(score_decisions.fn(name, None, Window(), explain=False)).to_pandas()
    decided = rows[~rows["id"].str.contains(":")]
    return dict(zip(decided["id"], decided[SCORE], strict=True))

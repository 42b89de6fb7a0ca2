"""`truecourse.open()`: the same rows, predictions and comparisons as the steps and commands give, and clear errors."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import truecourse
from cli.main import execute
from tests import traced_home
from tests.frames import store_diabetes, store_wine
from tests.integration.conftest import TracedWorld
from truecourse.errors import ModelError, NotFound, SettingsError, TruecourseError
from truecourse.monitoring import report_store
from truecourse.monitoring.findings import Report
from truecourse.registry import runs
from truecourse.storage.object_store import open_store


def html(shown: Any) -> str:
    """The HTML form of an object, as a notebook asks for it."""
    text: str = shown._repr_html_()
    assert "<script" not in text
    return text


def test_tables_as_of_a_moment(traced_world: TracedWorld) -> None:
    problem = truecourse.open("deliveries")
    assert problem.tables.set_index("table")["rows"].to_dict()["deliveries"] == len(problem.table("deliveries"))
    now = problem.table("deliveries")
    assert now.title == "deliveries@1"
    source = [pd.read_csv(traced_world.folder / "data" / f"deliveries-{n}.csv") for n in (2,)]
    assert now.polars().filter(pl.col("delivery") == 1000)["took"].item() == 400
    assert set(source[0]["delivery"]) <= set(now.pandas()["delivery"])
    moment = datetime(2024, 2, 20, tzinfo=UTC)
    then = problem.table("deliveries", as_of="2024-02-20")
    assert then.pandas()["ordered_at"].max() <= moment
    assert then.polars().filter(pl.col("delivery") == 1000)["took"].item() == 47, "corrected later"
    first = problem.table("deliveries", version=0)
    assert first.polars().filter(pl.col("delivery") == 1000)["took"].item() == 47
    assert len(first) == len(now) - 91
    assert f"deliveries@1: {len(now):,} rows" in html(now)


def test_views_frames_and_snapshots_are_those_of_training(traced_world: TracedWorld) -> None:
    problem = truecourse.open("deliveries")
    frame, snapshot = problem.frame().polars(), problem.snapshot().polars()
    joined = snapshot.join(frame, on="id", suffix="_now")
    assert len(joined) == len(snapshot)
    for name in problem.definition.features:
        assert joined[name].eq_missing(joined[f"{name}_now"]).all(), name
    part = problem.frame("2024-02-20", datetime(2024, 2, 22)).polars()
    days = frame.filter(pl.col("decision_time").dt.date().is_between(pl.date(2024, 2, 20), pl.date(2024, 2, 21)))
    assert_frame_equal(part, days)
    assert_frame_equal(problem.snapshot(problem.snapshots["snapshot"][0][:9]).polars(), snapshot)
    row = frame.filter(pl.col("courier_count_7d") > 0).tail(1)
    at = problem.view("courier_history", as_of=row["decision_time"].item())
    found = at.polars().filter(pl.col("courier") == row["courier"].item())
    assert found["courier_count_7d"].item() == row["courier_count_7d"].item()
    assert at.columns == ["courier", "courier_late_7d", "courier_count_7d"]
    assert len(problem.view("courier_facts", as_of="2024-02-01")) > 0
    assert len(problem.view("courier_history", as_of="2023-01-01")) == 0, "no courier was known then"
    assert len(problem.view("courier_history")) == problem.views.set_index("view")["rows"]["courier_history"]


@pytest.mark.parametrize("name", ["deliveries", "wine", "diabetes"])
def test_models_predict_and_explain_frames_of_both_libraries(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, configure: Callable[..., None]
) -> None:
    if name == "deliveries":
        request.getfixturevalue("traced_world")
    else:
        configure(home=tmp_path / "home", problems=tmp_path, problem=name)
        {"wine": store_wine, "diabetes": store_diabetes}[name](tmp_path)
        traced_home.train(name)
    problem = truecourse.open(name)
    model = problem.model()
    rows = model.snapshot
    assert len(rows) <= len(problem.frame())
    assert set(problem.tables["table"]) == {table.name for table in problem.definition.tables}
    if not problem.definition.has_time:
        with pytest.raises(SettingsError, match="have no time"):
            problem.frame("2024-01-01")
    scored = model.predict(rows.polars())
    assert isinstance(scored, pl.DataFrame)
    frame = rows.pandas().set_index(pd.Index(range(100, 100 + len(rows))))
    predicted = model.predict(frame)
    assert predicted.index.equals(frame.index)
    pd.testing.assert_frame_equal(predicted.reset_index(drop=True), scored.to_pandas())
    matrix = model.model.vocabulary.encode({n: frame_values(frame[n]) for n in model.features})
    output = model.model.predict(matrix).reshape(len(rows), -1)
    columns = [column for column in scored.columns if column.startswith("score")]
    np.testing.assert_allclose(predicted[columns].to_numpy(), output, rtol=1e-6)
    if model.classes:
        best = output.argmax(axis=1) if len(columns) > 1 else (output[:, 0] >= 0.5).astype(int)
        assert predicted["prediction"].tolist() == [model.classes[code] for code in best]
    explained = model.explain(frame.drop(columns="id").sample(frac=1, random_state=0))
    contributions = explained[model.features].sum(axis=1) + explained["base"]
    np.testing.assert_allclose(contributions, explained["margin"], rtol=1e-6, atol=1e-6)
    if problem.definition.kind == "binary":
        np.testing.assert_allclose(
            1 / (1 + np.exp(-explained["margin"])), predicted["score"].loc[explained.index], atol=1e-5
        )
    assert model.metrics.loc[(problem.definition.metric, model.name), "value"] > 0
    assert model.name in html(model)
    assert problem.name in html(problem)
    fields = [*problem.definition.request_fields, *(["decision_time"] if problem.definition.has_time else [])]
    bare = frame[fields].sample(frac=1, random_state=1).head(50)
    pd.testing.assert_frame_equal(model.predict(bare), predicted.loc[bare.index].drop(columns="id"))
    as_dicts = model.predict(frame.head(2).to_dict("records"))
    assert as_dicts["prediction"].tolist() == predicted["prediction"].head(2).tolist()


def frame_values(values: "pd.Series[Any]") -> Any:
    if values.dtype == object:
        return np.array([None if pd.isna(value) else value for value in values], dtype=object)
    return values.to_numpy(dtype=np.float64)


def test_comparisons_reports_and_listings(traced_world: TracedWorld, capsys: pytest.CaptureFixture[str]) -> None:
    problem = truecourse.open()
    compared = problem.compare(1, "champion")
    assert execute(["compare", "1", "champion", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    answer.pop("page")
    assert compared.document == answer
    assert compared["comparisons"][0]["sentence"] in html(compared).replace("&#39;", "'")
    assert problem.runs["run"].tolist() == runs.run_ids("deliveries")
    assert problem.versions[["version", "alias"]].to_numpy().tolist() == [[1, "champion, challenger"]]
    assert problem.reports.empty
    at = datetime(2024, 3, 1, tzinfo=UTC)
    report_store.save(open_store(), Report(check="drift", problem="deliveries", at=at, sentence="Nothing <drifted>."))
    assert problem.reports[["check", "state"]].to_numpy().tolist() == [["drift", "ok"]]
    assert "Nothing &lt;drifted&gt;." in html(problem.report("drift"))


def test_what_does_not_exist_is_a_clear_error(traced_world: TracedWorld) -> None:
    problem = truecourse.open("deliveries")
    rows = problem.snapshot().pandas()
    request = {
        "courier": "c07",
        "depot": "north",
        "promised": 45,
        "distance": 6.5,
        "decision_time": "2024-02-25T18:00:00",
    }
    assert len(problem.model(1).predict(request)) == 1
    cases: list[tuple[Callable[[], Any], type[TruecourseError], str, str]] = [
        (lambda: truecourse.open("nothing"), TruecourseError, "nothing", ""),
        (lambda: problem.table("deliverys"), NotFound, "no table 'deliverys'", "did you mean deliveries"),
        (lambda: problem.table("deliveries", version=9), NotFound, "no version 9", "0 to 1"),
        (lambda: problem.table("deliveries", as_of="soon"), SettingsError, "is no time", "2024-03-01"),
        (lambda: problem.view("history"), NotFound, "no view 'history'", "depot_history"),
        (lambda: problem.snapshot("00000000"), NotFound, "no such snapshot", "there are"),
        (lambda: problem.model(7), ModelError, "no version 7", "registered versions: 1"),
        (lambda: problem.report("drift"), NotFound, "no report yet", "truecourse run monitor"),
        (lambda: problem.report("drifts"), NotFound, "no check 'drifts'", "did you mean drift"),
        (lambda: problem.compare(1), SettingsError, "1 given", "compare("),
        (lambda: problem.model(1).page, NotFound, "not evaluated", "truecourse run register"),
        (lambda: problem.model(1).predict(5), SettingsError, "int holds no rows", "pandas or Polars"),
        (
            lambda: problem.model(1).predict(rows.drop(columns="depot")),
            ModelError,
            "lack 1 feature: depot",
            "snapshots",
        ),
        (
            lambda: problem.model(1).predict({**request, "promised": "soon"}),
            ModelError,
            "row 0: promised must",
            "fields",
        ),
        (lambda: problem.model(1).predict({"depot": "north"}), ModelError, "lack", "or give the fields courier, depot"),
        (lambda: problem.model(1).predict(rows.assign(depot=1)), ModelError, "depot is int64, expected text", "cast"),
        (lambda: problem.model(1).predict(rows.assign(hour="x")), ModelError, "hour is", "cast"),
    ]
    for call, kind, what, hint in cases:
        with pytest.raises(kind) as error:
            call()
        assert what in str(error.value)
        assert hint in error.value.hint

"""Days without decisions: business days, the first of a month, quarters, a year's gap, a day with one row.
All steps that group by day handle empty days."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tasks.data.ingest import ingest_table
from tasks.data.validate import validate_table
from tasks.features.compute_features import compute_view
from tasks.features.load_online import apply_definitions, load_view
from tasks.monitoring.check_drift import run_drift_check, update_daily_histograms
from tasks.monitoring.check_health import check_pipelines
from tasks.monitoring.check_quality import check_quality
from tasks.monitoring.check_skew import check_skew
from tasks.release.register import register_model
from tasks.scoring.score_decisions import score_decisions
from tasks.training.build_snapshot import take_snapshot
from tasks.training.evaluate_model import evaluate_model
from tasks.training.train import train_model
from truecourse.authoring.checks.run_checks import check_problem
from truecourse.features.clock import data_end
from truecourse.modeling.snapshot import load_manifest
from truecourse.monitoring.drift.daily_counts import split_days
from truecourse.problem.loader import load_problem
from truecourse.references import Window
from truecourse.registry import versions as registry
from truecourse.storage.delta_tables import Tables
from truecourse.storage.object_store import open_store

PROBLEM = """
from truecourse.problem import *

PROBLEM = Problem(
    "trades",
    kind="binary",
    tables=[Table("trades", source=Files("data/trades.csv"), time="day", columns={{
        "day": Time(), "colour": Text(one_of=["blue", "green", "red"]), "weight": Float(),
        "bought": Integer(one_of=[0, 1]),
    }})],
    label=Label(table="trades", column="bought"),
    entities=[Entity("colour")],
    views=[View("sales", sql="sales.sql", entity="colour", ttl=days(500), lookback=days(800),
                features={{"bought_so_far": Float()}})],
    split=TimeSplit(train_until="{0}", validate_until="{1}"),
    model=XGBoost(rounds=20, max_depth=2),
    gates=[],
    monitoring=Monitoring(window=days(7)),
    clock="data",
)
"""
SALES = """SELECT colour, day + INTERVAL 1 DAY AS event_timestamp,
       sum(sum(bought)) OVER past / sum(count(*)) OVER past AS bought_so_far
FROM trades GROUP BY colour, day
WINDOW past AS (PARTITION BY colour ORDER BY day RANGE BETWEEN INTERVAL 700 DAY PRECEDING AND CURRENT ROW)
"""
CALENDARS: dict[str, tuple[pd.DatetimeIndex, int]] = {
    "business days": (pd.bdate_range("2023-01-02", periods=300), 2),
    "the first of each month": (pd.date_range("2020-01-01", periods=40, freq="MS"), 12),
    "once a quarter": (pd.date_range("2015-01-01", periods=30, freq="QS"), 15),
    "a year's gap": (
        pd.DatetimeIndex([*pd.date_range("2021-01-01", periods=80), *pd.date_range("2022-04-01", periods=80)]),
        3,
    ),
    "a last day of one row": (pd.date_range("2023-01-01", periods=120), 4),
}


def trades(calendar: str) -> pd.DataFrame:
    days, each = CALENDARS[calendar]
    moments = days.repeat(each)
    if calendar == "a last day of one row":
        moments = moments[: -each + 1]
    random = np.random.default_rng(0)
    weight = random.gamma(3, 2, len(moments)).round(2)
    colour = random.choice(["blue", "green", "red"], len(moments))
    bought = (weight + 3 * (colour == "red") + random.normal(0, 2, len(moments)) > 6).astype(int)
    return pd.DataFrame({"day": moments.strftime("%Y-%m-%d"), "colour": colour, "weight": weight, "bought": bought})


@pytest.mark.parametrize("calendar", list(CALENDARS))
def test_the_steps_handle_days_without_decisions(calendar: str, tmp_path: Path, configure: Callable[..., None]) -> None:
    configure(home=tmp_path / "home", problems=tmp_path, problem="trades")
    rows, days = trades(calendar), CALENDARS[calendar][0]
    (tmp_path / "trades" / "data").mkdir(parents=True)
    rows.to_csv(tmp_path / "trades" / "data" / "trades.csv", index=False)
    ends = [f"{days[int(len(days) * share)]:%Y-%m-%d}" for share in (0.6, 0.8)]
    (tmp_path / "trades" / "problem.py").write_text(PROBLEM.format(*ends))
    (tmp_path / "trades" / "sales.sql").write_text(SALES)
    assert check_problem(load_problem()) == []

    ingest_table.fn("trades", "trades")
    validate_table.fn("trades", "trades", None)
    compute_view.fn("trades", "sales")
    end = data_end(load_problem(), Tables())
    assert end == days[-1].tz_localize("UTC")
    apply_definitions.fn("trades")
    load_view.fn("trades", "sales", end)
    snapshot = take_snapshot.fn("trades")
    proof = load_manifest(open_store(), snapshot).look_ahead
    assert proof is not None
    assert proof.rows["sales"] > 0
    run = train_model.fn("trades", snapshot)
    version = register_model.fn(run, evaluate_model.fn("trades", run))
    assert registry.champion("trades") == version
    scored = score_decisions.fn("trades", None, Window(), False)
    assert Tables().dataset(scored).count_rows() == len(rows)

    assert update_daily_histograms.fn("trades") > 0
    last = end + timedelta(days=1)
    for at in (None, last, last + timedelta(days=3)):
        report = run_drift_check(load_problem(), Tables(), at, None, evidently=at is None)
        first, until = (pd.Timestamp(report.figures["window"][side]) for side in ("start", "end"))
        assert (until - first).days <= 7
        assert len(list(split_days(first.to_pydatetime(), until.to_pydatetime()))) >= 7
    quality = check_quality.fn("trades", last + timedelta(days=30))
    assert quality.figures["version"] == version.version
    assert check_skew.fn("trades", last, None).findings == ()
    assert check_pipelines.fn("trades", last).check == "pipelines"

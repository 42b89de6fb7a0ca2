"""`truecourse init` with several files: facts and histories become views, exact and without look-ahead."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tasks.features.decision_frame import decision_frame, feature_versions
from truecourse.authoring.checks.run_checks import check_problem
from truecourse.authoring.scaffold.create import Draft, scaffold
from truecourse.data.sql import clean_versions
from truecourse.errors import ProblemError
from truecourse.features.feature_tables import compute_view
from truecourse.features.lookahead_proof import prove
from truecourse.problem import Age, Aggregations, Count, Integer, Mean, Problem, Share, Sum, Table, Text, View, days
from truecourse.problem.loader import load_problem
from truecourse.storage.delta_tables import Tables

FIRST = np.datetime64("2024-01-01", "s")


def orders(count: int = 1500, customers: int = 60, *, dated: bool = False) -> pd.DataFrame:
    """Orders of a year, several of which share a time."""
    random = np.random.default_rng(4)
    seconds = np.sort(random.integers(0, 365 * 86400, count) // 7200 * 7200)
    times = pd.Series(FIRST + seconds.astype("timedelta64[s]"))
    return pd.DataFrame(
        {
            "order_id": np.arange(1000, 1000 + count),
            "customer": [f"C{number:03d}" for number in random.integers(0, customers, count)],
            "ordered_at": times.dt.strftime("%Y-%m-%d" if dated else "%Y-%m-%dT%H:%M:%SZ"),
            "amount": random.integers(1, 100, count) * 1.5,
            "gift": random.choice(["true", "false"], count),
            "channel": random.choice(["web", "app", "phone"], count),
            "returned": random.choice(["yes", "no"], count, p=[0.2, 0.8]),
        }
    )


def customers(count: int = 60) -> pd.DataFrame:
    """Facts about customers, who signed up in January."""
    random = np.random.default_rng(5)
    days_after = random.integers(0, 20, count).astype("timedelta64[D]")
    return pd.DataFrame(
        {
            "id": [f"C{number:03d}" for number in range(count)],
            "signed_up": pd.Series(FIRST + days_after).dt.strftime("%Y-%m-%d"),
            "group": random.choice(["a", "b"], count),
        }
    )


def months(count: int = 60) -> pd.DataFrame:
    """A decision of each customer at the start of each month, with labels of three kinds."""
    random = np.random.default_rng(6)
    rows = [(f"C{c:03d}", f"2024-{month:02d}-01") for month in range(2, 13) for c in range(count)]
    frame = pd.DataFrame(rows, columns=["customer_id", "month"])
    frame["churned"] = random.choice(["yes", "no"], len(frame))
    frame["spend"] = random.gamma(2, 20, len(frame)).round(2)
    frame["level"] = random.choice(["low", "middle", "high"], len(frame))
    return frame


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., list[Path]]:
    def write(**frames: pd.DataFrame) -> list[Path]:
        paths = [tmp_path / f"{name}.csv" for name in frames]
        for path, frame in zip(paths, frames.values(), strict=True):
            frame.to_csv(path, index=False)
        return paths

    return write


def drafted(data: Sequence[Path], label: str, **stated: Sequence[str]) -> tuple[Problem, Draft]:
    draft = scaffold("drafted", data, label, **stated)
    problem = load_problem("drafted")
    assert check_problem(problem) == []
    return problem, draft


def aggregations(problem: Problem) -> Aggregations:
    (view,) = (view for view in problem.views if isinstance(view, Aggregations))
    return view


@pytest.mark.parametrize(("label", "kind"), [("churned", "binary"), ("spend", "regression"), ("level", "multiclass")])
def test_a_history_and_facts_become_views(
    label: str, kind: str, problems: Path, write: Callable[..., list[Path]]
) -> None:
    asked = months()[["customer_id", "month", label]]
    problem, draft = drafted(write(months=asked, orders=orders(), customers=customers()), label)
    assert problem.kind == kind
    assert problem.label_table.name == "months"
    assert [(entity.name, entity.keys) for entity in problem.entities] == [("customer", ("customer_id",))]
    assert problem.clock == "data"
    view = aggregations(problem)
    assert (view.table, view.entity, view.time) == ("orders", "customer", "ordered_at")
    features = view.features
    assert features["orders_30d"] == Count(window=days(30)), "the rhythm of the decisions"
    assert features["amount_sum_90d"] == Sum("amount", window=days(90))
    assert features["amount_mean_30d"] == Mean("amount", window=days(30))
    assert isinstance(features["gift_share_180d"], Share)
    assert features["orders_last_age"] == Age()
    windows = {function.window for function in features.values() if function.window}
    assert max(windows) == days(180), "half of the decisions are not later than July"
    facts = problem.view("customers")
    assert isinstance(facts, View)
    assert list(facts.features) == ["group"]
    assert problem.text(facts.sql).splitlines()[1:] == [
        'SELECT customer_id, signed_up AS event_timestamp, "group"',
        "FROM customers",
    ]
    assert problem.table("customers").columns["customer_id"] == Text(unique=True, source="id")
    assert problem.request_fields["customer_id"].feature is False
    assert draft.to_document()["views"]["customers"] == ["group"]


def computed(problem: Problem) -> pd.DataFrame:
    """The decisions with their features, after real ingestion; no view may look ahead."""
    from tasks.data.ingest import ingest_table
    from tasks.data.validate import validate_table

    for table in problem.tables:
        ingest_table.fn(problem.name, table.name)
        validate_table.fn(problem.name, table.name, None)
    tables = Tables()
    for view in problem.views:
        compute_view(problem, tables, view.name)
    clean = clean_versions(problem, tables)
    features = feature_versions(problem, tables, clean)
    frame = decision_frame(problem, tables, clean, features)
    prove(problem, tables, clean, features, frame)
    result: pd.DataFrame = frame.to_pandas()
    return result


@pytest.mark.parametrize("dated", [False, True], ids=["times", "dates"])
def test_a_decision_sees_only_earlier_rows_of_its_own_table(
    dated: bool, problems: Path, write: Callable[..., list[Path]]
) -> None:
    """Neither its own row, nor others of the same time; of dates, none of the same day. The label is not aggregated."""
    rows = orders(600, 20, dated=dated)
    problem, _ = drafted(write(orders=rows, customers=customers(20)), "returned")
    table: Table = problem.table("orders")
    assert table.known_ahead == (-days(1) if dated else timedelta(seconds=-1))
    view = aggregations(problem)
    assert not [name for name in view.features if "returned" in name]
    window = max(function.window for function in view.features.values() if function.window)
    frame = computed(problem).set_index("id").reindex(rows["order_id"].astype(str).tolist())
    times = pd.to_datetime(rows["ordered_at"]).dt.tz_localize(None)
    for place in range(0, len(rows), 7):
        now = times[place]
        mine = rows["customer"] == rows["customer"][place]
        earlier = rows[mine & (times < now) & (times > now - pd.Timedelta(window))]
        found = frame.iloc[place]
        assert found[f"orders_{window.days}d"] == len(earlier)
        if len(earlier):
            assert found[f"amount_sum_{window.days}d"] == earlier["amount"].sum()


def test_events_of_a_date_count_when_the_day_is_over(problems: Path, write: Callable[..., list[Path]]) -> None:
    rows, asked = orders(800, 20, dated=True), months(20)[["customer_id", "month", "churned"]]
    problem, _ = drafted(write(months=asked, orders=rows), "churned")
    assert problem.table("orders").known_ahead == -days(1)
    frame = computed(problem)
    times = pd.to_datetime(rows["ordered_at"])
    for place in range(0, len(frame), 9):
        decision = frame.iloc[place]
        now = decision["decision_time"].tz_localize(None)
        mine = (rows["customer"] == decision["customer_id"]) & (times < now) & (times > now - pd.Timedelta(days=30))
        assert decision["orders_30d"] == mine.sum()


def test_a_plain_table_with_a_lookup_table(problems: Path, write: Callable[..., list[Path]]) -> None:
    """Facts without time, one row per decision: the key becomes a request field, and a leak is left out."""
    random = np.random.default_rng(7)
    patients = pd.DataFrame({"patient_id": [f"P{n:04d}" for n in range(400)], "plan": random.integers(1, 9, 400)})
    patients["cost"] = (patients["plan"] * 10 + random.normal(0, 3, 400)).round(2)
    plans = pd.DataFrame({"id": range(1, 9), "monthly fee": random.integers(5, 50, 8)})
    more = pd.DataFrame(
        {"patient_id": patients["patient_id"], "smoker": random.choice(["y", "n"], 400), "bill": patients["cost"] * 1.2}
    )
    visits = pd.DataFrame({"patient_id": random.choice(patients["patient_id"], 900), "visited": "2024-03-01"})
    data = write(patients=patients, plans=plans, more=more.sample(frac=1), visits=visits)
    problem, draft = drafted(data, "cost")
    assert not problem.has_time
    assert {view.name: list(view.features) for view in problem.views if isinstance(view, View) and view.timeless} == {
        "plans": ["monthly fee"],
        "more": ["smoker"],
    }
    assert isinstance(problem.request["plan"], Integer)
    assert problem.request["patient_id"].feature is False
    assert any("bill determines cost" in line for line in draft.noticed)
    assert "the decisions have no time" in draft.to_document()["not_used"]["visits.csv"]
    frame = computed(problem).merge(more, left_on="id", right_on="patient_id")
    assert (frame["smoker_x"] == frame["smoker_y"]).all()


def test_facts_that_come_after_most_decisions_are_known_from_their_time(
    problems: Path, write: Callable[..., list[Path]]
) -> None:
    """A cancellation is one row per customer, but it is no fact of earlier decisions."""
    asked = months()[["customer_id", "month", "churned"]]
    cancelled = pd.DataFrame({"customer_id": [f"C{n:03d}" for n in range(0, 60, 2)], "cancelled": "2024-07-01"})
    cancelled["reason"] = np.where(np.arange(30) % 3, "price", "other")
    problem, _ = drafted(write(months=asked, cancellations=cancelled), "churned")
    view = problem.view("cancellations")
    assert isinstance(view, View)
    assert "cancelled + INTERVAL 1 DAY AS event_timestamp" in problem.text(view.sql)
    frame = computed(problem)
    known = frame["decision_time"].dt.month > 7
    assert frame.loc[~known, "reason"].isna().all()
    assert frame.loc[known, "reason"].notna().mean() == 0.5


def test_decisions_before_all_events_have_no_history(problems: Path, write: Callable[..., list[Path]]) -> None:
    """A label in a table of customers is no decision at the sign-up: nothing was ordered before."""
    people = customers()
    people["lost"] = np.where(np.arange(60) % 3, "yes", "no")
    people["score"] = np.arange(60) % 7
    later = orders()[lambda rows: rows["ordered_at"] > "2024-02"]
    problem, draft = drafted(write(customers=people, orders=later), "lost")
    assert problem.views == ()
    assert problem.label_table.columns["customer_id"] == Text(unique=True, source="id")
    assert "0% of the decisions have an earlier row" in draft.to_document()["not_used"]["orders.csv"]


@pytest.mark.parametrize(("stated", "key"), [([], ()), (["sample"], ("sample",)), (["size"], ())])
def test_a_stated_key_identifies_the_rows_of_one_file(
    stated: list[str], key: tuple[str, ...], problems: Path, write: Callable[..., list[Path]]
) -> None:
    """Neither the name nor the values of `sample` show that it is a key, and `size` is not unique."""
    frame = pd.DataFrame({"sample": [f"S{n}x" for n in range(60)], "size": [1, 2, 3] * 20, "good": [0, 1] * 30})
    problem, _ = drafted(write(samples=frame), "good", keys=stated)
    assert problem.tables[0].key == key


def test_a_stated_key_and_time_replace_guesses(problems: Path, write: Callable[..., list[Path]]) -> None:
    rows = orders()
    rows["a_recorded"] = rows["ordered_at"]
    (data,) = write(orders=rows)
    problem, _ = drafted([data], "returned", keys=["customer"], times=["a_recorded"])
    assert problem.table("orders").time == "a_recorded"
    assert aggregations(problem).entity == "customer"


@pytest.mark.parametrize(
    ("label", "stated", "message"),
    [
        ("customer_id", {}, "no file has a column"),
        ("channel", {"keys": ["custmer"]}, "no file has a column 'custmer'(.|\n)*did you mean customer"),
        ("channel", {"times": ["amount"]}, "'amount' holds no times"),
        ("shared", {}, r"a.csv and b.csv have a column 'shared'"),
    ],
)
def test_what_does_not_fit_stops_with_a_hint(
    label: str, stated: dict[str, list[str]], message: str, problems: Path, write: Callable[..., list[Path]]
) -> None:
    one = orders(50).assign(shared=1)
    with pytest.raises(ProblemError, match=message):
        scaffold("drafted", write(a=one, b=one.drop(columns="channel")), label, **stated)
    assert not (problems / "drafted").exists()

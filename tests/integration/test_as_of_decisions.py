"""Request fields and spine rows are as of the decision; labels are the latest."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.cleaned import write_clean
from truecourse.features.frame import read_spine
from truecourse.problem import Files, Float, Integer, Label, Problem, Table, Text, Time, TimeSplit
from truecourse.references import Window
from truecourse.storage.delta_tables import Tables

SPINE = """
SELECT CAST(o.id AS VARCHAR) AS id, o.at AS decision_time, o.size, s.colour
FROM orders AS o LEFT JOIN shops AS s USING (shop)
"""
LABEL = 'SELECT CAST(id AS VARCHAR) AS id, late AS label, "at" + INTERVAL 1 DAY AS known_at FROM orders'
ORDERS = {"id": Integer(), "at": Time(), "shop": Integer(), "size": Float(nulls=True), "late": Integer()}
SHOPS = {"shop": Integer(), "opened": Time(), "colour": Text()}
FEW = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)


def problems(folder: Path) -> tuple[Problem, Problem]:
    """Two problems with the same decisions: one with a spine, one without."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spine.sql").write_text(SPINE)
    (folder / "label.sql").write_text(LABEL)
    orders = Table("orders", source=Files("x.csv"), columns=ORDERS, key=["id"], time="at")
    shops = Table("shops", source=Files("y.csv"), columns=SHOPS, key=["shop"], time="opened")
    split = TimeSplit(train_until="2024-02-01", validate_until="2024-03-01")
    timed = Problem(
        "timed", kind="binary", tables=[orders, shops], label=Label(sql="label.sql"), spine="spine.sql",
        request={"size": Float(nulls=True), "colour": Text(nulls=True)}, split=split, folder=folder,
    )  # fmt: skip
    plain = Problem("plain", kind="binary", tables=[orders], label=Label(column="late"), split=split, folder=folder)
    return timed, plain


def day(number: int) -> pd.Timestamp:
    return pd.Timestamp("2024-01-01", tz="UTC") + pd.Timedelta(days=number)


def order(id: int, at: int, size: float, late: int = 0, shop: int = 1) -> dict[str, Any]:
    return {"id": id, "at": day(at), "shop": shop, "size": size, "late": late}


def read_decisions(problem: Problem, tables: Tables, window: Window | None = None) -> pd.DataFrame:
    versions = {t.name: tables.version(f"tables/{problem.name}/clean/{t.name}") for t in problem.tables}
    assert all(versions.values())
    spine = read_spine(problem, tables, {n: v for n, v in versions.items() if v}, window)
    rows: pd.DataFrame = spine.to_pandas().set_index("id")
    return rows


def test_a_decision_uses_the_versions_known_at_its_time(home: Path, tmp_path: Path) -> None:
    tables = Tables()
    for problem in problems(tmp_path):
        write_clean(problem, tables, "orders", pd.DataFrame([order(1, 0, 1.0), order(2, 5, 2.0)]))
        if problem.has_spine:
            shops = [{"shop": 1, "opened": day(0), "colour": "red"}]
            write_clean(problem, tables, "shops", pd.DataFrame(shops))
            later = [{"shop": 1, "opened": day(0), "colour": "blue"}, {"shop": 2, "opened": day(8), "colour": "green"}]
            write_clean(problem, tables, "shops", pd.DataFrame(later))
        write_clean(
            problem, tables, "orders", pd.DataFrame([order(1, 0, 99.0, late=1), order(3, 3, 3.0), order(4, 10, 4.0)])
        )
        rows = read_decisions(problem, tables)
        assert rows["size"].to_dict() == {"1": 1.0, "2": 2.0, "3": 3.0, "4": 4.0}
        assert rows["label"].to_dict() == {"1": 1, "2": 0, "3": 0, "4": 0}, "labels are those known now"
        if problem.has_spine:
            assert rows["colour"].to_dict() == {"1": "red", "2": "red", "3": "blue", "4": "blue"}
            window = Window(
                start=day(4).to_pydatetime().replace(tzinfo=None), end=day(11).to_pydatetime().replace(tzinfo=None)
            )
            pd.testing.assert_frame_equal(
                read_decisions(problem, tables, window), rows[rows["decision_time"] >= day(4)]
            )


ROWS = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 30), st.floats(0, 9, width=16), st.integers(0, 1), st.integers(1, 3)),
    min_size=1,
    max_size=8,
)


@FEW
@given(batches=st.lists(ROWS, min_size=2, max_size=4), colours=st.lists(st.sampled_from("rgb"), min_size=3, max_size=3))
def test_later_data_changes_no_earlier_decision(
    batches: list[list[tuple[int, int, float, int, int]]],
    colours: list[str],
    tmp_path_factory: object,
    configure: Callable[..., None],
) -> None:
    """Corrections (also of the time), late rows, and backfills."""
    folder = tmp_path_factory.mktemp("decisions")  # type: ignore[attr-defined]
    configure(home=folder / "home")
    tables = Tables()
    for problem in problems(folder):
        before: pd.DataFrame | None = None
        newest = {"orders": day(-1), "shops": day(-1)}
        for number, batch in enumerate(batches):
            # The clock is the data's: each batch has a newer row, so that two batches differ in time.
            newer = order(100 + number, 40 + number, 1.0)
            rows = pd.DataFrame([*(order(id, at, size, late, shop) for id, at, size, late, shop in batch), newer])
            if problem.has_spine and number < len(colours):
                shops = [{"shop": n, "opened": day(40 + number), "colour": colours[number]} for n in (1, 2, 3)]
                write_clean(problem, tables, "shops", pd.DataFrame(shops))
            write_clean(problem, tables, "orders", rows)
            after = read_decisions(problem, tables)
            if before is not None:
                fields = ["decision_time", *problem.request_fields]
                # Decisions up to the oldest of the tables' newest rows are final.
                reached = min(newest.values()) if problem.has_spine else before["decision_time"].max()
                past = before[before["decision_time"] <= reached]
                pd.testing.assert_frame_equal(after.loc[past.index, fields], past[fields])
            before = after
            newest["orders"] = max(newest["orders"], rows["at"].max())
            newest["shops"] = day(40 + min(number, len(colours) - 1))

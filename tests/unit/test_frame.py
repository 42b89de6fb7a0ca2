"""Frames: encoding, splits, canonical order, snapshots that detect a changed byte."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from truecourse.arrays import columns_of
from truecourse.data.arrow_types import UTC_TIME
from truecourse.data.sql import row_id
from truecourse.errors import FeatureError, IntegrityError, ModelError
from truecourse.features.frame import add_split, compute_request_features, sort_frame
from truecourse.modeling import snapshot as snapshots
from truecourse.modeling import training
from truecourse.modeling.encoding import Vocabulary
from truecourse.modeling.snapshot import Manifest, load_frame, save, serialize
from truecourse.modeling.training import matrix_of, rows_of
from truecourse.problem import (
    Boolean,
    Files,
    Float,
    Integer,
    Label,
    Problem,
    RandomSplit,
    RequestFeatures,
    Table,
    Text,
    TimeSplit,
)
from truecourse.problem.definition import Arrays, Kind
from truecourse.storage.object_store import open_store

COLUMNS = {"colour": Text(nulls=True), "size": Float(nulls=True), "n": Integer(nulls=True), "ok": Boolean(nulls=True)}


def problem(kind: Kind = "binary", **changes: Any) -> Problem:
    table = Table("t", source=Files("t.csv"), columns=COLUMNS | {"y": Text()})
    return Problem(name="p", kind=kind, tables=[table], label=Label(table="t", column="y"), **changes)


def frame(rows: dict[str, list[Any]], split: list[str] | None = None) -> pa.Table:
    schema = {"colour": pa.string(), "size": pa.float64(), "n": pa.int64(), "ok": pa.bool_(), "y": pa.string()}
    table = pa.table({name: pa.array(rows[name], schema[name]) for name in rows if name in schema})
    if "y" in rows:
        table = table.rename_columns(["label" if n == "y" else n for n in table.column_names])
    return table.append_column("split", pa.array(split or ["train"] * len(table)))


def test_a_category_outside_training_is_unknown() -> None:
    rows: dict[str, list[Any]] = {
        "colour": ["red", "blue", "green", None],
        "size": [1.5, None, 2, 3],
        "n": [1, 2, None, 4],
    }
    made = frame(
        {**rows, "ok": [True, False, None, True], "y": ["a", "b", "a", "b"]}, ["train", "train", "test", "train"]
    )
    vocabulary = Vocabulary.learn(problem(), made)
    assert vocabulary.categories == {"colour": ("blue", "red")}
    columns = columns_of(made, vocabulary.features)
    expected = [[1, 1.5, 1, 1], [0, np.nan, 2, 0], [np.nan, 2, np.nan, np.nan], [np.nan, 3, 4, 1]]
    np.testing.assert_array_equal(vocabulary.encode(columns), np.array(expected, np.float32))
    assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary


@given(st.lists(st.sampled_from(["a", "b", "c", "é", "", None]), min_size=1, max_size=200))
def test_one_row_and_many_rows_get_the_same_codes(values: list[str | None]) -> None:
    vocabulary = Vocabulary(kinds={"x": "category"}, categories={"x": ("a", "b", "é")})
    many = vocabulary.encode({"x": np.array(values, dtype=object)})
    one_by_one = [vocabulary.encode({"x": np.array([value], dtype=object)})[0] for value in values]
    np.testing.assert_array_equal(many, np.array(one_by_one))


def test_numbers_beyond_float32_are_its_largest() -> None:
    """XGBoost rejects infinities, and a request function may divide by zero."""
    vocabulary = Vocabulary(kinds={"x": "float", "ok": "boolean"}, categories={})
    values = np.array([1e308, -1e308, np.inf, -np.inf, np.nan, 1.5])
    (encoded, _) = vocabulary.encode({"x": values, "ok": np.zeros(6)}).T
    largest = np.finfo(np.float32).max
    np.testing.assert_array_equal(encoded, [largest, -largest, largest, -largest, np.nan, 1.5])


def test_labels_outside_the_classes_are_named() -> None:
    made = frame({"colour": ["a"] * 3, "y": ["yes", "no", "maybe"]}, ["train", "train", "test"])
    with pytest.raises(ModelError, match="maybe"):
        Vocabulary.learn(problem(), made)
    with pytest.raises(ModelError, match="two classes"):
        Vocabulary.learn(problem(), made.slice(0, 1))


@pytest.mark.parametrize("values", [[0, 1, None], [0.0, 1.0, None], [False, True, None], ["0", "1", None]])
def test_a_binary_label_reads_the_same_in_every_type(values: list[Any]) -> None:
    vocabulary = Vocabulary(kinds={}, categories={}, classes=("0", "1"))
    np.testing.assert_array_equal(vocabulary.labels(pa.table({"label": values})), np.array([0, 1, np.nan], np.float32))


def test_a_random_split_keeps_each_row_on_its_side() -> None:
    split = RandomSplit(validate=0.2, test=0.3, seed=1)
    ids = pa.table({"id": [str(n) for n in range(5000)], "label": ["a"] * 5000})
    sides = add_split(problem(split=split), ids)["split"].to_pylist()
    assert {s: round(sides.count(s) / 5000, 1) for s in sides} == {"train": 0.5, "validate": 0.2, "test": 0.3}
    fewer = add_split(problem(split=split), ids.slice(100, 1500))["split"].to_pylist()
    assert fewer == sides[100:1600]


def test_a_time_split_cuts_at_utc_midnight() -> None:
    split = TimeSplit(train_until="2020-01-02", validate_until="2020-01-03", test_until="2020-01-04")
    midnight = datetime(2020, 1, 2, tzinfo=UTC)
    moment = timedelta(microseconds=1)
    times = [midnight - moment, midnight, midnight + timedelta(days=1), midnight + timedelta(days=2)]
    made = pa.table({"id": list("abcd"), "decision_time": pa.array(times, UTC_TIME)})
    assert add_split(problem(split=split), made)["split"].to_pylist() == ["train", "validate", "test"]


def test_the_order_is_canonical() -> None:
    times = [datetime(2020, 1, 1, tzinfo=UTC)] * 2 + [datetime(2019, 1, 1, tzinfo=UTC)]
    made = pa.table({"id": ["b", "a", "c"], "decision_time": pa.array(times, UTC_TIME)})
    assert sort_frame(made)["id"].to_pylist() == ["c", "a", "b"]


@given(rows=st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abc")), max_size=12), ordered=st.booleans())
def test_sorted_rows_and_others_get_the_same_order(rows: list[tuple[int, str]], ordered: bool) -> None:
    rows = sorted(rows) if ordered else rows
    times = [datetime(2020, 1, 1 + day, tzinfo=UTC) for day, _ in rows]
    made = pa.table(
        {
            "id": pa.array([id for _, id in rows], pa.string()),
            "decision_time": pa.array(times, UTC_TIME),
            "n": range(len(rows)),
        }
    )
    places = sorted(range(len(rows)), key=lambda place: rows[place])
    assert sort_frame(made)["n"].to_pylist() == places
    assert sort_frame(made.drop_columns(["decision_time"]))["id"].to_pylist() == sorted(id for _, id in rows)


@given(numbers=st.lists(st.none() | st.integers(0, 3), max_size=30), cuts=st.lists(st.integers(0, 30), max_size=4))
def test_a_frame_has_the_same_bytes_however_it_is_cut(numbers: list[int | None], cuts: list[int]) -> None:
    """And those of pyarrow's own writer, as in homes of earlier releases."""
    whole = pa.table({"n": pa.array(numbers, pa.int64()), "text": pa.array(map(str, numbers), pa.string())})
    edges = sorted({0, *(min(cut, len(whole)) for cut in cuts), len(whole)})
    parts = [whole.slice(a, b - a) for a, b in pairwise(edges)] or [whole]
    sink = pa.BufferOutputStream()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshots, "ROW_GROUP", 7)
        written = serialize(parts)
    pq.write_table(whole, sink, compression="zstd", row_group_size=7)
    assert written.data == sink.getvalue().to_pybytes()
    assert (written.rows, written.columns) == (len(whole), {"n": "int64", "text": "string"})


@given(
    split=st.lists(st.sampled_from(["train", "validate", "test"]), max_size=9),
    ordered=st.booleans(),
    sides=st.sets(st.sampled_from(["train", "validate", "test"]), min_size=1),
)
def test_the_rows_of_sides_keep_their_order(split: list[str], ordered: bool, sides: set[str]) -> None:
    split = sorted(split) if ordered else split
    made = pa.table({"n": pa.array(range(len(split)), pa.int64()), "split": pa.array(split, pa.string())})
    assert rows_of(made, *sides)["n"].to_pylist() == [n for n, side in enumerate(split) if side in sides]


@pytest.mark.parametrize("sides", [(), ("train",), ("validate", "train"), ("test",)])
def test_batches_of_rows_are_encoded_like_the_whole(sides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    count = 300
    rows: dict[str, list[Any]] = {
        "colour": [None if n % 7 == 0 else "abcd"[n % 4] for n in range(count)],
        "size": [None if n % 5 == 0 else n / 3 for n in range(count)],
        "n": list(range(count)),
        "ok": [n % 3 == 0 for n in range(count)],
        "y": ["a", "b"] * (count // 2),
    }
    made = frame(rows, [("train", "train", "validate")[n % 3] for n in range(count)])
    vocabulary = Vocabulary.learn(problem(), made)
    chosen = rows_of(made, *sides) if sides else made
    whole = vocabulary.encode(columns_of(chosen, vocabulary.features))
    monkeypatch.setattr(training, "BATCH_ROWS", 130)
    assert np.array_equal(matrix_of(vocabulary, made, *sides), whole, equal_nan=True)


def test_a_request_function_that_violates_its_declaration_is_reported() -> None:
    def halves(columns: Arrays) -> Arrays:
        return {"other": columns["size"] / 2}

    declared = RequestFeatures(halves, inputs=["size"], features={"half": Float()})
    with pytest.raises(FeatureError, match=r"halves.*other.*half"):
        compute_request_features(problem(request_features=declared), {"size": np.ones(2)}, 2)


def test_a_snapshot_is_named_by_its_digest_and_detects_a_changed_byte(home: Path) -> None:
    store = open_store()
    made = frame({"colour": ["red"], "y": ["a"]})
    manifest = Manifest(
        problem="p", problem_digest="d", document={}, until=None, rows={"train": 1}, columns={}, inputs=()
    )
    snapshot = save(store, serialize([made]), manifest)
    assert save(store, serialize([made]), manifest) == snapshot
    assert load_frame(store, snapshot).equals(made)
    data = bytearray(store.get(snapshot.frame_key))
    data[len(data) // 2] ^= 1
    store.put(snapshot.frame_key, bytes(data))
    with pytest.raises(IntegrityError, match="changed"):
        load_frame(store, snapshot)


@given(keys=st.lists(st.tuples(*[st.text("a|\\", max_size=4)] * 2), min_size=2, max_size=2, unique=True))
def test_two_keys_of_two_columns_have_two_ids(keys: Any) -> None:
    table = Table("things", source=Files("t.csv"), columns={"a": Text(), "b": Text()}, key=["a", "b"])
    with duckdb.connect() as connection:
        connection.register("things", pa.table({"a": [key[0] for key in keys], "b": [key[1] for key in keys]}))
        ids = connection.sql(f"SELECT {row_id(table)} FROM things").fetchall()
    assert ids[0] != ids[1]

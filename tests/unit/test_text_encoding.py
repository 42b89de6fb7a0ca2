"""Texts as features: rare categories are one category, and texts are counted by their words or characters."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from truecourse.arrays import columns_of
from truecourse.modeling.encoding import FEW, MatrixColumn, NgramColumns, Vocabulary
from truecourse.modeling.model import Model
from truecourse.modeling.prediction import explanations, predict_rows
from truecourse.modeling.training import train
from truecourse.problem import Boolean, Files, Float, Integer, Label, Ngrams, Problem, RandomSplit, Table, Text, XGBoost
from truecourse.serving.contract import Contract

NOTES = NgramColumns(width=8, of="words", shortest=1, longest=2)
ROWS = st.lists(
    st.tuples(
        st.none() | st.floats(-1e6, 1e6, width=32), st.none() | st.text(max_size=12),
        st.none() | st.sampled_from("abcd"), st.none() | st.sampled_from("abcd"),
    ),
    min_size=1, max_size=2 * FEW,
)  # fmt: skip
VOCABULARY = Vocabulary(
    kinds={"size": "float", "note": "category", "shop": "category", "city": "category"},
    categories={"shop": ("a", "b"), "city": ("a", "b")}, classes=("no", "yes"), pooled=("shop",),
    ngrams={"note": NOTES},
)  # fmt: skip


@given(ROWS)
def test_a_row_is_encoded_alike_alone_and_among_others(rows: list[tuple[float, str, str, str]]) -> None:
    names = VOCABULARY.features
    lists = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    types = {name: pa.float64() if name == "size" else pa.string() for name in names}
    arrays = columns_of(pa.table({name: pa.array(values, types[name]) for name, values in lists.items()}), names)
    together = VOCABULARY.encode(arrays)
    assert together.shape == (len(rows), 11)
    for place, row in enumerate(rows[:20]):
        alone = VOCABULARY.encode(dict(zip(names, [[value] for value in row], strict=True)))
        np.testing.assert_array_equal(alone[0], together[place])
        shop, city = row[2:]
        expected = np.nan if shop is None else {"a": 0, "b": 1}.get(shop, 2)
        np.testing.assert_array_equal(alone[0, 9:], [expected, {"a": 0, "b": 1}.get(city, np.nan)])
        assert np.isnan(alone[0, 1:9]).all() == (row[1] is None)


def test_words_are_counted_whatever_their_case() -> None:
    counts = NgramColumns(width=4096, of="words", shortest=1, longest=1).count(["Red tea red", "tea", "", None])
    assert counts[:3].sum(axis=1).tolist() == [3, 1, 0]
    assert counts[0].max() == 2
    assert np.isnan(counts[3]).all()
    assert counts[0] @ counts[1] == 1
    inside = NgramColumns(width=4096, of="characters", shortest=3, longest=3).count(["AB12", "ab12"])
    np.testing.assert_array_equal(inside[0], inside[1])


def problem(**text: object) -> Problem:
    columns = {"number": Integer(), "size": Float(nulls=True), "note": Text(nulls=True, **text), "late": Boolean()}  # type: ignore[arg-type]
    table = Table("orders", source=Files("orders.csv"), key=["number"], columns=columns)
    label, model = Label(table="orders", column="late"), XGBoost(rounds=30, early_stopping_rounds=10)
    return Problem("orders", kind="binary", tables=[table], label=label, model=model, split=RandomSplit())


def frame(notes: list[str], late: list[bool]) -> pa.Table:
    count = len(notes)
    split = np.array(["train", "validate", "test"], dtype=object)[np.arange(count) % 10 // 4]
    numbers = np.random.default_rng(0).normal(size=count)
    return pa.table(
        {
            "id": list(map(str, range(count))), "size": numbers, "note": pa.array(notes, pa.string()), "label": late,
            "split": split,
        }
    )  # fmt: skip


def test_rare_and_new_categories_are_one() -> None:
    notes = ["tea"] * 40 + ["milk"] * 40 + [f"rare {n}" for n in range(20)]
    vocabulary = Vocabulary.learn(problem(min_count=5), frame(notes, [n % 2 == 0 for n in range(100)]))
    assert vocabulary.categories == {"note": ("milk", "tea")}
    assert vocabulary.encode({"size": [0.0] * 4, "note": ["tea", "rare 1", "new", None]})[:3, 1].tolist() == [1, 2, 2]
    assert vocabulary.matrix_columns[1] == MatrixColumn("note", 1, "category", 3)
    assert Contract.of(problem(min_count=5), vocabulary).fields[1].known is None
    every = Vocabulary.learn(problem(), frame(notes, [n % 2 == 0 for n in range(100)]))
    assert len(every.categories["note"]) >= 10
    assert every.pooled == ()


@pytest.mark.parametrize(
    "text", [{"min_count": 3}, {"ngrams": Ngrams(width=16)}, {"ngrams": Ngrams(of="characters", shortest=2, longest=3)}]
)
def test_a_model_learns_from_texts_explains_them_as_one_feature_and_is_stored(text: dict[str, object]) -> None:
    random = np.random.default_rng(1)
    fruit = np.array(["apple", "pear", "plum", "lemon"])
    late = random.random(600) < 0.5
    words = np.where(late, fruit[random.integers(0, 2, 600)], fruit[random.integers(2, 4, 600)])
    notes: list[str] = list(words) if "min_count" in text else [f"box {n} of {word}" for n, word in enumerate(words)]
    rows = frame(notes, late.tolist())
    spec = problem(**text)
    trained, again = train(spec, rows), train(spec, rows)
    assert trained.loss < 0.3
    assert (trained.model.ubj(), trained.model.vocabulary.to_json()) == (
        again.model.ubj(),
        again.model.vocabulary.to_json(),
    )
    stored = Vocabulary.from_json(trained.model.vocabulary.to_json())
    assert stored == trained.model.vocabulary
    model = Model.load(trained.model.ubj(), stored, "binary").compiled()
    sent: dict[str, list[Any]] = {
        "size": [1.0, None],
        "note": ["box 5 of apple" if "ngrams" in text else "apple", None],
    }
    matrix = stored.encode(sent)
    for values in (trained.model.contributions(matrix), model.contributions(matrix)):
        assert values.shape == (2, 3)
        np.testing.assert_allclose(values.sum(axis=1), model.margin(matrix), rtol=1e-4, atol=1e-4)
    first, second = predict_rows(model, sent, matrix)
    assert (first["missing"], second["missing"], second["unknown"]) == ([], ["size", "note"], [])
    assert first["prediction"] == "1"
    top = explanations(model, sent, matrix)[0]["contributions"][0]
    assert (top["feature"], top["value"]) == ("note", sent["note"][0])


def test_vocabularies_of_earlier_releases_keep_their_bytes() -> None:
    before = {
        "kinds": {"size": "float", "city": "category"},
        "categories": {"city": ["a", "b"]},
        "classes": ["no", "yes"],
    }
    data = json.dumps(before, indent=1, ensure_ascii=False).encode()
    assert Vocabulary.from_json(data).to_json() == data

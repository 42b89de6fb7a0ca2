"""The model card: figures equal brute force, planted effects are named, private values are hidden."""

import dataclasses
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import existing
from truecourse.authoring.checks.run_checks import check_problem
from truecourse.evaluation import model_page
from truecourse.evaluation.cards.card_document import Recorded, card_document, sample_warning
from truecourse.evaluation.cards.card_sections import chapters
from truecourse.evaluation.cards.dependence_picture import dependence_picture
from truecourse.evaluation.cards.explanations import examples, interactions
from truecourse.evaluation.cards.fairness import Predicted, fairness
from truecourse.evaluation.cards.markdown import card_markdown, escape
from truecourse.evaluation.cards.operating_points import operating_points
from truecourse.evaluation.model_evaluation import HeldOut
from truecourse.evaluation.paired_comparison import Champion, compare
from truecourse.modeling.boosting import parameters
from truecourse.modeling.snapshot import Manifest
from truecourse.modeling.training import library_versions, rows_of, train
from truecourse.problem import (
    Card,
    Decision,
    Files,
    Float,
    Integer,
    Label,
    Linear,
    Problem,
    RandomSplit,
    Table,
    Text,
    Time,
    TimeSplit,
    XGBoost,
)
from truecourse.problem.definition import Kind
from truecourse.problem.loader import evaluation_digest, problem_digest, training_digest
from truecourse.references import Snapshot, TrainedRun

pytestmark = pytest.mark.usefixtures("_one_thread")
KINDS: tuple[Kind, ...] = ("binary", "multiclass", "regression")
DECLARED = Card(
    use="Call <b>customers</b>", not_for=["pay"], limits=["a | pipe", "two\nlines"], groups=["team"], seeds=2,
    seed_rows=300,
)  # fmt: skip
SHARES = st.integers(0, 20).map(lambda n: n / 20)


@pytest.fixture
def _one_thread(configure: Callable[..., None]) -> None:
    configure(threads=1)  # for so few rows the fastest


def problem(kind: Kind, in_time: bool = False, card: Card = DECLARED) -> Problem:
    columns = {
        "size": Float(), "factor": Float(), "secret": Integer(private="hash"), "team": Text(), "outcome": Text(),
        **({"at": Time()} if in_time else {}),
    }  # fmt: skip
    split = TimeSplit(train_until="2024-02-01", validate_until="2024-02-20") if in_time else RandomSplit()
    return Problem(
        "made", kind=kind, card=card, split=split, owner="the team", description="What <happens>?",
        tables=[Table("rows", source=Files("rows.csv"), columns=columns, time="at" if in_time else None)],
        label=Label(table="rows", column="outcome", unit="days" if kind == "regression" else ""),
        model=XGBoost(rounds=25, learning_rate=0.3, max_depth=3, linear=False, early_stopping_rounds=10),
    )  # fmt: skip


def frame(kind: Kind, in_time: bool = False, rows: int = 2400, seed: int = 0, positive: bool = False) -> pa.Table:
    """The product of `size` and `factor` matters, and `secret`; rows of team b have noisier labels.

    `positive`: `factor` is, so that `size` has an effect of its own."""
    random = np.random.default_rng(seed)
    size, factor, noise = random.standard_normal((3, rows))
    factor = np.abs(factor) if positive else factor
    secret, team = random.integers(100_000, 100_003, rows), random.choice(["a", "b", "rare"], rows, p=[0.6, 0.39, 0.01])
    score = 2 * size * factor + (secret - 100_001) + np.where(team == "b", 2.5, 0.3) * noise
    label: Any = score
    if kind == "binary":
        label = np.where(score > 0, "yes", "</script>no")
    elif kind == "multiclass":
        label = np.array(["low", "mid|dle", "high"])[np.digitize(score, [-1, 1])]
    day = np.sort(random.integers(0, 75, rows))
    sides = np.where(day < 31, "train", np.where(day < 50, "validate", "test"))
    times = [datetime(2024, 1, 1, 12, tzinfo=UTC) + timedelta(days=int(one)) for one in day]
    return pa.table(
        {"id": [str(n) for n in range(rows)], "size": size, "factor": factor, "secret": secret, "team": team}
        | ({"decision_time": pa.array(times, pa.timestamp("us"))} if in_time else {})
        | {"label": label, "split": sides}
    )


def evaluate(
    kind: Kind, in_time: bool = False, card: Card = DECLARED, **changes: Any
) -> tuple[HeldOut, dict[str, Any], dict[str, Any]]:
    """Train and evaluate; returns the test rows with the model, the report and the card. `changes`: of the problem."""
    spec, rows = dataclasses.replace(problem(kind, in_time, card), **changes), frame(kind, in_time)
    trained = train(spec, rows)
    test = HeldOut(spec, trained.model, rows, rows_of(rows, "test"))
    older = train(spec, frame(kind, in_time, seed=1), XGBoost(rounds=3, linear=False)).model
    unseen = rows.set_column(0, "id", pa.array([f"other {n}" for n in range(len(rows))]))
    comparison = compare(spec, test.rows, trained.model, Champion(4, older, rows_of(unseen, "train")))
    report = {
        "metrics": test.metrics(test.predictions), "slices": test.slices(), "gates": [],
        "rows": {"test": len(test.rows)}, "contributions": test.contributions, "decision": test.decision,
    }  # fmt: skip
    training = {
        "parameters": parameters(spec.model), "form": trained.form, "rounds": trained.rounds, "curve": trained.curve,
        "versions": library_versions(), "cost": {"wall_seconds": 2.0, "cpu_seconds": 3.0, "peak_bytes": 4e8},
    }  # fmt: skip
    manifest = Manifest(problem="made", problem_digest="d", document={}, until=None, rows={}, columns={}, inputs=())
    recorded = Recorded(training, manifest, {"tables": {}})
    card_ = card_document(test, RUN, report, recorded, comparison, {"secret"})
    return test, {"report": report, "recorded": recorded}, card_


RUN = TrainedRun(
    problem="made", run_id="f" * 32, model_sha256="e" * 64, snapshot=Snapshot(problem="made", sha256="a" * 64, rows=9)
)


@pytest.mark.parametrize("in_time", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_card_as_json_markdown_and_page(kind: Kind, in_time: bool) -> None:
    test, made, card = evaluate(kind, in_time)
    assert json.loads(json.dumps(card)) == card
    titles = [chapter.title for chapter in chapters(card)]
    assert {"Intended use", "Split", "Compared with the champion", "Fairness", "Examples", "Stability"} <= set(titles)
    text = card_markdown(card)
    assert re.findall(r"^## (.*)", text, re.MULTILINE) == titles
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    for lines in (table.splitlines() for table in tables):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1, lines[0]
    recorded = made["recorded"]
    page = model_page.render(
        test.problem, RUN, made["report"], recorded.training, recorded.manifest, recorded.lineage, {}, card
    )
    assert len(page) < 300_000
    assert "Call &lt;b&gt;customers&lt;/b&gt;" in page
    assert page.count("</script>") == 2
    data = re.search(r'id="points">(.*?)</script>', page, re.DOTALL)
    assert data
    assert json.loads(data[1]) == card["operating"]
    for shown in (text, page, json.dumps(card)):
        assert not re.search(r"100,?00[0-2]\b", shown)


def test_values_of_private_fields_are_hidden_in_dependence_and_examples() -> None:
    _, _, card = evaluate("binary")
    assert card["contributions"]["secret"] > 0.1
    assert "secret" not in {one["feature"] for one in card["dependence"]}
    assert {one["feature"] for one in card["dependence"]} >= {"size", "factor"}
    parts = [part for one in card["examples"] for part in one["contributions"]]
    assert {part["value"] for part in parts if part["feature"] == "secret"} == {None}
    assert all(part["value"] is not None for part in parts if part["feature"] == "size")
    right: dict[bool, list[bool]] = {True: [], False: []}
    for one in card["examples"]:
        right[one["right"]].append(one["label"] == one["prediction"])
    assert right == {True: [True] * 3, False: [False] * 3}


@pytest.mark.parametrize("kind", KINDS)
def test_a_product_is_the_strongest_interaction(kind: Kind) -> None:
    _, _, card = evaluate(kind, card=Card(examples=0))
    first = card["interactions"][0]
    assert set(first["features"]) == {"size", "factor"}
    assert first["share"] > 0.3
    assert card["examples"] == []
    assert card["stability"] is None


@pytest.mark.parametrize("kind", KINDS)
def test_stumps_have_no_interactions(kind: Kind) -> None:
    spec = dataclasses.replace(problem(kind), model=XGBoost(rounds=10, max_depth=1, linear=False))
    rows = frame(kind, positive=True)
    found = interactions(HeldOut(spec, train(spec, rows).model, rows, rows_of(rows, "test")))
    assert found
    assert max(pair["share"] for pair in found) < 1e-6


def test_reseeded_trainings_are_bounded_and_differ() -> None:
    _, _, card = evaluate("binary")
    found = card["stability"]
    assert (found["planned"], found["done"]) == (2, 2)
    assert found["rows"] == pytest.approx(300, abs=2)
    assert found["loss"]["low"] < found["loss"]["mean"] < found["loss"]["high"]
    assert 0 < found["flipped"] < 0.5
    _, _, late = evaluate("binary", card=dataclasses.replace(DECLARED, seeds=20, seed_seconds=1e-9))
    assert (late["stability"]["planned"], late["stability"]["done"], late["stability"]["loss"]) == (20, 1, None)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_a_decision_rule_decides_on_the_whole_card(kind: Kind) -> None:
    names = ["</script>no", "yes"] if kind == "binary" else ["low", "mid|dle", "high"]
    costs = {names[-1]: dict.fromkeys(names[:-1], 9.0), names[0]: {names[-1]: 1.0, names[0]: -0.5}}
    test, made, card = evaluate(kind, card=Card(groups=["team"]), decision=Decision(costs=costs))
    rule = existing(test.model.decision)
    recorded = made["recorded"]
    page = model_page.render(
        test.problem, RUN, made["report"], recorded.training, recorded.manifest, recorded.lineage, {}, card
    )
    for text in (page, card_markdown(card)):
        assert text.index("Decisions") < text.index("Thresholds" if kind == "binary" else "Confidence")
    if kind == "binary":
        points = card["operating"]
        assert points["thresholds"][points["start"]] == rule.threshold
        assert points["costs"] == [[-0.5, 1.0], [9.0, 0.0]]
        decided = card["decision"]["confusion"]
        assert points["true_positives"][points["start"]] == decided[1][1]
        assert points["false_positives"][points["start"]] == decided[0][1]
        recall = decided[1][1] / sum(decided[1])
        groups = card["fairness"][0]["groups"]
        assert min(one["rates"]["recall"]["value"] for one in groups) <= recall
        assert max(one["rates"]["recall"]["value"] for one in groups) >= recall
    difference = re.search(r"Cost of the decisions, this model minus the champion: (\S+) ", card_markdown(card))
    assert difference
    assert float(difference[1]) == pytest.approx(card["champion"]["cost"]["value"], abs=1e-4)
    explained = examples(test, {"secret"}, 400)
    assert {one["label"] for one in explained if one["score"] < 0.3} >= set(names[:1]), "predicted for its cost"
    assert explained[:1] == card["examples"][:1]
    assert all(one["right"] == (one["label"] == one["prediction"]) for one in explained)


def test_a_linear_model_varies_with_its_sample() -> None:
    _, _, card = evaluate("regression", model=Linear(penalties=[1.0, 10.0]))
    assert card["stability"]["done"] == 2
    assert card["stability"]["spread"] > 0
    assert card["cost"]


@given(st.lists(st.tuples(SHARES, st.booleans()), min_size=1, max_size=40), SHARES)
def test_counts_at_each_threshold_equal_brute_force(rows: list[tuple[float, bool]], threshold: float) -> None:
    scores, labels = np.array([score for score, _ in rows], np.float32), np.array([label for _, label in rows], float)
    points = operating_points("binary", ("no", "yes"), labels, scores, threshold)
    assert points["thresholds"][points["start"]] == pytest.approx(threshold)
    for place, at in enumerate(points["thresholds"]):
        predicted = scores >= np.float32(at)
        assert points["true_positives"][place] == int((predicted & (labels > 0)).sum())
        assert points["false_positives"][place] == int((predicted & (labels == 0)).sum())


@given(st.integers(2, 20), st.integers(1, 60), st.integers(0, 10**6))
def test_a_confusion_matrix_counts_every_row_once(classes: int, rows: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    labels, output = random.integers(0, classes, rows), random.dirichlet(np.ones(classes), rows)
    points = operating_points("multiclass", [str(n) for n in range(classes)], labels, output)
    counts = np.array(points["confusion"]["counts"])
    assert counts.sum() == rows
    assert len(counts) == len(points["confusion"]["classes"]) == min(classes, 12)
    right = int((output.argmax(axis=1) == labels).sum())
    assert (points["answered"][0], points["right"][0]) == (rows, right)
    if classes <= 12:
        assert np.trace(counts) == right


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50))
def test_shares_within_tolerances_equal_brute_force(errors: list[float]) -> None:
    labels = np.zeros(len(errors))
    points = operating_points("regression", (), labels, np.array(errors))
    for tolerance, within in zip(points["tolerances"], points["within"], strict=True):
        assert within == int((np.abs(errors) <= tolerance).sum())
    assert points["within"][-1] == len(errors)


def predicted(kind: Kind, rows: int, seed: int) -> Predicted:
    random = np.random.default_rng(seed)
    score = random.random(rows).astype(np.float32)
    output = np.column_stack([score, 1 - score, score * 0]) if kind == "multiclass" else score
    labels = random.random(rows) if kind == "regression" else random.integers(0, 2, rows).astype(float)
    codes = np.empty(0) if kind == "regression" else score >= 0.5 if kind == "binary" else output.argmax(axis=1)
    return Predicted(kind, ("x", "y", "z"), labels, output, codes, np.arange(rows) % 40, True)


@given(st.sampled_from(KINDS), st.integers(60, 300), st.integers(0, 10**6))
def test_rates_of_groups_equal_brute_force(kind: Kind, rows: int, seed: int) -> None:
    them = predicted(kind, rows, seed)
    team = np.random.default_rng(seed).choice(["a", "b"], rows, p=[0.6, 0.4])
    found = fairness(them, pa.table({"team": team}), "team")
    assert sum(group["rows"] for group in found["groups"]) + found["left_out"] * 0 <= rows
    for group in found["groups"]:
        mine = team == group["value"]
        labels, rates = them.labels[mine], {name: one["value"] for name, one in group["rates"].items()}
        if kind == "binary":
            chosen = them.codes[mine]
            assert rates["recall"] == pytest.approx(chosen[labels > 0].mean())
            assert rates["false_positive_rate"] == pytest.approx(chosen[labels == 0].mean())
            assert rates["precision"] == pytest.approx(labels[chosen].mean())
            assert rates["calibration_gap"] == pytest.approx((them.output[mine] - labels).mean(), abs=1e-6)
        elif kind == "multiclass":
            assert rates["accuracy"] == pytest.approx((them.codes[mine] == labels).mean())
            assert rates["recall_z"] is None
        else:
            assert rates["mae"] == pytest.approx(np.abs(them.output[mine] - labels).mean())
        for name, gap in group["gaps"].items():
            first = found["groups"][0]["rates"][name]["value"]
            if gap["value"] is not None:
                assert gap["value"] == pytest.approx(rates[name] - first)


def test_a_planted_gap_is_named_and_equal_groups_are_not() -> None:
    equal = 0
    for seed in range(40):
        them = predicted("binary", 1200, seed)
        team = np.random.default_rng(seed + 1000).choice(["a", "b", "c"], 1200)
        equal += any(group["differs"] for group in fairness(them, pa.table({"team": team}), "team")["groups"])
    assert equal <= 12  # six rates with 95% bands of their own: at most about a quarter, were they independent
    them = predicted("binary", 3000, 0)
    missed, random = (them.labels > 0) & ~them.codes, np.random.default_rng(1).random(3000)
    team = np.where(random < np.where(missed, 0.6, 0.4), "b", "a")
    groups = fairness(them, pa.table({"team": team}), "team")["groups"]
    assert "recall" in groups[1]["differs"]
    gap = groups[1]["gaps"]["recall"]
    assert gap["low"] < gap["value"] < gap["high"] < -0.1
    perfect = fairness(them, pa.table({"team": np.where(them.codes, "a", "b")}), "team")["groups"][1]
    assert abs(perfect["gaps"]["recall"]["value"]) == 1
    assert "recall" in perfect["differs"]


@pytest.mark.parametrize("always", [0, 1])
def test_a_rate_without_exceptions_still_has_an_interval(always: int) -> None:
    them = dataclasses.replace(predicted("binary", 400, 0), codes=np.full(400, always, dtype=bool))
    found = fairness(them, pa.table({"team": np.repeat(["a", "b"], [300, 100])}), "team")
    share = found["groups"][1]["rates"]["positive_share"]
    assert share["value"] == always
    assert share["high"] - share["low"] == pytest.approx(1 - 0.025 ** (1 / 100))
    gap = found["groups"][1]["gaps"]["positive_share"]
    assert gap["low"] < gap["value"] == 0 < gap["high"]


def test_groups_of_a_text_with_many_values_are_bounded() -> None:
    them = predicted("binary", 5000, 0)
    names = pa.array([f"n{n % 4000}" if n % 2 else None for n in range(5000)])
    found = fairness(them, pa.table({"name": names}), "name")
    assert [(group["value"], group["rows"]) for group in found["groups"]] == [("missing", 2500)]
    assert found["left_out"] == 2000


def test_small_samples_are_named() -> None:
    sound = {"value": 0.5, "low": 0.4, "high": 0.6}
    assert sample_warning("regression", {"rows": 99, "metrics": {"rmse": sound}}) == "small sample"
    assert sample_warning("regression", {"rows": 100, "metrics": {"rmse": sound}}) == ""
    few = {"auc": sound, "base_rate": sound | {"value": 0.01}}
    assert sample_warning("binary", {"rows": 1000, "metrics": few}) == "small sample: 10 rows of one class"
    assert sample_warning("binary", {"rows": 5000, "metrics": few}) == ""
    undefined = {"auc": {"value": None, "low": None, "high": None}}
    assert sample_warning("multiclass", {"rows": 500, "metrics": undefined}) == "small sample: no interval"


@given(st.text(max_size=30))
def test_escaped_text_is_one_cell_of_a_table(text: str) -> None:
    escaped = escape(text)
    assert "\n" not in escaped
    assert not re.search(r"(?<!\\)(?:\\\\)*\|", escaped)
    assert re.sub(r"\\([\\`*\[\]<>|#~_])", r"\1", escaped) == re.sub(r"\s+", " ", text).strip()


def test_a_card_changes_no_model_and_its_groups_are_checked() -> None:
    plain, declared = problem("binary", card=Card()), problem("binary")
    for digest in (problem_digest, training_digest, evaluation_digest):
        assert digest(plain) == digest(declared)
    wrong = problem("binary", card=Card(groups=["teem"]))
    faults = [fault for fault in check_problem(wrong) if "card" in fault.where]
    assert [(fault.where, "did you mean team" in fault.hint) for fault in faults] == [
        ("problem.py card.groups.0", True)
    ]


def test_a_group_that_the_snapshot_lacks_is_named() -> None:
    test, made, _ = evaluate("binary")
    spec = dataclasses.replace(test.problem, card=Card(groups=["team", "added"]))
    other = dataclasses.replace(test, problem=spec)
    card = card_document(other, RUN, made["report"], made["recorded"])
    assert card["unknown_groups"] == ["added"]
    assert card["champion"] is None
    assert "added is not in this model's snapshot" in card_markdown(card)


def test_a_picture_names_a_category_whole_or_not_at_all() -> None:
    bins = [{"value": name, "mean": 0.1, "low": 0.0, "high": 0.2} for name in ("Nordkap-Hafen", "Zeppelin" * 5)]
    drawn = str(dependence_picture({"bins": bins}, "place"))
    assert "Nordkap-Hafen" in drawn
    assert "Zeppelin" not in drawn
    assert "a text of 40 characters" in drawn

"""Attribution drift: of a feature that the model uses, of one that it does not use, and of none."""

from datetime import timedelta

import numpy as np
import pytest

from tests.monitored_champion import (
    FIRST,
    LAST,
    change_from,
    critical_findings,
    decisions,
    drifted_subjects,
    run_drift_check,
    score,
    shift_column,
)
from truecourse.arrays import columns_of
from truecourse.monitoring.drift.daily_attributions import MAX_ROWS_A_DAY, DailyAttributions, Explainer
from truecourse.monitoring.drift.reference_profile import load_profile
from truecourse.problem.loader import load_problem
from truecourse.references import ModelVersion, Window
from truecourse.registry import versions as registry
from truecourse.storage.delta_tables import Tables
from truecourse.storage.object_store import open_store


def build_explainer(version: ModelVersion) -> Explainer:
    problem = load_problem("deliveries")
    explainer = Explainer.of(problem, Tables(), load_profile(problem, version))
    assert explainer is not None
    return explainer


def test_without_drift_no_attribution_drifts(champion: ModelVersion) -> None:
    score(champion, decisions(60, 14, seed=2))
    report = run_drift_check()
    contributions = report.figures["contributions"]
    assert (contributions["rows"][1], contributions["moved"]) == (report.figures["data"]["rows"][1], [])
    assert report.findings == ()
    assert "Feature attributions" in open_store().get(report.page).decode()


def test_attribution_drift_of_an_important_feature_is_a_warning(champion: ModelVersion) -> None:
    score(champion, change_from(decisions(60, 36, seed=2), LAST - timedelta(days=6), "distance", lambda v: v + 4.0))
    report = run_drift_check(at=LAST + timedelta(days=1))
    assert drifted_subjects(report, "contribution drift") == ["distance"]
    assert ("distance", "contribution drift") not in critical_findings(report)
    (finding,) = (one for one in report.findings if one.cause == "contribution drift")
    (was, now), (before, after) = finding.figures["weight"], finding.figures["push"]
    assert finding.sentence == (
        f"The attribution of distance drifted: {100 * now:.0f}% of all contributions ({100 * was:.0f}% before), "
        f"{after:+.3f} on average ({before:+.3f} before)."
    )
    assert after > before + 0.5
    assert report.sentence.endswith("; attribution drift: distance.")
    assert finding.sentence in open_store().get(report.page).decode()


def test_a_feature_that_the_model_does_not_use_drifts_and_its_contributions_do_not(champion: ModelVersion) -> None:
    score(champion, shift_column(decisions(60, 14, seed=2), "promised", 40))
    report = run_drift_check()
    assert drifted_subjects(report) == ["promised"]
    assert drifted_subjects(report, "contribution drift") == []


def test_contributions_are_the_models_own_and_of_the_champions_rows_alone(champion: ModelVersion) -> None:
    rows = decisions(60, 7, seed=2)
    score(champion, rows)
    score(champion, shift_column(decisions(60, 7, seed=3), "distance", 9.0), number=99)
    attributions = build_explainer(champion).days(FIRST + timedelta(days=60), FIRST + timedelta(days=67))
    model = registry.open_model(champion, "binary")
    features = model.vocabulary.features
    expected = model.contributions(model.vocabulary.encode(columns_of(rows, features)))[:, :-1]
    push, size = attributions.means()
    assert attributions.rows == len(rows)
    np.testing.assert_allclose(push, expected.mean(axis=0, dtype=np.float64), atol=1e-9)
    np.testing.assert_allclose(size, np.abs(expected).mean(axis=0, dtype=np.float64), atol=1e-9)


def test_days_are_explained_once_and_again_when_their_rows_change(
    champion: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.monitoring.check_drift import update_daily_histograms

    rows = decisions(60, 14, seed=2, a_day=250)
    score(champion, rows)
    update_daily_histograms.fn("deliveries")
    span = (FIRST + timedelta(days=67), FIRST + timedelta(days=74))
    place = "histograms/deliveries/"
    kept = {key: open_store().get(key) for key in open_store().list(place) if "/contributions/2" in key}
    assert len(kept) == 14  # the window's days and those before it
    attributions = build_explainer(champion).days(*span)
    assert attributions.histograms.rows().tolist() == [MAX_ROWS_A_DAY] * 7
    monkeypatch.setattr("truecourse.monitoring.drift.daily_attributions.explain", None)  # explaining again would fail
    assert build_explainer(champion).days(*span).dump() == attributions.dump()
    monkeypatch.undo()
    score(champion, shift_column(rows, "distance", 9.0))
    assert build_explainer(champion).days(*span).means()[0].sum() > attributions.means()[0].sum() + 0.5


def test_a_large_day_is_sampled_part_by_part_and_comes_out_the_same(
    champion: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    score(champion, decisions(60, 3, seed=2, a_day=330))
    explainer = build_explainer(champion)
    span = (FIRST + timedelta(days=60), FIRST + timedelta(days=62, hours=12))
    in_one_part = explainer.days(*span)
    for key in list(open_store().list("histograms/deliveries/")):
        if "/contributions/2" in key:
            open_store().delete(key)
    monkeypatch.setattr("truecourse.monitoring.predictions.observed_predictions.PART_ROWS", 7)
    assert explainer.days(*span).dump() == in_one_part.dump()


def test_the_reference_excludes_the_windows_own_rows(champion: ModelVersion) -> None:
    """The snapshot has days 1 to 60: for a window among them, only the days before it are the reference."""
    score(champion, decisions(50, 10, seed=2))
    window = Window(start=FIRST + timedelta(days=51), end=FIRST + timedelta(days=53))
    report = run_drift_check(window=window)
    known, before = (
        build_explainer(champion).reference,
        build_explainer(champion).days(FIRST, FIRST + timedelta(days=51)),
    )
    others = known.select(
        (known.histograms.days < np.datetime64("2024-02-21")) & ~np.isin(known.histograms.days, before.histograms.days)
    )
    assert report.figures["contributions"]["rows"][0] == others.rows + before.rows < known.rows


def test_daily_attributions_round_trip(champion: ModelVersion) -> None:
    score(champion, decisions(60, 3, seed=2))
    reference = build_explainer(champion).reference
    assert DailyAttributions.load(reference.dump()).dump() == reference.dump()

"""Every page with minimal and with maximal data is complete HTML without undefined values."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pytest
from markupsafe import Markup

from truecourse.catalogue.distributions import Distribution, Part
from truecourse.catalogue.page import render_page as catalogue_page
from truecourse.catalogue.records import Catalogue, Feature, Group, Kind, Use
from truecourse.catalogue.shared_tables import with_uses_of_others
from truecourse.data.deliveries import Delivery
from truecourse.data.validation_report import Counts, Example, Outcome, ValidationResult
from truecourse.data.validation_report import render_page as page_of_validation
from truecourse.errors import NotFound
from truecourse.features.computation_cost import ComputationCosts, Cost
from truecourse.html import marked, render
from truecourse.monitoring import report_store
from truecourse.monitoring.dashboard import control_page, index
from truecourse.monitoring.drift import permutation_test
from truecourse.monitoring.drift.window_drift import DriftResult
from truecourse.monitoring.findings import BROKEN, Finding, Report
from truecourse.monitoring.health import health_page as healthpage
from truecourse.monitoring.quality import quality_page as qualitypage
from truecourse.problem import Files, Float, Integer, Label, Problem, Table, Text
from truecourse.problem.schema import Severity
from truecourse.references import TableVersion
from truecourse.storage.object_store import LocalStore

NOW = datetime(2024, 5, 6, 7, 8, tzinfo=UTC)
LONG = "a <very> long & windy name, with \"quotes\" and 'more' " * 6
TEMPLATES = Path(__file__).parents[2] / "truecourse" / "templates"
PARTS = {"base.html", "operating_points.html", "over_time.html", "parts.html", "section_list.html"}
PROBLEM = Problem(
    name="p",
    kind="binary",
    tables=[Table("t", source=Files("t.csv"), columns={"x": Float(), "c": Text(), "y": Integer()})],
    label=Label(table="t", column="y"),
)
CHECKS = ("drift", "quality", "skew", "pipelines", "endpoint", "machine")


def report(check: Any, most: bool, **figures: Any) -> Report:
    if not most:
        return Report.unavailable(check, "p", NOW, "Not checked: nothing is there.")
    found = [
        Finding(check=check, subject=f"{LONG}{n}", cause="a cause", page=n % 2 == 0, sentence=LONG, figures={})
        for n in range(40)
    ]
    return Report(check=check, problem="p", at=NOW, sentence=LONG, findings=tuple(found), figures=figures)


def figure(value: float | None = 0.5) -> dict[str, float | None]:
    return {"value": value, "low": value, "high": value}


@dataclass(frozen=True)
class Store:
    """A folder of reports, as the control and health pages read them."""

    store: LocalStore

    def save(self, most: bool) -> LocalStore:
        for check in CHECKS if most else ():
            report_store.save(self.store, report(check, most, **FIGURES.get(check, {})))
        return self.store


OBJECTIVE = {
    "name": "latency", "objective": 0.99, "requests": 10, "bad": 1, "budget_left": -0.5,
    "burn": dict.fromkeys(("3 days", "6 hours", "30 minutes", "1 hour", "5 minutes"), 20.0),
}  # fmt: skip
SEEN = {
    "url": "http://127.0.0.1:1", "answers": False, "error": LONG, "objectives": [OBJECTIVE],
    "paths": {"/predict": {"requests": 1, "p50": None, "p95": 0.1, "p99": 2.0}}, "shed_share": None, "looks": 9,
    "silent": 9, "features": {LONG: {"reads": 5, "miss_share": 1.0}},
}  # fmt: skip
FLOW = {
    "flow": LONG, "schedule": "0 * * * *", "last_success": None, "seconds": None, "usual_seconds": None, "failed": 3,
    "finished": 3, "known": True, "overdue": True, "last": "crashed",
}  # fmt: skip
TABLE = {
    "table": LONG, "version": None, "newest_row": None, "newest_batch": None, "rows_in": None, "quarantined": None,
    "unreadable": None, "refused": [LONG] * 3,
}  # fmt: skip
VIEW = {
    "view": LONG, "version": None, "newest_event": None, "behind_since": None, "online_version": None,
    "online_event": None,
}  # fmt: skip
FIGURES: dict[str, dict[str, Any]] = {
    "endpoint": {
        "endpoints": {LONG: SEEN},
        "objectives": {"latency_seconds": 0.1, "window_seconds": 86400.0, "availability": 0.99},
    },
    "pipelines": {
        "flows": [FLOW] * 30,
        "tables": [TABLE] * 30,
        "features": [VIEW] * 30,
        "log": {"unshipped_bytes": 9000, "lag_seconds": 99.0, "damaged": 2, "error": LONG},
    },
    "machine": {
        "used": {"processors": 3.0, "memory": 0.99}, "limits": {"processors": 1.5, "memory": 0.9, "disk": 0.9},
        "processors": 2, "memory_bytes": 1 << 33, "disks": {LONG: {"used": 0.99, "free_bytes": 5}},
    },
    "quality": {},
}  # fmt: skip


def health(store: LocalStore, most: bool) -> str:
    return store.get(healthpage.publish(Store(store).save(most), PROBLEM)).decode()


def unchecked_health(store: LocalStore, most: bool) -> str:
    """Includes reports of checks that failed, which have no figures."""
    for check in healthpage.CHECKS:
        report_store.save(store, report(check, False))
    return store.get(healthpage.publish(store, PROBLEM)).decode()


def quality(store: LocalStore, most: bool) -> str:
    days = [
        {
            "day": f"2024-01-{n + 1:02d}",
            "decisions": 0 if n == 29 else 5,
            "labelled": 0,
            "lag": 1.0,
            "loss": 0.5,
            "estimate": 0.4,
        }
        for n in range(30)
    ]
    metrics = {
        name: {side: figure(None) for side in ("now", "reference", "difference")} for name in ("auc", "log_loss")
    }
    part = {
        "column": LONG, "value": LONG, "rows": 100, "calibration": [[5, 0.1, 0.2], [5, 0.4, 0.3]],
        "metrics": {"loss": {"now": 0.5, "before": 0.4, "difference": figure()}},
    }  # fmt: skip
    details: dict[str, Any] = {
        "version": 3, "timeline": days, "days": 30, "estimate": {"days": 3, "error": 0.1, "size": 0.1}, "rows": 9,
        "metrics": metrics, "window": ["2024-01-01", "2024-01-30"], "reference": LONG, "slices": [part] * 30,
        "calibration": [[5, 0.1, 0.2]], "open": [{"day": "2024-02-01", "decisions": 1, "estimate": None}] * 9,
    }  # fmt: skip
    return qualitypage.page(PROBLEM, report("quality", most, **(details if most else {})))


def skew(store: LocalStore, most: bool) -> str:
    mismatch = {
        "subject": LONG, "cause": "stale value", "share": 1.0, "rows": 5, "compared": 5, "features": {LONG: 5},
        "overdue_median": 9.0, "overdue_most": 999999.0, "beyond_lag": 3, "examples": [LONG],
    }  # fmt: skip
    bare = {name: mismatch[name] for name in ("subject", "cause", "share", "features", "examples")}
    details = {
        "window": {"start": NOW.isoformat(), "end": NOW.isoformat()}, "asked": 0, "audited": 0, "compared": {},
        "not_compared": {LONG: [LONG] * 50} if most else {}, "mismatches": [mismatch, bare] * 20 if most else [],
        "audit_share": 0.01, "audit_lag": 86400.0,
    }  # fmt: skip
    made = report("skew", True, **details)
    return render("skew.html", report=made if most else made.model_copy(update={"findings": ()}), problem=PROBLEM)


def drift_page_of(store: LocalStore, most: bool) -> str:
    rows, count = (200, 30) if most else (1, 1)
    names = [f"{LONG}{n}" for n in range(count)]
    random = np.random.default_rng(0)
    before, after = (
        pa.table({name: pa.array(random.normal(shift, 1, rows)) for name in names}) for shift in (0.0, 3.0)
    )
    found = permutation_test.compare(before, after, names)
    family = DriftResult(found, found if most else None, found if most else None, tuple(names) if most else ())
    details: dict[str, Any] = {
        "timed": most, "model": {"version": 1, "sha256": "ab" * 32, "snapshot": "cd" * 32}, "threshold": 0.1,
        "window": {"start": NOW.isoformat() if most else None, "end": NOW.isoformat() if most else None},
        "false_alarm_rate": 0.05, "prediction": {"against": LONG},
    }  # fmt: skip
    if most:
        opinion = {"score": 1.0, "method": LONG, "drifted": True}
        details |= {"opinions": {names[0]: opinion}, "sample": "a/b.parquet", "evidently": "a/b.html"}
    made = report("drift", True, **details)
    return render(
        "drift.html", problem=PROBLEM, report=made if most else made.model_copy(update={"findings": ()}), data=family,
        scores=family if most else None, parts=None,
    )  # fmt: skip


def full_control_page(store: LocalStore, most: bool) -> str:
    return control_page.page(
        Store(store).save(most), PROBLEM, served=most, links={LONG: "http://127.0.0.1"} if most else {}
    )


def trace(store: LocalStore, most: bool) -> str:
    record: dict[str, Any] = {"prediction": "0", "model_version": 1, "model_sha256": "ab" * 32}
    states = ("verified", "changed", "missing", "unknown")
    links = [
        {"verified": n % 4 == 0, "state": states[n % 4], "link": LONG, "id": LONG, "detail": LONG} for n in range(40)
    ]
    if most:
        record |= {
            "score": 0.5, "decision_time": NOW, "request": {LONG: None}, "features": {LONG: None, "x": 1.0},
            "event_times": {"x": NOW.isoformat()}, "values": {LONG: None},
        }  # fmt: skip
    else:
        record |= {"score": None, "decision_time": None, "request": None, "features": None, "event_times": None}
    state = "changed" if most else "unknown"
    traced = {"prediction": record, "verified": False, "state": state, "links": links if most else []}
    if most:
        values: dict[str, Any] = {"values": {LONG: None, "x": 1.0}, "file": LONG, "line": 1000, "changes": [LONG]}
        rows = [values, {**values, "file": None, "line": None, "changes": None}]
        file = {"file": LONG, "bytes": 10**9, "rows": 3, "sha256": "ab" * 32, "state": "verified"}
        table = {"rows": 3000, "version": LONG, "from": NOW, "to": NOW, "matter": 2, "first": rows, "query": LONG,
                 "files": {"count": 1, "first": [file]}}  # fmt: skip
        none = {**table, "rows": 0, "from": None, "to": None, "matter": None, "first": [], "files": {"first": []}}
        about = {"view": LONG, "feature_table": LONG, "detail": LONG}
        origins = [{**about, "tables": [table, none]}, {**about, "feature_table": None, "tables": []}]
        feature = {"feature": LONG, "value": 1.5, "from": LONG, "event_time": NOW, "rows": 3000, "changed_by": 2}
        unknown = dict.fromkeys(feature, None) | {"feature": LONG, "from": "request"}
        traced |= {"features": [feature, unknown], "origins": origins}
    return render("trace.html", traced=traced, problem="p", id=LONG)


def refused(store: LocalStore, most: bool) -> str:
    return render("refused.html", error=NotFound(LONG, where=LONG, hint=LONG) if most else NotFound("gone"))


def validation(store: LocalStore, most: bool) -> str:
    severities: tuple[Severity, ...] = ("critical", "warning", "info")
    outcomes = tuple(
        Outcome(
            column=LONG if n % 2 else "", name="n", rule=LONG, severity=severities[n % 3], quarantines=n % 2 == 0,
            checked=9, failed=n % 4, examples=(Example(row=1, value=None), Example(row=2, value=LONG)),
        )
        for n in range(40)
    )  # fmt: skip
    delivery = Delivery(
        number=0, uri=LONG, place=LONG, sha256="ab" * 32, bytes=1, rows=0, start=0, group=0, at=NOW,
    )  # fmt: skip
    bare = ValidationResult(
        problem="p", table="t", delivery=delivery, raw=TableVersion(name="raw", version=0), rows=Counts(rows_in=0),
        total=0, watermark=None, validated_at=NOW, outcomes=(),
    )  # fmt: skip
    full = bare.model_copy(update={"outcomes": outcomes, "refused": (LONG,) * 9, "watermark": NOW, "table": LONG})
    return page_of_validation("p", [bare, full] * 5 if most else [])


def problems(store: LocalStore, most: bool) -> str:
    entry = index.Entry(
        problem="p", at="2024-05-06T07:08", sentence=LONG, state="critical", champion=None, pages={LONG: "a.html"}
    )
    for number in range(30 if most else 0):
        index.add_entry(store, entry.model_copy(update={"problem": f"p{number}"}))
    return index.page(store)


def features(store: LocalStore, most: bool) -> str:
    """All kinds of groups, with every figure unknown and with every figure known."""
    part = Part(start="2024-01-01", rows=9, missing=4, quantiles=(1.0, 2.0, 3.0, 4.0, 5e9))
    parts = tuple(part.model_copy(update={"start": f"2024-{month:02d}-01"}) for month in range(1, 13))
    numbers = Distribution(form="number", total=part, period="month", periods=(*parts[:5], Part(start="2024-06-01",
                           rows=0, missing=0), *parts[6:]))  # fmt: skip
    share = part.model_copy(update={"quantiles": (), "shares": (0.5, 0.25)})
    words = Distribution(form="category", total=share, categories=(LONG, ""))
    use = Use(problem=LONG, version=3, role="champion", definition="earlier", contribution=0.5, rank=1, features=2)
    cost = Cost(version=1, at=NOW, mode="full", rows=5, cpu_seconds=0.5, seconds=1.0, bytes=5_400_000)
    known: dict[str, Any] = {
        "description": LONG, "unit": LONG, "origins": (LONG, "b"), "function": "Sum", "value": LONG, "where": LONG,
        "window": 86400.0, "described": LONG, "uses": (use,) * 20,
    }  # fmt: skip
    facts: dict[str, Any] = {
        "description": LONG, "owner": LONG, "tags": ("a", "b"), "entity": LONG, "keys": (LONG,), "ttl": 3600.0,
        "tables": (LONG,), "file": LONG, "code": LONG, "table": LONG, "rows": 9, "newest": NOW, "computed": NOW,
        "cost": ComputationCosts(last=cost, full=cost.model_copy(update={"version": 0})),
    }  # fmt: skip
    groups = []
    for number, kind in enumerate(get_args(Kind)):
        own = [Feature(name=f"{LONG}{number}", type="float", **known, distribution=numbers, private=number == 3),
               Feature(name=f"w{number}", type="text", **known, distribution=words)]  # fmt: skip
        bare = [Feature(name="x", type="float")]
        groups.append(
            Group(name=f"g{number}", kind=kind, features=tuple(own if most else bare), **facts if most else {})
        )
    one = Catalogue(problem=LONG, description=LONG, owner=LONG, at=NOW, contribution_unit="log-odds", versions=30,
                    listed=(3, 2), unread=(2,), groups=tuple(groups))  # fmt: skip
    least = Catalogue(problem="p", description="", owner="", at=NOW, contribution_unit="log-odds", groups=one.groups)
    return catalogue_page([one] * 3 if most else [least])


PAGES: dict[str, Callable[[LocalStore, bool], str]] = {
    "health.html": health, "quality.html": quality, "skew.html": skew, "drift.html": drift_page_of,
    "control.html": full_control_page, "trace.html": trace, "refused.html": refused,
    "validation.html": validation, "index.html": problems, "features.html": features,
}  # fmt: skip
ELSEWHERE = {
    "model.html": "tests/integration/test_register.py",
    "endpoint.html": "tests/integration/test_service.py",
    "replay.html": "tests/integration/test_replay.py",
    "sections.html": "tests/integration/test_diff.py",
    "explore.html": "tests/unit/test_exploration.py",
}
"""Templates that need a trained model or a server, and the tests that render them."""


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "storage")


@pytest.mark.parametrize("most", [False, True], ids=["least", "most"])
@pytest.mark.parametrize("page", [*PAGES.values(), unchecked_health])
def test_a_page_is_complete_html(page: Callable[[LocalStore, bool], str], most: bool, store: LocalStore) -> None:
    html = page(store, most)
    assert html.rstrip().endswith("</html>")
    assert LONG not in html  # as text alone, never as tags
    if most and page is not unchecked_health:
        assert str(Markup.escape("a <very> long & windy name")) in html


def test_a_feature_table_of_two_problems_is_used_by_the_versions_of_both() -> None:
    def catalogue(problem: str, table: str) -> Catalogue:
        use = Use(problem=problem, version=1, role="champion", definition="same", contribution=2.0, unit=f"{problem} s",
                  rank=1, features=1)  # fmt: skip
        features = (Feature(name="x", type="text", uses=(use,)),)
        group = Group(name="v", kind="view feature", table=table, features=features)
        request = group.model_copy(update={"name": "request", "kind": "request field", "table": "training frame 1"})
        groups = (group, request)
        return Catalogue(problem=problem, description="", owner="", at=NOW, contribution_unit="", groups=groups)

    tables = {"a": "features/area/v.1@3", "b": "features/area/v.1@4", "c": "features/c/v.1@1"}
    every = [catalogue(problem, table) for problem, table in tables.items()]
    found = with_uses_of_others(every, every)
    assert [[use.problem for use in one.groups[0].features[0].uses] for one in found] == [["a", "b"], ["b", "a"], ["c"]]
    assert [[use.problem for use in one.groups[1].features[0].uses] for one in found] == [["a"], ["b"], ["c"]]
    assert "2 b s, rank 1 of 1" in catalogue_page(found[:1])


def test_the_catalogue_calls_what_is_not_known_unknown(store: LocalStore) -> None:
    html = features(store, False)
    assert html.count("unknown") > 10
    assert "0.0%" not in html
    assert "0 rows" not in html
    assert "rows unknown" in html
    assert "not declared" in html
    assert "values are private" in features(store, True)
    assert "No feature is catalogued yet" in catalogue_page([])


def test_every_template_is_rendered_somewhere() -> None:
    assert {path.name for path in TEMPLATES.glob("*.html")} == {*PAGES, *ELSEWHERE, *PARTS}


@pytest.mark.parametrize("asked", [None, NOW])
def test_pages_show_the_wall_clock_and_the_end_of_the_data(asked: datetime | None, store: LocalStore) -> None:
    """Pages used to show times of two clocks, both as "as of"."""
    report = Report(check="drift", problem="p", at=NOW, sentence="Nothing drifted.")
    report_store.save(store, report_store.with_checked_at(report, asked))
    shown = next(one for one in control_page.document(store, PROBLEM)["checks"] if one["check"] == "drift")
    html = control_page.page(store, PROBLEM, served=False)
    if asked is None:  # the newest data is two years old
        assert abs(datetime.now(UTC) - shown["checked_at"]) < timedelta(minutes=1)
        assert "on data up to 2024-05-06 07:08 UTC" in html
        assert "data of 2024-05-06: ok" in html
    else:
        assert (shown["checked_at"], shown["data_until"]) == (NOW, None)
        assert "Checked 2024-05-06 07:08 UTC." in html
        assert "data of" not in html


def test_commands_in_sentences_are_rendered_as_code() -> None:
    assert marked("run `a <b>`, then `c`") == "run <code>a &lt;b&gt;</code>, then <code>c</code>"
    assert marked("<i>") == "&lt;i&gt;"


def test_a_failed_check_comes_first(store: LocalStore) -> None:
    Store(store).save(True)
    broken = Finding(check="quality", subject="check", cause=BROKEN, page=True, sentence="The check of quality broke.")
    report_store.save(store, Report.unavailable("quality", "p", NOW, broken.sentence, broken))
    details = control_page.document(store, PROBLEM)
    assert details["sentence"].startswith("The check of quality broke.")
    assert {one["check"]: one["state"] for one in details["checks"]}["quality"] == "critical"

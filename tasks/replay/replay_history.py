"""Run a replay from its first day to its last, in simulated time."""

import json
import secrets
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tasks.features.decision_frame import feature_versions
from tasks.replay.feed import Feed
from tasks.replay.model_lifecycle import ModelLifecycle
from tasks.replay.requests import RequestSimulator
from tasks.replay.worker_process import WorkerProcess
from truecourse.arrays import Array
from truecourse.data.arrow_types import UTC_TIME
from truecourse.data.sql import clean_versions
from truecourse.errors import Fault, FeatureError, NotFound, ReplayError
from truecourse.evaluation.plots import png
from truecourse.features import frame as frames
from truecourse.html import render, svg
from truecourse.monitoring import report_store
from truecourse.monitoring.alerts import alert_record as record
from truecourse.monitoring.alerts.alert_lifecycle import update_alerts
from truecourse.monitoring.drift.drift_check import check_drift
from truecourse.monitoring.findings import Finding, Report
from truecourse.monitoring.quality import quality_check as quality
from truecourse.monitoring.skew import skew_check as skew
from truecourse.monitoring.skew.view_history import HistoryReader, PreloadedHistories, read_history
from truecourse.problem import Problem
from truecourse.problem.definition import midnight
from truecourse.problem.loader import load_problem
from truecourse.references import Window
from truecourse.replay import outcome, timeline_plot
from truecourse.replay.faults import PlantedFault, parse_faults
from truecourse.replay.outcome import Alarm, ReplayedPredictions
from truecourse.replay.problem_copy import write_problem_copy
from truecourse.replay.source_data import SourceData, as_clean, read_source_data
from truecourse.settings import get_settings, override_settings
from truecourse.storage.delta_tables import Tables, clean_table
from truecourse.storage.object_store import open_store

DAY = timedelta(days=1)
MORNING = timedelta(hours=6)
"""Time of day (UTC) of the checks, as `monitor` is scheduled in prefect.yaml. They cover finished days, and the first
hours of the current one."""
LEAD = DAY
"""Rows are delivered this long before their event time: some facts, such as an early departure, are known earlier. What
a decision may see depends on when each fact was known."""


def check_skew_of_day(
    problem: Problem, tables: Tables, at: datetime, histories: HistoryReader = read_history
) -> Report:
    """Check skew on the day that ends at `at`; earlier days were checked before."""
    return skew.check_skew(problem, tables, at, Window(start=at - DAY, end=at), histories)


def check_drift_as_of(problem: Problem, tables: Tables, at: datetime) -> Report:
    """Check drift as of `at`; the report is unknown if there were no requests."""
    try:
        return check_drift(problem, tables, at)
    except (NotFound, FeatureError) as error:
        return Report.unavailable("drift", problem.name, at, f"Not checked: {error.what}.")


@dataclass(frozen=True)
class Plan:
    """A replay's parameters: days from `first` to `last`, faults to `inject`, `tick` days between deliveries."""

    problem: str
    first: date
    last: date
    inject: tuple[str, ...] = ()
    tick: int = 14


@dataclass(frozen=True)
class Progress:
    """Progress of a replay: `done` of `days`, the current day, and the last event's message."""

    done: int
    days: int
    day: date
    message: str


ProgressCallback = Callable[[Progress], None]


def replay_home(problem: str) -> Path:
    return get_settings().home / "replay" / problem


def play(plan: Plan, report: ProgressCallback = lambda progress: None) -> dict[str, Any]:
    """Run a replay in its own home, `<home>/replay/<problem>`, which is emptied first; returns the result document.

    The document is also written there. Raises ReplayError for an invalid plan, and what the steps raise."""
    user = load_problem(plan.problem)
    faults = parse_faults(user, list(plan.inject), plan.first, plan.last)
    place = replay_home(user.name)
    shutil.rmtree(place, ignore_errors=True)
    write_problem_copy(user, place / "problems", plan.first, faults)
    source = read_source_data(user, open_store(), faults)
    with isolated_settings(place), WorkerProcess(user.name) as worker:
        replay = Replay(load_problem(user.name), source, plan, faults, worker)
        replay.run(report)
        return _save(replay.problem, replay.document(), place)


@contextmanager
def isolated_settings(place: Path) -> Iterator[None]:
    """Use the replay's own home, storage, registry and stores inside the block, and none of the user's."""
    (database,) = list(place.glob("mlflow-*.db")) or (place / f"mlflow-{secrets.token_hex(4)}.db",)
    # a unique name: MLflow keeps opened databases open, even deleted ones
    uri = f"sqlite:///{database}"
    with override_settings(
        home=place, problems=place / "problems", storage="", mlflow_uri=uri, online_store="sqlite", log_secret="",
        durable=False,  # after a loss of power, a replay starts again
    ):  # fmt: skip
        yield


class Replay:
    def __init__(
        self, problem: Problem, source: SourceData, plan: Plan, faults: tuple[PlantedFault, ...], worker: WorkerProcess
    ) -> None:
        from feature_repo.historical_reads import HistoricReader  # Feast takes seconds to import

        self.problem, self._source, self._plan, self._faults, self._worker = problem, source, plan, faults, worker
        self._tables = Tables()
        self._feed = Feed(problem, source, self._tables, worker)
        self._reader = HistoricReader(problem)
        self._histories: HistoryReader = read_history
        self._requests = RequestSimulator(problem, self._reader, faults)
        self._models = ModelLifecycle(problem, self._tables, self._requests)
        self._decisions = _decisions(problem, source)
        self._played = ReplayedPredictions()
        self._alarms: list[Alarm] = []
        self._drift: list[tuple[str, float]] = []
        self._refused = 0
        self._checked: list[str] = []
        self._waiting: list[tuple[datetime, Finding]] = []

    def run(self, report: ProgressCallback) -> None:
        first, last = _moment(self._plan.first), _moment(self._plan.last)
        days = (last - first) // DAY + 1
        edges = self._edges(first, last + DAY)
        if not len(self._between(first, last + DAY)):
            hint = "give a range of days in which the data has decisions"
            what = f"no decision falls on {self._plan.first} to {self._plan.last}"
            raise ReplayError(self.problem.name, [Fault("--from, --to", what, hint)])
        report(Progress(0, days, self._plan.first, "training the first model"))
        with ThreadPoolExecutor(1) as pool:
            for start, end in pairwise(edges):
                self._deliver(start, end)
                if start == first:
                    self._models.begin(first)
                    self._open_features(start, end)
                coming = [start + number * DAY for number in range((end - start) // DAY)]
                self._models.train_ahead([day + DAY + MORNING for day in coming if day < last], pool)
                for day in coming:
                    message = self._day(day)
                    report(Progress((day - first) // DAY + 1, days, day.date(), message))
        self._deliver(last + DAY, last + 3 * DAY)  # labels of the last decisions

    def _edges(self, first: datetime, end: datetime) -> list[datetime]:
        """Times of deliveries: every `tick` days, and daily at the start of a fault, so that it is found on its day."""
        edges = {first, end, *(first + n * DAY for n in range(0, (end - first) // DAY, self._plan.tick))}
        for fault in self._faults:
            edges |= {fault.start + n * DAY for n in range(4)} | ({fault.end} if fault.end else set())
        return sorted(edge for edge in edges if first <= edge <= end)

    def _deliver(self, start: datetime, end: datetime) -> None:
        findings = self._feed.deliver(end + LEAD, start)
        self._waiting += [(end, finding) for finding in findings]
        if start > _moment(self._plan.first):
            self._open_features(start, end)

    def _open_features(self, start: datetime, end: datetime) -> None:
        clean = clean_versions(self.problem, self._tables)
        versions = feature_versions(self.problem, self._tables, clean)
        self._reader.open(self._tables, versions, start, end + MORNING)
        self._histories = PreloadedHistories(versions, start.replace(tzinfo=None), (end + MORNING).replace(tzinfo=None))

    def _day(self, day: datetime) -> str:
        """Serve the requests from one morning's check to the next, then check and retrain; returns a description.

        The first day starts at midnight, and the last one ends at midnight."""
        first, last = (_moment(one) for one in (self._plan.first, self._plan.last))
        start, end = (
            day + (MORNING if day > first else timedelta(0)),
            day + DAY + (MORNING if day < last else timedelta(0)),
        )
        now = day + DAY + MORNING
        closing = self._worker.submit(quality.close_cohorts, now, before=start)  # meanwhile, the day's requests
        served = self._requests.serve_day(self._between(start, end), self._models.watched)
        self._refused += served.refused
        if served.ids:
            frozen = served.outputs[self._models.frozen]
            self._played.add(served.ids, served.times, served.version, served.outputs[served.version], frozen)
        self._models.add_served(served)
        closing.result()
        alarms = self._check(now)
        return self._models.close(now, alarms) if day.date() < self._plan.last else ""

    def _between(self, start: datetime, end: datetime) -> pa.Table:
        times = self._decisions["decision_time"]
        first, last = (pa.scalar(moment, UTC_TIME) for moment in (start, end))
        return self._decisions.filter(pc.and_(pc.greater_equal(times, first), pc.less(times, last)))

    def _check(self, now: datetime) -> tuple[record.Alarm, ...]:
        """Run the checks and update the alerts; returns the open alerts.

        Quality runs in the worker process, since it takes about as long as skew and drift together."""
        quality_report = self._worker.submit(quality.check_quality, now)
        late = tuple(finding for at, finding in self._waiting if at <= now)
        self._waiting = [(at, finding) for at, finding in self._waiting if at > now]
        sentence = "; ".join(finding.sentence for finding in late) or "Every batch was accepted."
        reports = [Report(check="pipelines", problem=self.problem.name, at=now, sentence=sentence, findings=late)]
        skew_report = check_skew_of_day(self.problem, self._tables, now, self._histories)
        drift_report = check_drift_as_of(self.problem, self._tables, now)
        reports += [skew_report, quality_report.result(), drift_report]
        self._checked = [report.check for report in reports]
        for report in reports:
            report_store.save(self._tables.store, report)
            if report.check == "drift":
                self._drift.append((now.isoformat(), len(report.findings) / max(len(self.problem.features), 1)))
        changes = update_alerts(self._tables.store, self.problem, reports, now)
        raised = [event.finding for event in changes.events if event.kind in ("opened", "escalated") and event.finding]
        self._alarms += [outcome.match_alarm(now, finding, self._faults) for finding in raised if finding.page]
        return changes.open

    def document(self) -> dict[str, Any]:
        """The result of the replay as a JSON document."""
        labels = self._labels()
        months = outcome.monthly_metrics(self.problem.kind, self._played, labels)
        means = outcome.summarize_months(self.problem.kind, self.problem.metric, months, self._models.months())
        document: dict[str, Any] = {
            "problem": self.problem.name,
            "from": self._plan.first.isoformat(),
            "to": self._plan.last.isoformat(),
            "faults": [{"fault": f.text, "start": f.start.isoformat()} for f in self._faults],
            "served": len(self._played.ids),
            "refused": self._refused,
            "delivered": self._feed.rows,
            "months": months,
            "weeks": outcome.weekly_losses(self.problem.kind, self._played, labels),
            "means": means,
            "events": self._models.events,
            "alarms": [alarm.to_document() for alarm in self._alarms],
            "detections": outcome.detections(self._alarms, self._faults),
            "checks": self._checked,
            "drift": self._drift,
        }
        document["sentence"] = sentence(document)
        return document | {"digest": outcome.digest(document)}

    def _labels(self) -> Array:
        """The label of every served row; NaN if it never became known."""
        clean = clean_versions(self.problem, self._tables)
        window = Window(start=midnight(self._plan.first), end=midnight(self._plan.last) + DAY)
        truth = frames.read_spine(self.problem, self._tables, clean, window)
        places = pc.index_in(pa.array(self._played.ids, pa.string()), truth["id"].combine_chunks())
        return self._models.vocabulary.labels(truth.select(["label"]).take(places))


def _moment(day: date) -> datetime:
    return midnight(day).replace(tzinfo=UTC)


def _decisions(problem: Problem, source: SourceData) -> pa.Table:
    """Every decision of the source data, with its request fields, from the problem's own spine query."""
    settings = get_settings()
    tables = Tables(settings.model_copy(update={"storage": str(settings.home / "world")}))
    versions = {}
    for table in problem.tables:
        rows = as_clean(table, source.complete(table.name))
        versions[table.name] = tables.append(clean_table(problem.name, table.name), rows, {})
    return frames.read_spine(frames.without_labels(problem), tables, versions)


def sentence(document: dict[str, Any]) -> str:
    means, faults = document["means"], document["detections"]
    ranking = means["ranking"]
    text = (
        f"The maintained system reached a mean monthly {ranking} of {means[f'maintained_{ranking}']:.3f}, "
        f"the frozen champion {means[f'frozen_{ranking}']:.3f}"
    )
    if faults:
        quick = sum(fault["days"] is not None and fault["days"] <= 2 for fault in faults)
        text += f"; {quick} of {len(faults)} planted faults were named within two days"
    return f"{text}."


def _save(problem: Problem, document: dict[str, Any], place: Path) -> dict[str, Any]:
    """Write the document, the page and the picture into the replay's home."""
    drawn = {"timeline": timeline_plot.timeline(document), "ranking": timeline_plot.ranking(document)}
    (place / "replay.png").write_bytes(png(drawn["timeline"]))
    plots = {"timeline": svg(drawn["timeline"], "The replay over time"), "ranking": svg(drawn["ranking"], "By month")}
    (place / "replay.html").write_text(render("replay.html", it=document, problem=problem, **plots))
    document |= {"page": str(place / "replay.html")}
    (place / "replay.json").write_text(json.dumps(document, indent=1))
    return document

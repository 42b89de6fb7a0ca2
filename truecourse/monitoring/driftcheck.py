"""The drift check: have the data or the predictions moved, and did something break on the way?"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from truecourse import registry
from truecourse.errors import FeatureError, ModelError, NotFound
from truecourse.monitoring.breakage import breakage
from truecourse.monitoring.drift import Drift, default_window
from truecourse.monitoring.explaining import Explainer
from truecourse.monitoring.findings import Finding, Report
from truecourse.monitoring.freezing import freeze
from truecourse.monitoring.frozen import Frozen
from truecourse.monitoring.moved import Moved, data_moved, findings, scores_moved, windows
from truecourse.monitoring.plaindrift import LEAST_ROWS, plainly
from truecourse.monitoring.seen import Predictions
from truecourse.monitoring.sketches import DAY
from truecourse.problem import Problem
from truecourse.references import ModelVersion, Window, naive_utc
from truecourse.scoring import predictions_table
from truecourse.tables import Tables
from truecourse.wording import counted, counted_of

DATA, SCORES = "drift", "prediction drift"


@dataclass(frozen=True)
class Checked:
    """A report, and all that its page shows. `scores`: None where the champion made no predictions in the window;
    `against`: what they are compared with."""

    report: Report
    data: Moved
    scores: Moved | None
    against: str


def check_drift(problem: Problem, tables: Tables, at: datetime | None = None, window: Window | None = None) -> Report:
    """Features and scores of a window of predictions; by default the problem's `monitoring.window` before `at`.

    at: the moment that counts as now, UTC; the end of the day of the newest prediction if None. Nothing decided or
    asked for after it is read. A problem without time is checked on all its predictions. Raises ModelError if there is
    no champion, NotFound if nothing was predicted yet, FeatureError if the window is empty."""
    return checked(problem, tables, at, window).report


def checked(problem: Problem, tables: Tables, at: datetime | None = None, window: Window | None = None) -> Checked:
    version = registry.champion(problem.name)
    if version is None:
        cure = f"truecourse run lifecycle --problem {problem.name}"
        raise ModelError("there is no champion to monitor", where=f"problem {problem.name}", cure=cure)
    if not problem.has_time:
        return _plainly(problem, tables, version, at or datetime.now(UTC))
    frozen = freeze(problem, version)
    span = _span(problem, tables, frozen, naive_utc(at), window or Window())
    assert span.start is not None
    assert span.end is not None
    seen = windows(problem, tables, frozen, span.start, span.end)
    if not seen.now:
        raise _empty(problem, tables, frozen, span)
    data, made = data_moved(problem, frozen, seen), scores_moved(problem, frozen, seen)
    newest = seen.now[-1]
    # Where nobody says what time it is, the newest day may not be over.
    over = at is not None and newest.day + DAY <= span.end
    broken = breakage(problem, frozen, seen.before, newest, over)
    named = {name for one in broken for name in (one.subject, *one.figures.get("features", ()))}
    slow = [*findings(data, DATA), *(findings(made, SCORES) if made else [])]
    # What broke moves its columns too: one trouble, one page.
    slow = [
        one.model_copy(update={"page": one.page and (one.cause == SCORES or one.subject not in named)}) for one in slow
    ]
    moment = (naive_utc(at) or span.end).replace(tzinfo=UTC)
    told = [*broken, *slow]
    report = _report(problem, version, frozen.snapshot.sha256, moment, span, data, made, told, frozen.against)
    return Checked(report, data, made, frozen.against)


def _plainly(problem: Problem, tables: Tables, version: ModelVersion, at: datetime) -> Checked:
    plain = plainly(problem, tables, version, at)
    found = [*findings(plain.data, DATA), *findings(plain.scores, SCORES)]
    found = [one.model_copy(update={"page": True}) for one in found]  # with no time, no season excuses it
    report = _report(
        problem, version, plain.snapshot, at, Window(), plain.data, plain.scores, found, plain.against
    )  # fmt: skip
    said = report.sentence
    if not found and not plain.enough:
        said = f"{counted(plain.rows, 'new row')}: too few to judge drift, {LEAST_ROWS} are needed."
    elif found:
        said = f"{said.rstrip('.')}, in {counted(plain.rows, 'new row')}{' of one batch' if plain.batch else ''}."
    told = {
        "sentence": said,
        "made": bool(found) or plain.enough,
        "figures": report.figures | {"batch": plain.batch, "new_rows": plain.rows},
    }
    return Checked(report.model_copy(update=told), plain.data, plain.scores, plain.against)


def sketched(problem: Problem, tables: Tables) -> int:
    """Bring up to date the sketches of the days that a check would read now, and what explains those of the window: to
    be called when predictions arrived, so that the check itself reads no rows. Returns how many days have a sketch; 0
    without a champion, time or predictions."""
    version = registry.champion(problem.name) if problem.has_time else None
    if version is None:
        return 0
    frozen = freeze(problem, version)
    newest = Predictions(problem, tables, list(frozen.scores.bins)).newest
    if newest is None:
        return 0
    window = default_window(newest, problem.monitoring.window)
    seen, explainer = windows(problem, tables, frozen, *window), Explainer.of(problem, tables, frozen)
    if explainer is not None:
        explainer.days(*window)
    return len({one.day for one in (*seen.now, *seen.before, *seen.season)})


def _span(problem: Problem, tables: Tables, frozen: Frozen, at: datetime | None, window: Window) -> Window:
    """The window (naive UTC), which ends by `at`. Raises NotFound where nothing was predicted."""
    length, end = problem.monitoring.window, naive_utc(window.end)
    start = naive_utc(window.start)
    ends = [moment for moment in (end, at) if moment is not None]
    if ends:
        last = min(ends)
        return Window(start=start or last - length, end=last)
    newest = Predictions(problem, tables, list(frozen.scores.bins)).newest
    if newest is None:
        cure = f"truecourse run score --problem {problem.name}"
        raise NotFound("there are no predictions yet", where=predictions_table(problem.name), cure=cure)
    first, last = default_window(newest, length)
    return Window(start=start or first, end=last)


def _empty(problem: Problem, tables: Tables, frozen: Frozen, span: Window) -> NotFound | FeatureError:
    there = Predictions(problem, tables, list(frozen.scores.bins))
    where = predictions_table(problem.name)
    if there.newest is None or there.oldest is None:
        cure = f"truecourse run score --problem {problem.name}"
        return NotFound("there are no predictions yet", where=where, cure=cure)
    what = f"no predictions from {span.start:%Y-%m-%d %H:%M} to {span.end:%Y-%m-%d %H:%M} UTC"
    cure = f"there are some from {there.oldest:%Y-%m-%d %H:%M} to {there.newest:%Y-%m-%d %H:%M}"
    return FeatureError(what, where=where, cure=cure)


def _report(
    problem: Problem,
    version: ModelVersion,
    snapshot: str,
    at: datetime,
    span: Window,
    data: Moved,
    scores: Moved | None,
    found: list[Finding],
    against: str,
) -> Report:
    figures: dict[str, Any] = {
        "timed": problem.has_time,
        "model": {"version": version.version, "sha256": version.model_sha256, "snapshot": snapshot},
        "window": span.model_dump(mode="json"),
        "false_alarm_rate": problem.monitoring.false_alarm_rate,
        "threshold": problem.monitoring.psi,
        "largest": round(max(column.psi for column in data.snapshot.columns), 4),
        "data": _figures(data),
        "prediction": {**_figures(scores), "against": against} if scores else None,
    }
    found = sorted(found, key=lambda one: not one.page)
    return Report(
        check="drift",
        problem=problem.name,
        at=at,
        sentence=sentence(data.snapshot, scores.snapshot if scores else None, found),
        made=data.snapshot.decidable or bool(found),
        findings=tuple(found),
        figures=figures,
    )


def _figures(moved: Moved) -> dict[str, Any]:
    """By column what its PSI is; the shares of its bins are on the page alone."""
    trailing = {} if moved.trailing is None else {c.name: c.psi for c in moved.trailing.columns}
    columns = [
        {
            "name": c.name,
            "psi": round(c.psi, 4),
            "p_value": round(c.p_value, 4),
            "drifted": c.drifted,
            "missing": [round(share, 4) for share in c.missing],
            "trailing_psi": round(trailing[c.name], 4) if c.name in trailing else None,
        }
        for c in moved.snapshot.columns
    ]
    blocks, rows = moved.snapshot.blocks, moved.snapshot.rows
    return {"blocks": blocks, "rows": rows, "decidable": moved.snapshot.decidable, "columns": columns}


def sentence(data: Drift, scores: Drift | None, found: Iterable[Finding]) -> str:
    """What was found, in one sentence."""
    urgent = [one.sentence for one in found if one.page]
    if urgent:
        return urgent[0] if len(urgent) == 1 else f"{urgent[0].rstrip('.')}; and {len(urgent) - 1} more."
    if not data.decidable:
        return f"{data.blocks[1]} against {counted(data.blocks[0], 'day')} are too few to tell drift from chance."
    names, total = [column.name for column in data.drifted], len(data.columns)
    said = f"{counted_of(len(names), total, 'feature')} drifted: {some(names)}" if names else "No feature drifted"
    if scores is None:
        return f"{said}; the champion made no predictions."
    moved = "so did the predictions" if names else "but the predictions did"
    stayed = "the predictions did not" if names else "nor did the predictions"
    return f"{said}; {moved if scores.drifted else stayed}."


def some(names: list[str]) -> str:
    """The first three by name, and how many others there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

"""`replay`: replay past decisions through serving, monitoring and retraining, a year in minutes."""

import logging
import time
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from cli.terminal.output import Answer, Json, ProblemName, command_without_storage, stderr
from cli.terminal.progress import log_to
from truecourse.errors import Fault, ReplayError
from truecourse.problem.loader import load_problem
from truecourse.settings import prefect_environment
from truecourse.wording import counted


@command_without_storage
def replay(
    first: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="The first day to serve, UTC.")],
    last: Annotated[datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="The last day.")],
    problem: ProblemName = None,
    inject: Annotated[
        list[str] | None, typer.Option(help="A fault to inject, KIND:TARGET[:HOW]@FIRST[..LAST]; may be repeated.")
    ] = None,
    tick: Annotated[int, typer.Option(min=1, max=92, help="Days between two deliveries of data.")] = 14,
    json: Json = False,
) -> Answer:
    """Train on the rows before, replay the days through the real components, and compare with the frozen champion."""
    spec = load_problem(problem)
    if last < first:
        raise ReplayError(spec.name, [Fault("--to", "is before --from", "name the first day, then the last")])
    prefect_environment()
    from tasks.replay.replay_history import Plan, play

    plan = Plan(spec.name, first.date(), last.date(), tuple(inject or ()), tick)
    started = time.monotonic()
    with log_to(logging.NullHandler()), ReplayProgress() as report:
        document = play(plan, report)
    document |= {"seconds": round(time.monotonic() - started, 1)}
    return Answer(document, _view(document))


class ReplayProgress:
    """Progress of a replay: a bar on a terminal, one line a month elsewhere."""

    def __enter__(self) -> Any:
        self._console, self._month = stderr(), ""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("days"))
        self._bar = Progress(
            *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self._console,
            disable=not self._console.is_terminal,
        )  # fmt: skip
        self._bar.start()
        self._task = self._bar.add_task("training the first model", total=None)
        return self._report

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def _report(self, now: Any) -> None:
        self._bar.update(self._task, total=now.days, completed=now.done, description=str(now.day))
        if now.message and now.done:
            self._bar.console.print(f"{now.day}  {now.message}")
        elif not self._console.is_terminal and f"{now.day:%Y-%m}" != self._month:
            self._month = f"{now.day:%Y-%m}"
            self._console.print(f"{now.day}  day {now.done} of {now.days}")


def _detection(days: float | None) -> str:
    return "not detected" if days is None else f"detected after {days:g} {'day' if days == 1 else 'days'}"


def _view(document: dict[str, Any]) -> RenderableType:
    means = document["means"]
    ranking, metric = means["ranking"], means["metric"]
    table = Table("month", "rows", "versions", box=None, padding=(0, 2))
    for name in (f"{ranking} frozen", "maintained", f"{metric} frozen", "maintained"):
        table.add_column(name, justify="right")
    for month in document["months"]:
        figures = [f"{month[s][f]['value']:.4f}" for f in (ranking, metric) for s in ("frozen", "maintained")]
        table.add_row(month["month"], f"{month['rows']:,}", ", ".join(map(str, month["versions"])), *figures)
    found = [f"{item['fault']}: {_detection(item['days'])}" for item in document["detections"]]
    unplanted = sum(alarm["fault"] is None for alarm in document["alarms"])
    alerts = f"{counted(len(document['alarms']), 'critical alert')}, {unplanted} of them without an injected fault"
    return Group(
        Text(document["sentence"], style="bold"), Text(), table, Text(), *map(Text, found), Text(alerts),
        Text(f"digest {document['digest'][:16]}, {document['seconds']} s"), Text(document["page"]),
    )  # fmt: skip

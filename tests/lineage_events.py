"""Run the steps of flows with their lineage events, without a server of flows."""

import io
import json
import os
import uuid
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.data.ingest import ingest_sources
from tasks.data.validate import validate_new
from truecourse.data.validation_report import in_order_of_reference
from truecourse.features.feature_tables import compute_view
from truecourse.openlineage import delivery, flow_events
from truecourse.openlineage.steps import FlowRun
from truecourse.problem.loader import load_problem
from truecourse.storage.delta_tables import Tables

_RUN = "PREFECT__FLOW_RUN_ID"
"""The variable by which a worker tells a process of its flow run."""


@contextmanager
def flow_run(flow: str, problem: str, **parameters: Any) -> Iterator[FlowRun]:
    """A run of a flow of which the block does the work."""
    run = FlowRun(str(uuid.uuid4()), flow, {"problem": problem, **parameters}, datetime.now(UTC))
    os.environ[_RUN] = run.id
    try:
        yield run
    finally:
        del os.environ[_RUN]


def record(flow: str, problem: str, work: Callable[[], Any], **parameters: Any) -> Any:
    """Do the work of a flow between its events; its result."""
    with flow_run(flow, problem, **parameters) as run:
        flow_events.flow_started(run, None)
        try:
            result = work()
        except Exception as error:
            flow_events.flow_ended(run, "FAIL", error)
            raise
        flow_events.flow_ended(FlowRun(run.id, flow, run.parameters, run.started, result), "COMPLETE")
        return result


def prepare(name: str) -> None:
    """Ingest, validate and materialize a problem, with the areas whose views it uses."""
    problem, tables = load_problem(name), Tables()

    def ingest() -> None:
        for owner in problem.namespaces:
            for table in owner.tables:
                ingest_sources(owner, table, tables)

    def validate() -> None:
        for owner in problem.namespaces:
            for table in in_order_of_reference(owner):
                validate_new(owner, table, tables, datetime(2024, 3, 10))

    def materialize() -> None:
        for view in problem.views:
            compute_view(problem, tables, view.name, run=os.environ[_RUN])

    for work in (ingest, validate, materialize):
        record(work.__name__, name, work)


def read(file: Path) -> list[dict[str, Any]]:
    """The events in a file, once all are delivered."""
    assert delivery.wait_for_delivery(300)
    return [json.loads(line) for line in file.read_text().splitlines()]


def zipped(name: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
    """A zip archive of one CSV file."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(name, "\n".join(",".join(row) for row in (header, *rows)))
    return archive.getvalue()

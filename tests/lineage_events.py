"""Run the steps of flows with their lineage events, without a server of flows."""

import io
import json
import uuid
import zipfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from truecourse.data.validation_report import in_order_of_reference
from truecourse.features.feature_tables import compute_view
from truecourse.ingestion.ingest import ingest_sources
from truecourse.ingestion.validate import validate_new
from truecourse.openlineage import delivery, flow_events
from truecourse.openlineage.steps import FlowRun
from truecourse.problem.loader import load_problem
from truecourse.storage.delta_tables import Tables


def record(flow: str, problem: str, work: Callable[[FlowRun], Any]) -> Any:
    """Do the work of a run of a flow between its events; its result."""
    run = FlowRun(str(uuid.uuid4()), flow, {"problem": problem}, datetime.now(UTC))
    flow_events.flow_started(run, None)
    result = work(run)
    flow_events.flow_ended(run, "COMPLETE")
    return result


def prepare(name: str) -> None:
    """Ingest, validate and materialize a problem, with the areas whose views it uses."""
    problem, tables = load_problem(name), Tables()

    def ingest(run: FlowRun) -> None:
        for owner in problem.namespaces:
            for table in owner.tables:
                ingest_sources(owner, table, tables, run=run.id)

    def validate(run: FlowRun) -> None:
        for owner in problem.namespaces:
            for table in in_order_of_reference(owner):
                validate_new(owner, table, tables, datetime(2024, 3, 10), run=run.id)

    def materialize(run: FlowRun) -> None:
        for view in problem.views:
            compute_view(problem, tables, view.name, run=run.id)

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

"""Deliver the replay's source data through the real ingestion, validation and feature views."""

from dataclasses import replace
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq
from prefect.runtime import flow_run

from tasks.replay.worker_process import WorkerProcess
from truecourse.data.sql import labelled_tables, table_label
from truecourse.data.validation_report import in_order_of_reference
from truecourse.features.feature_tables import compute_view
from truecourse.ingestion.ingest import ingest_sources
from truecourse.ingestion.validate import validate_new
from truecourse.monitoring.findings import Finding
from truecourse.problem import Objects, Problem
from truecourse.problem.namespace import Namespace
from truecourse.problem.schema import Table
from truecourse.replay.problem_copy import batch_key
from truecourse.replay.source_data import SourceData, as_delivered
from truecourse.storage.delta_tables import Tables


class Feed:
    """Delivers batches to a replayed problem. `reached`: the end (UTC) of the last batch; None before the first.

    `rows`: number of rows delivered so far."""

    def __init__(self, problem: Problem, source: SourceData, tables: Tables, worker: WorkerProcess) -> None:
        self._problem, self._source, self._tables, self._worker = problem, source, tables, worker
        self._number = 0
        self.reached: datetime | None = None
        self.rows = 0

    def deliver(self, until: datetime, now: datetime) -> list[Finding]:
        """Deliver the rows of [reached, until), one batch per table, and update the feature tables.

        now: the time at which freshness is measured. Returns findings of refused batches."""
        for name, (owner, table) in labelled_tables(self._problem).items():
            rows = self._source.rows(name, self.reached, until)
            if len(rows):
                key = batch_key(owner, table, self._number)
                self._tables.store.put(key, parquet(as_delivered(rows)))
                ingest_sources(owner, replace(table, source=Objects(key)), self._tables, run=_run())
                self.rows += len(rows)
        self._number, self.reached = self._number + 1, until
        findings = [
            finding
            for owner in self._problem.namespaces
            for table in in_order_of_reference(owner)
            for finding in self._validate(owner, table, now)
        ]
        self._compute([view.name for view in self._problem.views])
        return findings

    def _compute(self, views: list[str]) -> None:
        """Compute two views at a time: each has its own table."""
        others = [self._worker.submit(compute_view, name) for name in views[1::2]]
        for name in views[::2]:
            compute_view(self._problem, self._tables, name)
        for other in others:
            other.result()

    def _validate(self, owner: Namespace, table: Table, now: datetime) -> list[Finding]:
        at, name = now.replace(tzinfo=None), table_label(self._problem, owner, table)
        result = validate_new(owner, table, self._tables, at, run=_run())
        if not result.faults:
            return []
        sentence = f"Validation of {name}: {'; '.join(result.faults)}."
        return [Finding(check="pipelines", subject=name, cause="validation", page=True, sentence=sentence)]


def _run() -> str:
    """The id of the replay's flow run; empty outside of one."""
    return str(flow_run.get_id() or "")


def parquet(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data

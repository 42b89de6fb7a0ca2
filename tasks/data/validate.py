"""Validate a table's new deliveries one by one: valid rows go to the clean table, invalid rows to quarantine."""

from datetime import UTC, datetime

from prefect import task
from prefect.runtime import flow_run

from tasks.artifacts import show_page
from tasks.retry import RETRY
from truecourse.data import deliveries, validation_report
from truecourse.data.sql import table_label
from truecourse.data.validation_report import TableResult
from truecourse.errors import FeatureError, ValidationFailed
from truecourse.features.clock import data_end
from truecourse.ingestion.validate import validate_new
from truecourse.monitoring.dashboard import control_page
from truecourse.problem import Problem
from truecourse.problem.loader import load_namespace
from truecourse.problem.namespace import Namespace
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Tables, clean_table, raw_table


@task(name="validate_table", task_run_name="validate {table}", **RETRY)
def validate_table(problem: str, table: str, as_of: datetime | None = None, recheck: bool = False) -> TableResult:
    """Validate the table's new deliveries, see truecourse.ingestion.validate.validate_new().

    as_of: the time at which freshness is measured (UTC if it has no zone); if None now, or the data's end so
        far with `clock="data"`.
    recheck: whether stored rows are checked by the current rules too, and quarantined."""
    spec, tables = load_namespace(problem), Tables()
    moment = as_of or _now(spec, tables)
    moment = moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
    return validate_new(spec, spec.table(table), tables, moment, recheck=recheck, run=str(flow_run.get_id() or ""))


def _now(problem: Namespace, tables: Tables) -> datetime:
    if not isinstance(problem, Problem) or problem.clock == "wall":
        return datetime.now(UTC)
    try:
        end = data_end(problem, tables)
    except FeatureError:  # the spine reads columns that are stored once the edited tables are validated
        end = _newest_time(problem, tables)
    return end or datetime(1970, 1, 1, tzinfo=UTC)  # no data yet: nothing is stale


def _newest_time(problem: Problem, tables: Tables) -> datetime | None:
    """The newest time of the rows of the clean tables (UTC)."""
    last = [deliveries.accepted_deliveries(tables, problem.name, table.name)[1] for table in problem.tables]
    times = [datetime.fromisoformat(one["watermark"]) for one in last if one is not None and one["watermark"]]
    return max(times).replace(tzinfo=UTC) if times else None


@task(name="publish_validation", **RETRY)
def publish(problem: str) -> str:
    return publish_page(problem)


def publish_page(problem: str) -> str:
    """Write the page of every table's newest result, and attach it to the flow run; returns its key."""
    tables, spec = Tables(), load_namespace(problem)
    key = validation_report.save_page(tables, spec)
    if isinstance(spec, Problem):
        control_page.require_page(tables.store, spec)
    show_page(key, "validation", problem, "Validation results")
    return key


def raw_versions(problem: Namespace) -> dict[str, TableVersion]:
    """The raw version of every table that has one; tables of areas as `area.table`."""
    tables = Tables()
    versions = {
        table_label(problem, namespace, table): tables.version(raw_table(namespace.name, table.name))
        for namespace in problem.namespaces
        for table in namespace.tables
    }
    return {name: version for name, version in versions.items() if version is not None}


def accepted_versions(problem: Namespace, refused: ValidationFailed) -> dict[str, TableVersion]:
    """The clean version of every table, after a run that refused a delivery.

    Raises `refused` if the lifecycle cannot continue: a table has no accepted delivery, or none under its current
    declaration."""
    tables, versions = Tables(), dict[str, TableVersion]()
    for namespace in problem.namespaces:
        for table in namespace.tables:
            _, last = deliveries.accepted_deliveries(tables, namespace.name, table.name)
            if last is None or last["shape"] != deliveries.shape_digest(table):
                raise refused
            version = TableVersion(name=clean_table(namespace.name, table.name), version=last["version"])
            versions[table_label(problem, namespace, table)] = version
    return versions

"""Tables, metrics, history and report pages of a problem, for `status` and `demo`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from cli.terminal.tables import table
from truecourse.catalogue.records import PAGE
from truecourse.data.validation_report import standing_refusals
from truecourse.evaluation.experiment_pages import Experiment, newest_pages, page_file
from truecourse.features.definition_digests import feature_table
from truecourse.monitoring.dashboard import control_page, index
from truecourse.problem import Problem
from truecourse.registry import versions as registry
from truecourse.settings import get_settings
from truecourse.statistics.metrics import unit_of
from truecourse.storage.delta_tables import Tables, clean_table, quarantine_table
from truecourse.storage.object_store import open_store
from truecourse.wording import with_unit

Document = dict[str, Any]
_SHOWN = 5


def table_states(problem: Problem) -> list[Document]:
    """The existing tables: name, version and number of rows."""
    tables = Tables()
    names = [
        place(owner.name, table.name)
        for owner in problem.namespaces
        for table in owner.tables
        for place in (clean_table, quarantine_table)
    ]
    names += [feature_table(problem, view.name) for view in problem.views]
    versions = [tables.version(name) for name in [*names, f"predictions/{problem.name}"]]
    return [
        {"table": found.name, "version": found.version, "rows": int(tables.dataset(found).count_rows())}
        for found in versions
        if found is not None
    ]


def refusals(problem: Problem) -> list[str]:
    """A sentence for every delivery that is refused."""
    tables = Tables()
    return [
        one.sentence()
        for owner in problem.namespaces
        for table in owner.tables
        for one in standing_refusals(tables, owner.name, table.name)
    ]


def quality(metrics: Mapping[str, Any], label_unit: str) -> RenderableType:
    """The metrics on test rows, with 95% intervals, beside the baselines."""
    models = list(metrics)
    names = list(metrics.get("model", {}))
    rows = [
        [with_unit(name, unit_of(name, label_unit)), *(_figure(metrics[model].get(name)) for model in models)]
        for name in names
    ]
    return table("on test rows (95%)", *models, rows=rows)


def _figure(metric: Any) -> str:
    if metric is None:
        return "–"
    if not isinstance(metric, Mapping):
        return f"{metric:.4f}"
    if metric["value"] is None:
        return "undefined"
    spread = f"  {metric['low']:.3f}–{metric['high']:.3f}" if metric.get("low") is not None else ""
    return f"{metric['value']:.4g}{spread}"


def history_view(entries: Sequence[Mapping[str, Any]]) -> RenderableType:
    """The last changes of the aliases, newest first."""
    rows = [
        [
            f"{e['at']:%Y-%m-%d %H:%M}",
            e["action"],
            *map(_number, (e["champion"], e["challenger"])),
            e["author"],
            e["reason"],
        ]
        for e in reversed(entries[-_SHOWN:])
    ]
    return table("when (UTC)", "action", "champion", "challenger", "by", "why", rows=rows)


def _number(version: Mapping[str, Any] | None) -> int | None:
    return version["version"] if version else None


def pages(problem: str) -> list[Path]:
    """The problem's main report pages, as files below <home>/reports."""
    store, prefix = open_store(), f"reports/{problem}/"
    wanted = {f"{prefix}{name}.html" for name in ("control", "validation", "drift", "quality", "skew", "health")}
    for entry in index.entries(store):  # the index links to pages of other problems
        wanted |= {f"reports/{entry.problem}/{file}" for file in ("control.html", *entry.pages.values())}
    wanted |= {index.INDEX, PAGE}
    champion = registry.champion(problem) or registry.challenger(problem)
    if champion is not None:
        wanted.add(f"{prefix}model-{champion.run_id}.html")
    wanted |= {f"{prefix}{one.file}" for one in newest_pages(store, problem, control_page.EXPERIMENTS)}
    files = {key: copy_page(key) for key in sorted(wanted) if store.exists(key)}
    return [path for key, path in files.items() if key.startswith(prefix) or key == PAGE]


def copy_page(key: str) -> Path:
    """Copy a page from storage to the home; the file."""
    store = open_store()
    path = get_settings().home / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(store.get(key))
    return path


def write_page(problem: str, kind: str, name: str, html: str) -> Path:
    """Write a page of an answer below <home>/reports/<problem>/<kind>/; the file. `name`: any text."""
    path = get_settings().home / "reports" / problem / page_file(kind, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8")
    return path


def publish_page(problem: Problem, kind: Experiment, name: str, html: str) -> Path:
    """Store the page of an experiment among the reports, and link it from the control page; its copy in the home."""
    store, key = open_store(), f"reports/{problem.name}/{page_file(kind, name)}"
    store.put(key, html.encode())
    copy_page(control_page.publish(store, problem))  # the page leads back to it
    return copy_page(key)

"""A summary of a model version in Markdown, for a pull request: metrics next to the champion's, gates, drift."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from truecourse.errors import ModelError
from truecourse.evaluation.gates import failed_gates, unknown_gates
from truecourse.monitoring import report_store
from truecourse.problem import Problem
from truecourse.references import ModelVersion
from truecourse.registry import aliases
from truecourse.registry import versions as registry
from truecourse.statistics.metrics import unit_of
from truecourse.storage.object_store import open_store
from truecourse.wording import counted, counted_of, with_unit

Document = dict[str, Any]
_SIGNS = {"passed": "✅", "failed": "❌", "unknown": "❔"}


def summarize(problem: Problem, number: int | None = None) -> Document:
    """Collect the figures of a version, by default the challenger: its report, the rival's, the last drift check.

    `rival`: the champion that its gates compared it with. Raises ModelError if no version is registered."""
    now = aliases.current(problem.name)
    version = registry.version(problem.name, number) if number is not None else now.challenger
    if version is None:
        hint = f"truecourse run register --problem {problem.name}"
        raise ModelError("no version is registered yet", where=f"model {problem.name}", hint=hint)
    report = _report(version)
    rival = report["champion"]
    return {
        "problem": problem.name,
        "version": version.version,
        "model_sha256": version.model_sha256,
        "champion": now.champion.version if now.champion else None,
        "rival": rival,
        "gates": report["gates"],
        "passed": all(gate["passed"] for gate in report["gates"]),
        "rows": report["rows"],
        "metrics": _columns(report, _report(registry.version(problem.name, rival)) if rival else None),
        "drift": _drift(problem),
    }


def _report(version: ModelVersion) -> Document:
    report: Document = json.loads(registry.artifact(version.run_id, "report.json"))
    return report


def _columns(report: Document, rival: Document | None) -> Document:
    """Return metrics by column: the version, its rival (as evaluated when it was registered), and the baselines."""
    metrics = report["metrics"]
    rivals = {"champion, at its registration": rival["metrics"]["model"]} if rival else {}
    return {"this version": metrics["model"], **rivals, **{n: m for n, m in metrics.items() if n != "model"}}


def _drift(problem: Problem) -> Document | None:
    report = report_store.latest(open_store(), problem.name, "drift")
    if report is None:
        return None
    alarm = any(finding.page for finding in report.findings)
    return {"alarm": alarm, "sentence": report.sentence, **{n: report.figures.get(n) for n in ("window", "model")}}


def markdown(summary: Mapping[str, Any], label_unit: str = "") -> str:
    """Render a summary as Markdown. `label_unit`: of a regression's label."""
    columns = summary["metrics"]
    metrics = [
        [with_unit(name, unit_of(name, label_unit)), *(_figure(column.get(name)) for column in columns.values())]
        for name in columns["this version"]
    ]
    gates = [[_SIGNS[g["result"]], g["gate"], g["detail"]] for g in summary["gates"]]
    parts = [
        f"## {summary['problem']}: version {summary['version']}",
        _gate_summary(summary),
        _table(["on test rows (95%)", *columns], metrics),
        _table(["", "gate", "figures"], gates) if gates else "The problem declares no gates.",
        f"Drift: {_describe_drift(summary['drift'])}",
        f"Model `{summary['model_sha256'][:12]}`; rows: "
        + ", ".join(f"{count:,} {name}" for name, count in summary["rows"].items()),
    ]
    return "\n\n".join(parts) + "\n"


def _gate_summary(summary: Mapping[str, Any]) -> str:
    gates = summary["gates"]
    champion = f"The champion is version {summary['champion']}." if summary["champion"] else "There is no champion."
    status = "It is champion." if summary["champion"] == summary["version"] else champion
    if failed_gates(gates):
        return f"**{counted_of(len(failed_gates(gates)), len(gates), 'gate')} failed.** {status}"
    if unknown_gates(gates):
        return f"**{counted_of(len(unknown_gates(gates)), len(gates), 'gate')} could not be evaluated.** {status}"
    return f"**All {counted(len(gates), 'gate')} passed.** {status}"


def _figure(metric: Mapping[str, float | None] | None) -> str:
    if metric is None or metric["value"] is None:
        return "–"
    spread = f" ({metric['low']:.3f} to {metric['high']:.3f})" if metric.get("low") is not None else ""
    return f"{metric['value']:.4g}{spread}"


def _describe_drift(drift: Mapping[str, Any] | None) -> str:
    if drift is None:
        return "not checked yet."
    sign = "⚠️ " if drift["alarm"] else ""
    of = f" (version {drift['model']['version']})" if drift["model"] else ""
    return f"{sign}{drift['sentence']}{of}"


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)

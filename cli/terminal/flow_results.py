"""One-line summaries of flow results."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from truecourse.evaluation import gates
from truecourse.evaluation.gates import describe_gate
from truecourse.problem.loader import load_namespace
from truecourse.references import Aliases, ArtifactRef, Deployment, FileScores, ModelVersion, TableVersion, TrainedRun
from truecourse.registry import runs
from truecourse.registry import versions as registry
from truecourse.wording import counted


def describe(flow: str, result: Any) -> str:
    """Summarize a flow's result in a line; empty for a flow without one. Never raises."""
    summarize = DESCRIBERS.get(flow)
    if summarize is None or result is None:
        return ""
    try:
        return summarize(result)
    except Exception:  # the result is valid; only its summary failed
        return ""


def seconds(value: float) -> str:
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{value:.1f} s"


def _rows(version: TableVersion) -> int:
    from truecourse.storage.delta_tables import Tables

    return int(Tables().dataset(version).count_rows())


def _ingest(versions: Mapping[str, TableVersion]) -> str:
    """Rows in the sources now; raw tables also keep rows of replaced deliveries."""
    from truecourse.data import deliveries
    from truecourse.storage.delta_tables import Tables

    tables, rows = Tables(), 0
    for version in versions.values():
        _, owner, _, table = version.name.split("/")
        known, _ = deliveries.read_deliveries(tables, owner, table)
        added = tables.commits(version.name)[-1][1]["combine"] == "append"
        rows += sum(d.rows for d in (known if added else deliveries.newest_contents(known)))
    return f"{counted(rows, 'row')} in {counted(len(versions), 'table')}"


def _validate(versions: Mapping[str, TableVersion]) -> str:
    from truecourse.data import validation_report
    from truecourse.storage.delta_tables import Tables

    tables, total = Tables(), dict[str, int]()
    refused = 0
    for version in versions.values():
        _, owner, _, table = version.name.split("/")
        for key, count in tables.commits(version.name)[-1][1]["rows"].items():
            total[key] = total.get(key, 0) + count
        refused += len(validation_report.standing_refusals(tables, owner, table))
    parts = [f"{counted(total['in'] - total['quarantined'], 'row')} valid", f"{total['quarantined']:,} quarantined"]
    parts += [f"{total['corrected']:,} corrected"] if total["corrected"] else []
    parts += [f"{total['removed']:,} removed"] if total["removed"] else []
    parts += [f"{counted(total['unreadable'], 'cell')} unreadable"] if total["unreadable"] else []
    parts += ["1 delivery refused" if refused == 1 else f"{refused} deliveries refused"] if refused else []
    return ", ".join(parts)


def _materialize(versions: Mapping[str, TableVersion]) -> str:
    if not versions:
        return "no views: features come from the request alone"
    names = {view: version.name.split("/")[1] for view, version in versions.items()}
    owners = {name: load_namespace(name) for name in names.values()}
    features = sum(len(owners[name].view(view).features) for view, name in names.items())
    return f"{counted(features, 'feature')} in {counted(len(versions), 'view')}"


def _train(run: TrainedRun) -> str:
    form = json.loads(runs.artifact(run.run_id, "training.json"))["form"]["form"]
    rows = f"{counted(run.snapshot.rows, 'row')} of snapshot {run.snapshot.sha256[:12]}"
    return f"{rows}, model {run.model_sha256[:12]} ({form})"


def _register(version: ModelVersion) -> str:
    results = registry.gates(version)
    passed = sum(gate["passed"] for gate in results)
    champion = version == registry.champion(version.problem)
    summary = f"version {version.version}, {'champion' if champion else 'not champion'}, "
    summary += f"{passed} of {counted(len(results), 'gate')} passed"
    return (
        summary
        if champion
        else "; ".join([summary, *map(describe_gate, gates.failed_gates(results) + gates.unknown_gates(results))])
    )


def _promote(entry: Aliases) -> str:
    assert entry.champion is not None
    return f"version {entry.champion.version} is champion: {entry.reason}"


def _package(reference: ArtifactRef) -> str:
    return f"Bento of {reference.bytes / 1e6:.1f} MB, {reference.sha256[:12]}"


def _score(written: TableVersion | FileScores) -> str:
    if isinstance(written, FileScores):
        total = written.scored + written.rejected
        if not written.rejected:
            return f"{counted(total, 'row')} scored, in {written.predictions.name}"
        rejected = f"{counted(written.rejected, 'row')} rejected: the reasons are in {written.rejected_file}"
        return f"{written.scored:,} of {counted(total, 'row')} scored, {rejected}"
    version = written
    return f"{counted(_rows(version), 'prediction')} in {version.name}"


def _ship(done: Mapping[str, int]) -> str:
    return f"{counted(done['shipped'], 'prediction')} shipped"


def _deploy(entry: Deployment) -> str:
    return f"version {entry.version.version} in {entry.environment}: {entry.detail or entry.outcome}"


def _retrain(done: Mapping[str, Any]) -> str:
    if not done["retrained"]:
        return f"skipped: {done['because']}"
    return f"version {done['version'].version}, {done['outcome']}: {done['because']}"


def _monitor(found: Mapping[str, Any]) -> str:
    return str(found["sentence"])


def _health(found: Mapping[str, Any]) -> str:
    return str(found["health"])


def _tune(found: Mapping[str, Any]) -> str:
    return f"{counted(len(found['trials']), 'trial')}, best {found['metric']} {found['loss']:.5f}"


DESCRIBERS: dict[str, Callable[[Any], str]] = {
    "ingest": _ingest, "validate": _validate, "materialize": _materialize, "train": _train,
    "register": _register, "promote": _promote, "package": _package, "score": _score, "monitor": _monitor,
    "ship": _ship, "deploy": _deploy, "retrain": _retrain, "audit": _monitor, "guard": _monitor,
    "health": _health, "tune": _tune,
}  # fmt: skip

"""Summaries of model versions: gates, and metrics on test rows."""

import json
from typing import Any

from truecourse.errors import NotFound
from truecourse.references import ModelVersion
from truecourse.registry import versions as registry

Document = dict[str, Any]


def version_summary(version: ModelVersion | None) -> Document | None:
    """Return a version with its gates and its metrics on test rows."""
    if version is None:
        return None
    gates = registry.gates(version)
    return {**version.model_dump(), "gates": gates, "metrics": evaluation(version).get("metrics", {})}


def evaluation(version: ModelVersion) -> Document:
    """Return the version's evaluation report; empty if it was never evaluated."""
    try:
        report: Document = json.loads(registry.artifact(version.run_id, "report.json"))
    except NotFound:
        return {}
    return report

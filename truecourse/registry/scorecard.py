"""A model version as people ask for it: its gates, and its figures on test rows."""

import json
from typing import Any

from truecourse.errors import NotFound
from truecourse.references import ModelVersion
from truecourse.registry import versions as registry

Document = dict[str, Any]


def version_summary(version: ModelVersion | None) -> Document | None:
    """A version with its gates and its figures on test rows."""
    if version is None:
        return None
    gates = registry.gates(version)
    return {**version.model_dump(), "gates": gates, "metrics": evaluation(version).get("metrics", {})}


def evaluation(version: ModelVersion) -> Document:
    """The version's evaluation report; empty for a version that was never evaluated."""
    try:
        report: Document = json.loads(registry.artifact(version.run_id, "report.json"))
    except NotFound:
        return {}
    return report

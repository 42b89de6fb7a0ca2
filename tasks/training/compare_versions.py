"""The difference of two model versions, for `diff`: what they were made of, and both on the same test rows."""

from typing import Any

from tasks.training.compare_models import compare_inputs, name_of, score_shared_rows
from truecourse.modeling.snapshot import snapshot_redacted_at
from truecourse.references import ModelVersion
from truecourse.registry import runs
from truecourse.registry import versions as registry
from truecourse.registry.scorecard import evaluation
from truecourse.storage.object_store import open_store


def compare_versions(problem: str, one: int, other: int) -> dict[str, Any]:
    """Compare two versions: {"kind": "model", "from", "to", "snapshots", "redacted", "recorded", "test"} and the fields
    of compare_inputs(). Differences are the second minus the first.

    `redacted`: as in diff_snapshots(). `recorded`: each version's metrics when it was evaluated. `test`: see
    compare_on_test_rows(). Raises ModelError for an unknown version."""
    before, after = registry.version(problem, one), registry.version(problem, other)
    snapshots = [runs.trained_run(problem, version.run_id).snapshot for version in (before, after)]
    redacted = [snapshot_redacted_at(open_store(), one) for one in snapshots]
    return {
        "kind": "model",
        "from": before.model_dump(),
        "to": after.model_dump(),
        **compare_inputs(before, after),
        "snapshots": [one.sha256 for one in snapshots],
        "redacted": [at.date().isoformat() if at else None for at in redacted],
        "recorded": [evaluation(version).get("metrics", {}).get("model", {}) for version in (before, after)],
        "test": compare_on_test_rows(before, after),
    }


def compare_on_test_rows(before: ModelVersion, after: ModelVersion) -> dict[str, Any]:
    """Compare both models on test rows that neither was trained on, each with its own features.

    {"reason": why they cannot be compared, or "", "rows", "days", "metrics": {name: {"from", "to", "difference" with
    its paired 95% interval}}, "slices": differences of the loss, with simultaneous intervals, "flipped"}."""
    sides = (before, after)
    shared, reasons, rows = score_shared_rows(sides, preferred=1)
    if shared is None or reasons:
        place, reason = min(reasons.items())
        return {"reason": f"{name_of(sides[place])}: {reason}" if len(reasons) == 1 else reason, "rows": rows}
    values = [shared.values(place) for place in (0, 1)]
    return {
        "reason": "",
        "rows": rows,
        "days": shared.days,
        "metrics": {
            name: {"from": values[0].get(name), "to": values[1].get(name), "difference": difference}
            for name, difference in shared.differences(1).items()
        },
        "slices": shared.slices(1),
        "flipped": shared.flipped(1),
    }

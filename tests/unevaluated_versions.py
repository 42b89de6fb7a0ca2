"""Register or promote a version without evaluating it, for tests of the later steps."""

from truecourse.references import ModelVersion
from truecourse.registry import aliases
from truecourse.registry import versions as registry
from truecourse.registry.versions import RegisteredVersion


def register_untrained(version: ModelVersion) -> None:
    """Register a version that was never trained."""
    fields = {"action": "register", "reason": "a test says so", **aliases.signature()}
    fields |= {"model_sha256": version.model_sha256, "record_sha256": "0" * 64}
    entry = RegisteredVersion(number=version.version, run_id=version.run_id, **fields)
    registry.ledger(version.problem).append(entry)


def set_champion(version: ModelVersion) -> None:
    now = aliases.current(version.problem)
    registry.move_aliases(now, version.problem, "promote", "a test says so", champion=version)

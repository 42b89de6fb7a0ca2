"""One-sentence summaries of findings."""

from collections.abc import Sequence

from truecourse.monitoring.findings import Finding
from truecourse.wording import counted


def summarize(findings: Sequence[Finding], if_none: str) -> str:
    """Summarize a report: the first finding's sentence and the number of others, or `if_none` without findings."""
    if not findings:
        return if_none
    first = min(findings, key=lambda finding: finding.sort_key)
    others = len(findings) - 1
    return first.sentence if not others else f"{first.sentence} {counted(others, 'more finding').capitalize()}."

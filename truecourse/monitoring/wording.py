"""Findings in words: one sentence for a whole report."""

from collections.abc import Sequence

from truecourse.monitoring.findings import Finding
from truecourse.wording import counted


def summarize(findings: Sequence[Finding], well: str) -> str:
    """One sentence for a report: the one finding's, or the one that leads and how many others there are, or `well`."""
    if not findings:
        return well
    first = min(findings, key=lambda finding: finding.sort_key)
    others = len(findings) - 1
    return first.sentence if not others else f"{first.sentence} {counted(others, 'other thing').capitalize()} to see."

"""Monitoring: checks of drift, quality, skew and health, the alerts they raise, and the pages that show them.

Depends on everything below it in `truecourse`, and on neither Prefect nor BentoML.
"""

__all__ = [
    "alerts",
    "canary",
    "dashboard",
    "drift",
    "findings",
    "health",
    "predictions",
    "quality",
    "report_store",
    "skew",
    "wording",
]

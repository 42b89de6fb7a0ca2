"""Monitoring: checks of drift, quality, skew and health, their alerts, and the pages that show the results.

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
]

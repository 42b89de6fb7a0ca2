"""Checks of drift, quality, skew and health, their alerts, and the control page.

Depends on `truecourse.monitoring` and the tasks that checks start.
"""

__all__ = [
    "alerts",
    "check_drift",
    "check_health",
    "check_quality",
    "check_skew",
    "clean_up",
    "publish_control_page",
    "publish_features",
    "summarize",
]

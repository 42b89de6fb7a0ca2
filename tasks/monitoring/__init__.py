"""Checks of drift, quality, skew and health, their alerts, and the control page.

Depends on `truecourse.monitoring` and the tasks that checks start.
"""

__all__ = ["alerts", "clean_up", "control_page", "drift", "health", "quality", "skew", "summarize"]

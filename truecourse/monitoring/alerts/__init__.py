"""Alerts: their lifecycle and history, delivery by webhook and mail, and the retraining that they trigger.

Depends on `monitoring.findings`.
"""

__all__ = ["alert_lifecycle", "alert_record", "channels", "delivery", "retraining_policy", "retraining_runs"]

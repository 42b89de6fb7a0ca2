"""Alerts: their lifecycle and history, delivery by webhook and mail, and the retraining that they trigger.

Depends on `monitoring.findings`.
"""

__all__ = ["channels", "delivery", "history", "lifecycle", "retraining_policy", "retraining_runs"]

"""Prometheus metrics of the endpoint, and logs without the values of requests.

Depends on `services.compat`.
"""

__all__ = ["log_redaction", "prometheus_metrics"]

"""Prometheus metrics of the endpoint, and logs without the values of requests.

Depends on no other package of `services`.
"""

__all__ = ["log_redaction", "preallocated_metrics", "prometheus_metrics"]

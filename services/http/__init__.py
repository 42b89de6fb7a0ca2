"""HTTP requests, from the connection to the reply: limits, authentication, routes, batching, overload and health.

Depends on `services.model` and `services.telemetry`; `truecourse.serving` defines the requests themselves.
"""

__all__ = ["authentication", "fast_path", "limits", "middleware", "request_guard", "rollout_gate", "routes"]

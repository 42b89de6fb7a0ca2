"""HTTP requests, from the connection to the reply: limits, authentication, routes, batching, overload and health.

Depends on `services.model` and `services.telemetry`; `truecourse.serving` defines the requests themselves.
"""

__all__ = ["authentication", "fast_path", "guard", "limits", "middleware", "rollout_gate", "routes"]

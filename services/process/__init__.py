"""Servers as processes: their start, the socket they inherit, blue-green deployment, supervision and smoke tests.

Depends on every other package of `services`.
"""

__all__ = [
    "alias_follower",
    "blue_green",
    "client_url",
    "flow_runs",
    "launch",
    "platform",
    "platform_supervisor",
    "prefect_client",
    "scrape",
    "smoke_test",
    "supervisor_client",
]

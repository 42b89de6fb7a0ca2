"""Servers as processes: their start, the socket they inherit, blue-green deployment, supervision and smoke tests.

Depends on every other package of `services`.
"""

__all__ = [
    "alias_follower",
    "blue_green",
    "client_url",
    "endpoint_process",
    "flow_runs",
    "platform_state",
    "platform_supervisor",
    "prefect_client",
    "scrape",
    "smoke_test",
    "supervisor_client",
]

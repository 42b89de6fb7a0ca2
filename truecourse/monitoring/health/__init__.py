"""The health of endpoints and pipelines: service levels, fresh data, flow runs, the machine and the registry.

Depends on `monitoring.predictions` and `monitoring.findings`.
"""

__all__ = [
    "counters",
    "endpoint_health",
    "flow_run_health",
    "freshness",
    "health_page",
    "machine",
    "pipelines",
    "registry",
    "stuck_runs",
]

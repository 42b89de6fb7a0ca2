"""The health of endpoints and pipelines: service levels, fresh data, flow runs, the machine and the registry.

Depends on `monitoring.predictions` and `monitoring.findings`.
"""

__all__ = ["counters", "endpoint", "flow_runs", "freshness", "machine", "page", "pipelines", "registry", "stuck_runs"]

"""OpenLineage: events of flow runs with their datasets and column lineage, and their delivery to a file or a server.

Depends on `registry`, `features` and `serving`.
"""

__all__ = ["delivery", "flow_events", "steps"]

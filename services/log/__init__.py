"""The prediction log on the endpoint's disk: the spool, its segments, and the process that ships them to storage.

Depends on `services.telemetry` and `truecourse.serving`.
"""

__all__ = ["recorder", "spool"]

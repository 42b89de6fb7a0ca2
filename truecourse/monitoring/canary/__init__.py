"""The canary's service level and quality beside the champion's, and the decision to go on or to roll back.

Depends on `monitoring.quality` and `monitoring.health`.
"""

__all__ = ["decision"]

"""The canary: its service level and quality compared with the champion's, and the decision to go on or roll back.

Depends on `monitoring.quality` and `monitoring.health`.
"""

__all__ = ["decision"]

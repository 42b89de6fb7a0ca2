"""Replay of history in simulated time: deliveries, requests, checks and retraining, day by day.

Depends on every other package of `tasks`.
"""

__all__ = ["replay_history"]

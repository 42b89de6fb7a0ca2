"""The online endpoint: a BentoML service, its HTTP layer, its model and its prediction log.

It is packaged into Bentos, so it imports neither Prefect nor our tasks.
"""

__all__ = ["http", "log", "model", "process"]

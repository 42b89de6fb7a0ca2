"""The online endpoint: a BentoML service, its HTTP layer, its model and its prediction log.

It is imported from inside a Bento, so it knows neither Prefect nor our tasks.
"""

__all__ = ["http", "log", "model", "process"]

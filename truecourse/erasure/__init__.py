"""Forgetting a subject: removed and removing its rows, its key and its values in everything that is stored.

`truecourse forget` removes a subject; ingest refuses its rows afterwards.
"""

__all__ = ["forget", "frames", "refusal", "remembered", "removal"]

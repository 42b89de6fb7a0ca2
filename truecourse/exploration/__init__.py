"""Explore data before or beside a problem: a file, a clean table, or a problem's decisions, in bounded memory.

Depends on authoring (column types, leak suspects), catalogue (distributions over time), data and statistics.
"""

__all__ = ["explore", "page", "records", "source"]

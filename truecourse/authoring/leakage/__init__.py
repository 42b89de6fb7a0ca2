"""Leak suspects: columns that predict the label so well that they were probably filled in after it was known.

Depends on `problem` only.
"""

__all__ = ["search", "suspects"]

"""Aggregations of a table's rows, exact at the moment of each decision: offline for many decisions, and as step
functions for the online store. Both come from the same sweep over the rows, so that they are equal bit for bit.
"""

__all__ = [
    "evaluation",
    "online_steps",
    "step_functions",
    "stored_rows",
]

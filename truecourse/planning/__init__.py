"""What a problem costs at a number of rows: time, memory, storage and money by stage, from measured curves.

Depends on `features`, `data`, `problem` and `storage`.
"""

__all__ = ["curves", "estimate", "workload"]

"""One module for each group of commands: its options, the call of a flow or task, and its output.

Depends on the platform and terminal packages of `cli`, and on flows and tasks.
"""

__all__ = ["run"]

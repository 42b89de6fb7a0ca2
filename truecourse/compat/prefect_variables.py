"""Variables and events by which Prefect's processes know their flow run.

What: the variable with the run's id finds the process of a run. Variables with Prefect's prefix are removed from
processes that outlive a run. The heartbeat event tells when a run on another machine was last alive.
Why: the server stores nothing of a run's process: the run of a killed process stays `Running`, and keeps its slot.
Without it: runs of killed processes would block their deployment. So no setting leaves it out.
"""

from truecourse.compat.patch import Patch

PATCH = Patch(
    module=__name__,
    checked={"prefect": ("3.8.8",)},
    changes="reads PREFECT__FLOW_RUN_ID of processes, and heartbeat events",
    reason="the server stores nothing of a run's process",
    upstream="https://github.com/PrefectHQ/prefect/issues/16746",
    without="runs of killed processes stay `Running` and block their deployment",
)
PREFIX = "PREFECT__"
"""The prefix of variables that Prefect sets for its own processes."""
RUN_ID = "PREFECT__FLOW_RUN_ID"
"""The variable with the run's id, in the process that a worker starts for it."""
HEARTBEAT = "prefect.flow-run.heartbeat"
"""The event that the process of a run sends while it lives."""

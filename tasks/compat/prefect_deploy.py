"""What `prefect deploy` computes from a flow and its triggers.

What: the schema of a flow's parameters, and the automation of a declared trigger, are made with Prefect's own functions
and sent to the server.
Why: `truecourse up` updates deployments one setting at a time, so that what people set in Prefect stays. The command
`prefect deploy` replaces all of a deployment.
Without it: every start of `truecourse up` would undo what people set. So no setting leaves it out.
"""

from collections.abc import Callable, Mapping
from typing import Any

from truecourse.compat.patch import Patch

PATCH = Patch(
    module=__name__,
    checked={"prefect": ("3.8.8",)},
    changes="calls parameter_schema() and the triggers' set_deployment_id() and as_automation()",
    reason="`prefect deploy` replaces all of a deployment, also what people set",
    upstream="https://github.com/PrefectHQ/prefect/tree/HEAD/src/prefect/cli/deploy",
    without="every start of `truecourse up` undoes what people set in Prefect",
)


def parameter_schema(flow: Callable[..., Any]) -> Any:
    """The JSON schema of a flow's parameters, for Prefect's form."""
    from prefect.utilities import callables

    return callables.parameter_schema(flow).model_dump()


def automation(trigger: Mapping[str, Any], deployment: str) -> Any:
    """The automation that runs a deployment (its id) on a trigger, declared as in prefect.yaml; as JSON."""
    from prefect.events import DeploymentTriggerTypes
    from pydantic import TypeAdapter

    made: Any = TypeAdapter(DeploymentTriggerTypes).validate_python(dict(trigger))
    made.set_deployment_id(deployment)
    return made.as_automation().model_dump(mode="json")

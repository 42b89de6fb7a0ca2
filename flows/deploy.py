"""Deploy a packaged model version to an environment."""

from prefect import flow

from tasks.hooks import hooks
from tasks.naming import run_name
from tasks.release.deploy import deploy_version, stop_deployment
from truecourse.references import Deployment


@flow(name="deploy", flow_run_name=run_name, **hooks())
def deploy(
    environment: str = "dev",
    problem: str | None = None,
    version: int | None = None,
    reason: str = "deployed",
    stop: bool = False,
) -> Deployment:
    """Deploy a version as configured in `deployments/<environment>.yaml`, and record the deployment.

    Args:
        environment: a file in `deployments/`.
        problem: a folder of `problems/`; the configuration's, or the settings' default, if empty.
        version: a number in the registry; the champion if empty.
        reason: kept in the record.
        stop: stop the deployed version instead.

    The Bento is verified by its digest. A new server gets traffic only after it answered the contract's examples. If
    anything fails, the previous version stays deployed. Raises DeploymentError for an invalid configuration.
    """
    if stop:
        return stop_deployment(environment, problem, reason)
    return deploy_version(environment, problem, version, reason)

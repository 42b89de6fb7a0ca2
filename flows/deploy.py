"""Put a packaged model version to work in an environment."""

from prefect import flow

from tasks.naming import run_name
from tasks.process import note_process
from tasks.release.deploy import deploy_version, stop_deployment
from truecourse.references import Deployment


@flow(name="deploy", flow_run_name=run_name, on_running=[note_process])
def deploy(
    environment: str = "dev",
    problem: str | None = None,
    version: int | None = None,
    reason: str = "deployed",
    stop: bool = False,
) -> Deployment:
    """Deploy a version as `deployments/<environment>.yaml` says, and keep a record of it.

    Args:
        environment: a file of `deployments/`.
        problem: a folder of `problems/`; the configuration's, or the settings' default, if empty.
        version: a number in the registry; the champion if empty.
        reason: kept in the record.
        stop: take the deployed version out of work instead.

    The Bento is verified by its digest; a server is tested with the contract's examples before it is let in, and
    whatever goes wrong, the version before it stays. Raises DeploymentError for a wrong configuration.
    """
    if stop:
        return stop_deployment(environment, problem, reason)
    return deploy_version(environment, problem, version, reason)

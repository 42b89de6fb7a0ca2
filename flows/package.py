"""Package a model version as a Bento in object storage."""

from prefect import flow

from tasks.hooks import hooks
from tasks.naming import run_name
from tasks.open_problem import open_problem
from tasks.release.package import package_model
from truecourse.references import ArtifactRef


@flow(name="package", flow_run_name=run_name, **hooks())
def package(problem: str | None = None, version: int | None = None) -> ArtifactRef:
    """Build and export the Bento of a model version, and record its SHA-256 with the version.

    Args:
        problem: a folder of `problems/`; the settings' default if empty.
        version: a number in the registry; the champion if empty.

    A version whose Bento has the same files keeps it. Raises ModelError if there is no such version, or the problem has
    changed since it was trained.
    """
    return package_model(open_problem(problem).name, version)

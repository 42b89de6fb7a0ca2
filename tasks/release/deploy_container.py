"""The target `container`: write the files for an image, a compose stack and a Kubernetes cluster."""

import shutil
from pathlib import Path

from truecourse.deployment import deployment_history as deployments
from truecourse.deployment.config import DeploymentConfig
from truecourse.deployment.manifests import render_compose, render_databases, render_kubernetes
from truecourse.references import ArtifactRef, ModelVersion
from truecourse.storage.object_store import open_store


def write_manifests(config: DeploymentConfig, version: ModelVersion, bento: ArtifactRef, folder: Path) -> str:
    """Write the files, and the Bento for the image, to `<home>/deployments/<environment>/<version>`.

    The files also go to object storage, under `manifests/<environment>/<problem>/<version>`."""
    place = deployments.environment_folder(config.environment) / str(version.version)
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place / "bento")
    for name, data in files(config, version, bento, folder).items():
        (place / name).write_bytes(data)
        open_store().put(f"manifests/{config.environment}/{version.problem}/{version.version}/{name}", data)
    return f"files are in {place}"


def files(config: DeploymentConfig, version: ModelVersion, bento: ArtifactRef, folder: Path) -> dict[str, bytes]:
    return {
        "Dockerfile": (folder / "env" / "docker" / "Dockerfile").read_bytes(),
        "compose.yaml": render_compose(config, version, bento).encode(),
        "kubernetes.yaml": render_kubernetes(config, version, bento).encode(),
        "databases.sql": render_databases().encode(),
    }

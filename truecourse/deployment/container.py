"""Settings of the endpoint's container that Compose and Kubernetes share."""

from truecourse.deployment.config import DeploymentConfig
from truecourse.deployment.config_loader import server_variables
from truecourse.references import ArtifactRef, ModelVersion

HOME = "/home/bentoml/truecourse"
USER = 1034
"""The user of the Bento's Dockerfile."""
SOURCE = "/home/bentoml/bento/src"


def image(config: DeploymentConfig, version: ModelVersion, bento: ArtifactRef) -> str:
    """Return the image's name, with a tag of version and Bento digest, so that no two Bentos share a tag."""
    return f"{config.container.image}:{version.version}-{bento.sha256[:12]}"


def variables(config: DeploymentConfig) -> dict[str, str]:
    """Return the container's environment variables, without secrets."""
    return {
        **server_variables(config),
        "TRUECOURSE_HOME": HOME,
        "NUMBA_CACHE_DIR": f"{HOME}/numba",  # the source folder is read-only
        "TRUECOURSE_PROBLEMS": f"{SOURCE}/problems",
        "BENTOML_PORT": str(config.port),
        "BENTOML_DO_NOT_TRACK": "True",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
    }

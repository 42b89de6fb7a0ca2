"""Compose file and Kubernetes manifests of an environment, rendered from the templates in deployments/templates/."""

import math
from functools import cache
from types import MappingProxyType
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

import truecourse
from truecourse.compat import bento_image
from truecourse.deployment.config import DeploymentConfig
from truecourse.deployment.config_loader import server_variables
from truecourse.references import ArtifactRef, ModelVersion
from truecourse.settings import REPOSITORY, prefect_retention

TEMPLATES = REPOSITORY / "deployments" / "templates"
"""In a checkout, and beside our packages where a wheel is installed."""
IMAGES = MappingProxyType(
    {"postgres": "postgres:18.4", "valkey": "valkey/valkey:9.1.2", "seaweedfs": "chrislusf/seaweedfs:4.48"}
)
"""The servers' images, of the versions on which the tests run."""
HOME = f"{bento_image.HOME}/truecourse"
USER = bento_image.USER
SOURCE = f"{bento_image.BENTO}/src"


class Raw(str):
    """YAML that a template writes as it is."""


def render_compose(config: DeploymentConfig, version: ModelVersion, bento: ArtifactRef) -> str:
    """Render the Compose file: the endpoint, Prefect with a worker, MLflow, Postgres, Valkey and SeaweedFS."""
    texts = {name: value for name, value in sorted(config.settings.items()) if isinstance(value, str)}
    resources = config.container.resources
    cpu = resources.cpu
    return _render(
        "compose.yaml.j2",
        config=config,
        images={"platform": f"truecourse-platform:{truecourse.__version__}", **IMAGES},
        image=image_name(config, version, bento),
        variables=container_variables(config),
        platform_variables={_variable(name): value for name, value in texts.items()},
        secrets=_secrets(config),
        retention=prefect_retention(),
        cpus=f"{float(cpu[:-1]) / 1000:g}" if cpu.endswith("m") else cpu,
        memory=resources.memory.removesuffix("i").lower(),
    )


def render_kubernetes(config: DeploymentConfig, version: ModelVersion, bento: ArtifactRef) -> str:
    """Render the endpoint's manifests: namespace, deployment, service, autoscaler and disruption budget."""
    return _render(
        "kubernetes.yaml.j2",
        config=config,
        version=version,
        bento=bento,
        image=image_name(config, version, bento),
        variables=container_variables(config),
        secrets=_secrets(config),
        user=USER,
        scheme="HTTPS" if config.authentication.tls else "HTTP",
    )


def render_databases() -> str:
    """Return the SQL file that the Compose file mounts into Postgres."""
    return (TEMPLATES / "databases.sql").read_text()


def image_name(config: DeploymentConfig, version: ModelVersion, bento: ArtifactRef) -> str:
    """Return the endpoint's image, with a tag of version and Bento digest, so that no two Bentos share a tag."""
    return f"{config.container.image}:{version.version}-{bento.sha256[:12]}"


def container_variables(config: DeploymentConfig) -> dict[str, str]:
    """Return the environment variables of the endpoint's container, without secrets."""
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


def _secrets(config: DeploymentConfig) -> dict[str, str]:
    """Return the variables that hold a secret, each with the name by which its value is found."""
    return {_variable(setting): held for setting, held in sorted(config.secrets.items())}


def _variable(setting: str) -> str:
    return f"TRUECOURSE_{setting.upper()}"


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    environment = Environment(  # noqa: S701
        loader=FileSystemLoader(TEMPLATES),
        finalize=_to_yaml,  # the escaping of YAML, instead of HTML's
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["reference"] = _reference
    return environment


def _to_yaml(value: Any) -> str:
    """Write a value of a template as a YAML scalar: a number as it is, a text in double quotes and with "$" doubled.

    Quotes keep the type of a text such as `1e3`, which YAML 1.1 and 1.2 read differently. Compose and Kubernetes read
    "$$" as "$", and "$NAME" or "$(NAME)" as a variable."""
    if isinstance(value, Raw):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        text = value.replace("$", "$$")
        written: str = yaml.safe_dump(text, default_style='"', width=math.inf, allow_unicode=True)
        return written.rstrip("\n")
    raise TypeError(f"a template writes {value!r}; expected a text or an integer")


def _reference(variable: str) -> Raw:
    """Refer to a shell variable that Compose requires. Its name consists of capitals, digits and underscores."""
    return Raw(f'"${{{variable}:?}}"')

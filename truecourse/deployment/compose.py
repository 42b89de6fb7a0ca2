"""The Docker Compose file of an environment: the endpoint and the platform's services."""

from collections.abc import Iterable
from typing import Any

from truecourse.deployment.config import DeploymentConfig
from truecourse.deployment.container import image, variables
from truecourse.references import ArtifactRef, ModelVersion
from truecourse.settings import prefect_retention

Document = dict[str, Any]
PLATFORM = "truecourse-platform"
"""The image of the flows, built from a checkout by deployments/platform.Dockerfile."""
DATABASES = "CREATE DATABASE prefect;\nCREATE DATABASE mlflow;\n"
"""Separate databases, since both have a table alembic_version."""
POSTGRES = "postgresql://truecourse:${POSTGRES_PASSWORD}@postgres:5432"
BUCKET = """
import os, time, boto3
client = boto3.client("s3", endpoint_url=os.environ["TRUECOURSE_S3_ENDPOINT"], region_name="us-east-1",
    aws_access_key_id=os.environ["TRUECOURSE_S3_ACCESS_KEY_ID"],
    aws_secret_access_key=os.environ["TRUECOURSE_S3_SECRET_ACCESS_KEY"])
try:
    client.head_bucket(Bucket="truecourse")
except client.exceptions.ClientError:
    client.create_bucket(Bucket="truecourse")
"""


def compose(config: DeploymentConfig, version: ModelVersion, bento: ArtifactRef) -> Document:
    """Build the Compose file. Secrets are references to shell variables; `docker compose` refuses to start without."""
    return {
        "name": f"truecourse-{config.environment}",
        "services": {
            "endpoint": _endpoint(config, version, bento),
            "prefect": _prefect(),
            "worker": _worker(config),
            "mlflow": _mlflow(),
            "bucket": _bucket(config),
            **_stores(),
        },
        "volumes": {"postgres": {}, "valkey": {}, "storage": {}, "worker": {}},
    }


def _endpoint(config: DeploymentConfig, version: ModelVersion, bento: ArtifactRef) -> Document:
    limits = {"cpus": _cpus(config), "memory": _memory(config)}
    return {
        "image": image(config, version, bento),
        "build": {"context": "./bento", "dockerfile": "env/docker/Dockerfile"},
        "command": ["serve", "--host", config.host, "--port", str(config.port)],
        "environment": variables(config) | secrets(config),
        "ports": [f"{config.port}:{config.port}"],
        "depends_on": {"valkey": {"condition": "service_healthy"}, "storage": {"condition": "service_started"}},
        "healthcheck": _http_check(
            f"{'https' if config.authentication.tls else 'http'}://127.0.0.1:{config.port}/readyz",
            config.timeouts.ready_seconds,
        ),
        "deploy": {"resources": {"limits": limits}},
        "stop_grace_period": f"{int(config.timeouts.drain_seconds) + 30}s",
        "restart": "unless-stopped",
        "read_only": True,
        "tmpfs": ["/tmp", "/home/bentoml/truecourse"],  # noqa: S108
    }


def secrets(config: DeploymentConfig) -> dict[str, str]:
    return {f"TRUECOURSE_{name.upper()}": f"${{{held}:?}}" for name, held in sorted(config.secrets.items())}


def _platform(config: DeploymentConfig, command: Iterable[str]) -> Document:
    texts = {name: value for name, value in config.settings.items() if isinstance(value, str)}
    environment = {f"TRUECOURSE_{name.upper()}": value for name, value in sorted(texts.items())} | secrets(config)
    return {
        "image": PLATFORM,
        "build": {"context": "${TRUECOURSE_SOURCE:?}", "dockerfile": "deployments/platform.Dockerfile"},
        "command": list(command),
        "environment": environment,
        "restart": "unless-stopped",
    }


def _worker(config: DeploymentConfig) -> Document:
    service = _platform(config, ["prefect", "worker", "start", "--pool", "truecourse", "--type", "process"])
    service["environment"] |= {"PREFECT_API_URL": "http://prefect:4200/api", "TRUECOURSE_HOME": "/data"}
    healthy = ("prefect", "mlflow", "valkey")
    return service | {
        "depends_on": {name: {"condition": "service_healthy"} for name in healthy},
        "volumes": ["worker:/data"],
    }


def _bucket(config: DeploymentConfig) -> Document:
    return _platform(config, ["python", "-c", BUCKET]) | {"restart": "on-failure", "depends_on": ["storage"]}


def _prefect() -> Document:
    return {
        "image": PLATFORM,
        "command": ["prefect", "server", "start", "--host", "0.0.0.0", "--port", "4200"],  # noqa: S104
        "environment": {
            "PREFECT_API_DATABASE_CONNECTION_URL": POSTGRES.replace("://", "+asyncpg://") + "/prefect",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_HOME": "/tmp/prefect",  # noqa: S108
            **prefect_retention(),
        },
        "ports": ["4200:4200"],
        "depends_on": {"postgres": {"condition": "service_healthy"}},
        "healthcheck": _http_check("http://127.0.0.1:4200/api/health", 120),
        "restart": "unless-stopped",
    }


def _mlflow() -> Document:
    return {
        "image": PLATFORM,
        "command": [
            "mlflow", "server", "--backend-store-uri", f"{POSTGRES}/mlflow", "--host", "0.0.0.0", "--port", "5000",  # noqa: S104
            "--allowed-hosts", "mlflow,mlflow:5000,localhost:5000,127.0.0.1:5000",
        ],
        "environment": {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"},
        "ports": ["5000:5000"],
        "depends_on": {"postgres": {"condition": "service_healthy"}},
        "healthcheck": _http_check("http://127.0.0.1:5000/health", 120),
        "restart": "unless-stopped",
    }  # fmt: skip


def _stores() -> Document:
    return {
        "postgres": {
            "image": "postgres:18",
            "environment": {"POSTGRES_USER": "truecourse", "POSTGRES_PASSWORD": "${POSTGRES_PASSWORD:?}"},
            "volumes": ["postgres:/var/lib/postgresql", "./databases.sql:/docker-entrypoint-initdb.d/databases.sql:ro"],
            "healthcheck": _healthcheck(["CMD", "pg_isready", "-U", "truecourse", "-d", "mlflow"], 60),
            "restart": "unless-stopped",
        },
        "valkey": {
            "image": "valkey/valkey:9",
            "command": ["valkey-server", "--appendonly", "yes"],
            "volumes": ["valkey:/data"],
            "healthcheck": _healthcheck(["CMD", "valkey-cli", "ping"], 30),
            "restart": "unless-stopped",
        },
        "storage": {
            "image": "chrislusf/seaweedfs:latest",
            "command": ["server", "-dir=/data", "-s3", "-s3.port=8333"],
            "environment": {
                "AWS_ACCESS_KEY_ID": "${TRUECOURSE_S3_ACCESS_KEY_ID:?}",
                "AWS_SECRET_ACCESS_KEY": "${TRUECOURSE_S3_SECRET_ACCESS_KEY:?}",
            },
            "volumes": ["storage:/data"],
            "restart": "unless-stopped",
        },
    }


def _http_check(url: str, seconds: float) -> Document:
    """Build an HTTP health check with Python's standard library. Within the container it skips the certificate."""
    code = f"import ssl, urllib.request as r; r.urlopen('{url}', timeout=5, context=ssl._create_unverified_context())"
    return _healthcheck(["CMD", "python", "-c", code], seconds)


def _healthcheck(test: list[str], seconds: float) -> Document:
    return {"test": test, "interval": "5s", "timeout": "6s", "retries": 3, "start_period": f"{int(seconds)}s"}


def _cpus(config: DeploymentConfig) -> str:
    cpu = config.container.resources.cpu
    return f"{int(cpu[:-1]) / 1000:g}" if cpu.endswith("m") else cpu


def _memory(config: DeploymentConfig) -> str:
    return config.container.resources.memory.removesuffix("i").lower()

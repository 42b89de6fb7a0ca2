"""Where we run: one typed object, read from TRUECOURSE_* variables and `.env`. No other file reads the environment."""

import os
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from truecourse.errors import SettingsError

REPOSITORY = Path(__file__).resolve().parent.parent


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="TRUECOURSE_", env_file=".env", env_nested_delimiter="__", extra="ignore", frozen=True
    )

    home: AbsolutePath = Field(Path(".truecourse"), description="the only folder that Truecourse writes to")
    problem: str = Field("flight_delays", description="the problem used when none is named")
    problems: AbsolutePath = Field(REPOSITORY / "problems", description="the folder of problem folders")

    storage: str = Field("", description="storage root: empty for <home>/storage, or s3://bucket/prefix")
    s3_endpoint: str = Field("", description="S3 endpoint URL, for servers other than AWS")
    s3_region: str = Field("us-east-1", description="S3 region")
    s3_access_key_id: SecretStr = Field(SecretStr(""), description="S3 access key; empty for the AWS default chain")
    s3_secret_access_key: SecretStr = Field(SecretStr(""), description="S3 secret key")

    connections: dict[str, SecretStr] = Field({}, description="named SQL URLs that problems' Sql sources refer to")
    online_store: SecretStr = Field(SecretStr("sqlite"), description="sqlite, or redis://[:password@]host:port[/db]")
    mlflow_uri: SecretStr = Field(SecretStr(""), description="MLflow tracking URI; empty for sqlite in <home>")
    webhook: SecretStr = Field(SecretStr(""), description="URL that receives alerts")

    host: str = Field("127.0.0.1", description="the address servers listen on")
    prefect_port: int = Field(4200, ge=1, le=65535, description="Prefect server and UI, of `truecourse up`")
    mlflow_port: int = Field(5000, ge=1, le=65535, description="MLflow UI, of `truecourse up`")
    endpoint_port: int = Field(3000, ge=1, le=65535, description="the prediction endpoint")
    threads: int = Field(
        default_factory=lambda: os.cpu_count() or 1, ge=1, description="threads for DuckDB and XGBoost"
    )
    memory_limit: str = Field("4GB", description="DuckDB's memory limit; beyond it, it spills to <home>/tmp")

    @property
    def storage_root(self) -> str:
        """`s3://bucket/prefix`, or an absolute local path."""
        return self.storage.rstrip("/") if self.storage else str(self.home / "storage")

    @property
    def mlflow_tracking_uri(self) -> str:
        return self.mlflow_uri.get_secret_value() or f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def temporary(self) -> Path:
        return self.home / "tmp"


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The process's settings. Raises SettingsError that names every wrong variable."""
    try:
        return Settings()
    except ValidationError as error:
        lines = [f"TRUECOURSE_{'__'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors()]
        raise SettingsError("\n  ".join(lines), where="settings", cure="correct or unset these variables") from None


def quiet_environment() -> None:
    """Turn off the telemetry of the libraries we stand on, for this process and its children."""
    for name, value in {
        "DO_NOT_TRACK": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "BENTOML_DO_NOT_TRACK": "True",
        "FEAST_USAGE": "False",
        "GX_ANALYTICS_ENABLED": "false",
    }.items():
        os.environ.setdefault(name, value)


def child_environment(**extra: str) -> dict[str, str]:
    """The environment for a process of ours: this one, our settings made explicit, and `extra`."""
    quiet_environment()
    settings = get_settings()
    return {**os.environ, "TRUECOURSE_HOME": str(settings.home), "TRUECOURSE_PROBLEMS": str(settings.problems), **extra}

"""Logging of third-party servers (Prefect, MLflow): repeated tracebacks are counted there too."""

import json
import shlex
from pathlib import Path
from typing import Any

from tasks.compat import prefect_logging as shipped
from truecourse.settings import get_settings

_FILTER = {"repeats": {"()": "truecourse.repeats.Repeats"}}


def prefect_logging() -> dict[str, str]:
    """The variable with Prefect's logging configuration, with our filter on console handlers."""
    config = shipped.configuration(_FILTER)
    return {} if config is None else {"PREFECT_LOGGING_CONFIG_PATH": str(_write("prefect-logging.yml", config))}


def mlflow_logging() -> tuple[list[str], dict[str, str]]:
    """Arguments and variables for `mlflow server`: one handler for all of its logs, and no access log."""
    config = {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": _FILTER,
        "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
        "handlers": {"all": {"class": "logging.StreamHandler", "formatter": "plain", "filters": ["repeats"]}},
        "root": {"level": "INFO", "handlers": ["all"]},
        "loggers": {"uvicorn.access": {"level": "WARNING"}, "alembic": {"level": "WARNING"}},
    }
    file = _write("mlflow-logging.json", config)
    return ["--uvicorn-opts", f"--log-config {shlex.quote(str(file))}"], {"MLFLOW_CONFIGURE_LOGGING": "false"}


def _write(name: str, config: dict[str, Any]) -> Path:
    file = get_settings().home / "logs" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(".new")
    aside.write_text(json.dumps(config, indent=1))  # JSON is YAML
    aside.replace(file)
    return file

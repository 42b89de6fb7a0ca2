"""Loading of deployment configurations, with all faults at once, each with file, line, field and hint."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr, ValidationError

from truecourse.addresses import is_loopback
from truecourse.deployment.config import DeploymentConfig
from truecourse.errors import DeploymentError, Fault, SettingsError
from truecourse.settings import Settings, get_settings

OWN = {"host": "host", "endpoint_port": "port", "problem": "problem", "workers": "workers"}
"""Settings that are fields of a configuration, by the field's name."""
SERVER: Mapping[str, str] = {
    "limits.requests_per_second": "rate_limit",
    "limits.burst": "rate_burst",
    "limits.queue_seconds": "max_delay",
    "timeouts.request_seconds": "request_timeout",
    "authentication.kind": "authentication",
    "authentication.tls.certificate": "tls_certificate",
    "authentication.tls.key": "tls_key",
    "cors_origins": "cors_origins",
    "log.access": "access_log",
    "log.predictions": "log",
    "metrics.enabled": "metrics",
}
"""Fields that the endpoint reads as settings, with the setting's name."""


def environment_names() -> list[str]:
    return sorted(path.stem for path in get_settings().deployments.glob("*.yaml"))


def load_deployment(name: str) -> DeploymentConfig:
    """Load `<deployments>/<name>.yaml`. Raises DeploymentError with every fault."""
    file = get_settings().deployments / f"{name}.yaml"
    try:
        text = file.read_text()
        node, values = yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)
    except OSError as error:
        hint = f"known environments: {', '.join(environment_names()) or 'none'}"
        raise DeploymentError(name, [Fault(str(file), f"cannot be read: {error.strerror}", hint)]) from None
    except yaml.YAMLError as error:
        raise DeploymentError(name, [Fault(str(file), f"is not valid YAML: {error}")]) from None
    if not isinstance(values, dict):
        raise DeploymentError(name, [Fault(str(file), "has no fields", "see deployments/schema.json")])
    try:
        config = DeploymentConfig.model_validate(values)
    except ValidationError as error:
        faults = [Fault(_place(file, node, e["loc"]), e["msg"], _hint(e)) for e in error.errors()]
        raise DeploymentError(name, faults) from None
    faults = [Fault(_place(file, node, path), what, hint) for path, what, hint in _faults(name, config)]
    if faults:
        raise DeploymentError(name, faults)
    return config


def _place(file: Path, node: Any, path: tuple[int | str, ...]) -> str:
    return f"{file}:{_line(node, path)} {'.'.join(map(str, path))}".rstrip()


def _line(node: Any, path: tuple[int | str, ...]) -> int:
    """Return the line of the field, or of its nearest existing parent."""
    line: int = node.start_mark.line + 1
    for step in path:
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == step]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            found = [(value, value) for value in node.value[step : step + 1]]
        else:
            found = []
        if not found:
            break
        line, node = found[0][0].start_mark.line + 1, found[0][1]
    return line


def _hint(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "remove it, or look for the right name in deployments/schema.json"
    return "" if error["type"] == "missing" else f"got {error['input']!r:.80}"


FaultAt = tuple[tuple[int | str, ...], str, str]


def _faults(name: str, config: DeploymentConfig) -> Iterator[FaultAt]:
    """Check rules that types do not express; yield (path, fault, hint)."""
    if config.environment != name:
        yield ("environment",), f"is {config.environment!r} in the file of {name!r}", "name it as its file"
    container = config.container
    if container.replicas_min > container.replicas_max:
        yield ("container", "replicas_min"), "is above replicas_max", f"at most {container.replicas_max}"
    reachable = config.target == "container" or (config.target == "process" and not _is_loopback(config.host))
    if reachable and config.authentication.kind == "none" and not config.settings.get("allow_anonymous"):
        hint = "authentication: {kind: keys}, or host: 127.0.0.1; settings: {allow_anonymous: true} to allow anyone"
        address = config.host if config.target == "process" else "a container"
        yield ("host",), f"{address} is reachable from other machines, and no API key is required", hint
    for setting in config.settings:
        yield from _setting_faults(setting, secret=False)
    for setting in config.secrets:
        yield from _setting_faults(setting, secret=True)
    for path, setting in SERVER.items():
        if setting not in Settings.model_fields and _explicit(config, path):
            yield tuple(path.split(".")), "is not supported by this version's endpoint", "leave it out"


def _is_loopback(host: str) -> bool:
    try:
        return is_loopback(host)
    except SettingsError:  # a host name, valid on the machine it is deployed to
        return False


def _setting_faults(setting: str, *, secret: bool) -> Iterator[FaultAt]:
    place = ("secrets" if secret else "settings", setting)
    if setting not in Settings.model_fields:
        yield place, "unknown setting", "the reference's page of settings lists them all"
    elif setting in OWN or setting in SERVER.values():
        fields = OWN | {value: path for path, value in SERVER.items()}
        yield place, "is a field of the configuration", f"write it as {fields[setting]}"
    elif secret is not (Settings.model_fields[setting].annotation is SecretStr):
        yield place, *(
            ("is not a secret", "write it under settings") if secret else
            ("is a secret", "write the name of the variable that holds it under secrets")
        )  # fmt: skip


def _explicit(config: DeploymentConfig, path: str) -> Any:
    """Return the field's value; None if it is the default."""
    value, default = _at(config, path), _at(DeploymentConfig(environment="x", target="process"), path)
    return None if value == default else value


def _at(config: DeploymentConfig, path: str) -> Any:
    value: Any = config
    for step in path.split("."):
        value = getattr(value, step, None)
    return value


def server_settings(config: DeploymentConfig) -> dict[str, Any]:
    """Return the server settings of a configuration, without secrets."""
    explicit = {setting: _explicit(config, path) for path, setting in SERVER.items()}
    own = {name: _at(config, field) for name, field in OWN.items()}
    return {name: value for name, value in (explicit | own | config.settings).items() if value is not None}


def server_variables(config: DeploymentConfig) -> dict[str, str]:
    """Return server_settings() and BentoML's own configuration as environment variables."""
    variables = {
        f"TRUECOURSE_{name.upper()}": _format(value) for name, value in sorted(server_settings(config).items())
    }
    return variables | {
        "BENTOML_CONFIG_OVERRIDES": json.dumps({"services": {"truecourse": {"workers": config.workers}}})
    }


def _format(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)

"""Reading deployment configurations: every fault at once, each with its file, line, field and hint."""

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
"""Settings that are fields of a configuration by another name."""
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
"""Fields that the endpoint reads as settings, and which."""


def environment_names() -> list[str]:
    return sorted(path.stem for path in get_settings().deployments.glob("*.yaml"))


def load_deployment(name: str) -> DeploymentConfig:
    """The configuration of `<deployments>/<name>.yaml`. Raises DeploymentError with every fault."""
    file = get_settings().deployments / f"{name}.yaml"
    try:
        text = file.read_text()
        node, values = yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)
    except OSError as error:
        hint = f"known environments: {', '.join(environment_names()) or 'none'}"
        raise DeploymentError(name, [Fault(str(file), f"cannot be read: {error.strerror}", hint)]) from None
    except yaml.YAMLError as error:
        raise DeploymentError(name, [Fault(str(file), f"is no YAML: {error}")]) from None
    if not isinstance(values, dict):
        raise DeploymentError(name, [Fault(str(file), "holds no fields", "see deployments/schema.json")])
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
    """The line of the field, or of the nearest part that is there."""
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


Found = tuple[tuple[int | str, ...], str, str]


def _faults(name: str, config: DeploymentConfig) -> Iterator[Found]:
    """What types alone do not say."""
    if config.environment != name:
        yield ("environment",), f"is {config.environment!r} in the file of {name!r}", "name it as its file"
    container = config.container
    if container.replicas_min > container.replicas_max:
        yield ("container", "replicas_min"), "is above replicas_max", f"at most {container.replicas_max}"
    reachable = config.target == "container" or (config.target == "process" and not _is_loopback(config.host))
    if reachable and config.authentication.kind == "none" and not config.settings.get("allow_anonymous"):
        hint = "authentication: {kind: keys}, or host: 127.0.0.1; settings: {allow_anonymous: true} to answer anybody"
        told = config.host if config.target == "process" else "a container"
        yield ("host",), f"{told} can be reached by others, and nobody is asked for a key", hint
    for setting in config.settings:
        yield from _setting_faults(setting, secret=False)
    for setting in config.secrets:
        yield from _setting_faults(setting, secret=True)
    for path, setting in SERVER.items():
        if setting not in Settings.model_fields and _said(config, path):
            yield tuple(path.split(".")), "is nothing that this version's endpoint can do", "leave it out"


def _is_loopback(host: str) -> bool:
    try:
        return is_loopback(host)
    except SettingsError:  # a name of the machine that it is deployed to
        return False


def _setting_faults(setting: str, *, secret: bool) -> Iterator[Found]:
    place = ("secrets" if secret else "settings", setting)
    if setting not in Settings.model_fields:
        yield place, "there is no such setting", "see docs/configuration.md"
    elif setting in OWN or setting in SERVER.values():
        fields = OWN | {value: path for path, value in SERVER.items()}
        yield place, "is a field of the configuration", f"write it as {fields[setting]}"
    elif secret is not (Settings.model_fields[setting].annotation is SecretStr):
        yield place, *(
            ("holds no secret", "write it under settings") if secret else
            ("holds a secret", "write the name of a variable that holds it under secrets")
        )  # fmt: skip


def _said(config: DeploymentConfig, path: str) -> Any:
    """The field's value, None where it is the default."""
    value, default = _at(config, path), _at(DeploymentConfig(environment="x", target="process"), path)
    return None if value == default else value


def _at(config: DeploymentConfig, path: str) -> Any:
    value: Any = config
    for step in path.split("."):
        value = getattr(value, step, None)
    return value


def server_settings(config: DeploymentConfig) -> dict[str, Any]:
    """The settings of docs/configuration.md that the configuration says, for a server; secrets are not among them."""
    said = {setting: _said(config, path) for path, setting in SERVER.items()}
    own = {name: _at(config, field) for name, field in OWN.items()}
    return {name: value for name, value in (said | own | config.settings).items() if value is not None}


def server_variables(config: DeploymentConfig) -> dict[str, str]:
    """The same, and what BentoML itself is told, as variables."""
    said = {f"TRUECOURSE_{name.upper()}": _told(value) for name, value in sorted(server_settings(config).items())}
    return said | {"BENTOML_CONFIG_OVERRIDES": json.dumps({"services": {"truecourse": {"workers": config.workers}}})}


def _told(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)

"""Deployment configurations: the bundled ones are valid, the schema is current, faults have lines."""

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.conftest import REPOSITORY
from truecourse.deployment.config import schema
from truecourse.deployment.config_loader import environment_names, load_deployment, server_variables
from truecourse.errors import DeploymentError

Configure = Callable[..., None]


def faults(text: str, folder: Path, configure: Configure) -> dict[str, str]:
    """The faults of the file `here.yaml`, by line and field."""
    (folder / "here.yaml").write_text(text)
    configure(deployments=folder)
    with pytest.raises(DeploymentError) as caught:
        load_deployment("here")
    start = f"{folder / 'here.yaml'}:"
    assert all(fault.where.startswith(start) for fault in caught.value.faults)
    return {fault.where.removeprefix(start): f"{fault.what} → {fault.hint}" for fault in caught.value.faults}


def test_the_bundled_environments_are_valid() -> None:
    assert environment_names() == ["dev", "prod", "staging"]
    configs = [load_deployment(name) for name in environment_names()]
    assert {config.target for config in configs} == {"process", "batch", "container"}
    for name in environment_names():
        jsonschema.validate(yaml.safe_load((REPOSITORY / "deployments" / f"{name}.yaml").read_text()), schema())


def test_the_schema_is_up_to_date() -> None:
    assert json.loads((REPOSITORY / "deployments" / "schema.json").read_text()) == schema()


def test_all_faults_are_reported_at_once_with_lines(tmp_path: Path, configure: Configure) -> None:
    text = "environment: here\ntarget: boat\nworkers: 0\ntimeouts:\n  redy_seconds: 3\n  drain_seconds: long\n"
    found = faults(text, tmp_path, configure)
    assert set(found) == {"2 target", "3 workers", "5 timeouts.redy_seconds", "6 timeouts.drain_seconds"}
    assert "'process', 'batch' or 'container'" in found["2 target"]
    assert "deployments/schema.json" in found["5 timeouts.redy_seconds"]


@pytest.mark.parametrize(
    ("line", "place", "message"),
    [
        ("host: 0.0.0.0", "3 host", "no API key is required"),
        ("container: {replicas_min: 5}", "3 container.replicas_min", "above replicas_max"),
        ("settings: {s3_secret_access_key: abc}", "3 settings.s3_secret_access_key", "under secrets"),
        ("secrets: {s3_region: REGION}", "3 secrets.s3_region", "is not a secret"),
        ("secrets: {webhook: https://hooks.example.com/abc}", "3 secrets.webhook", "pattern"),
        ("settings: {colour: red}", "3 settings.colour", "unknown setting"),
        ("settings: {endpoint_port: 1}", "3 settings.endpoint_port", "write it as port"),
        ('workers: "2"', "3 workers", "valid integer"),
    ],
)
def test_inconsistent_configurations_are_rejected(
    line: str, place: str, message: str, tmp_path: Path, configure: Configure
) -> None:
    found = faults(f"environment: here\ntarget: process\n{line}\n", tmp_path, configure)
    assert list(found) == [place]
    assert message in found[place]


def test_a_secrets_value_is_never_shown(tmp_path: Path, configure: Configure) -> None:
    found = faults("environment: here\ntarget: process\nsettings: {s3_secret_access_key: hush}\n", tmp_path, configure)
    assert "hush" not in str(found)


@pytest.mark.parametrize(("text", "message"), [("a: [", "not valid YAML"), ("- a\n", "no fields"), ("", "no fields")])
def test_a_file_of_another_kind_is_rejected(text: str, message: str, tmp_path: Path, configure: Configure) -> None:
    (tmp_path / "here.yaml").write_text(text)
    configure(deployments=tmp_path)
    with pytest.raises(DeploymentError, match=message):
        load_deployment("here")


def test_an_unknown_environment_lists_the_existing_ones(tmp_path: Path, configure: Configure) -> None:
    with pytest.raises(DeploymentError, match="known environments: dev, prod, staging"):
        load_deployment("moon")


def test_the_file_name_must_equal_the_environment_name(tmp_path: Path, configure: Configure) -> None:
    assert list(faults("environment: there\ntarget: process\n", tmp_path, configure)) == ["1 environment"]


def test_the_configuration_becomes_the_servers_settings(tmp_path: Path, configure: Configure) -> None:
    (tmp_path / "here.yaml").write_text(
        "environment: here\ntarget: process\nport: 3210\nworkers: 3\nmetrics: {enabled: false}\n"
        "settings: {s3_region: eu-north-1}\n"
    )
    configure(deployments=tmp_path)
    variables = server_variables(load_deployment("here"))
    assert variables["TRUECOURSE_ENDPOINT_PORT"] == "3210"
    assert variables["TRUECOURSE_S3_REGION"] == "eu-north-1"
    bento = json.loads(variables["BENTOML_CONFIG_OVERRIDES"])["services"]["truecourse"]
    assert bento["workers"] == 3
    assert variables["TRUECOURSE_METRICS"] == "false"


def test_equal_configurations_have_equal_digests(tmp_path: Path, configure: Configure) -> None:
    configure(deployments=tmp_path)
    digests = []
    for text in ("port: 3210\nworkers: 2\n", "workers: 2   # two\nport: 3210\n", "workers: 3\nport: 3210\n"):
        (tmp_path / "here.yaml").write_text("environment: here\ntarget: process\n" + text)
        digests.append(load_deployment("here").digest)
    assert digests[0] == digests[1] != digests[2]

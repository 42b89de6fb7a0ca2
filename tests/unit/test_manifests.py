"""Container files, checked against the schemas of Kubernetes 1.37 and by the parser of the compose specification.

They are not run here: that takes a container engine and a cluster.
"""

import sys
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tasks.release.deploy_container import files
from tests.conftest import REPOSITORY
from truecourse.deployment.compose import compose
from truecourse.deployment.config import DeploymentConfig
from truecourse.deployment.config_loader import load_deployment
from truecourse.deployment.kubernetes import manifests
from truecourse.references import ArtifactRef, ModelVersion

VERSION = ModelVersion(problem="wine", version=3, run_id="r", model_sha256="a" * 64)
BENTO = ArtifactRef(key="bentos/wine/3.bento", sha256="b" * 64, bytes=1)


@pytest.fixture
def config() -> DeploymentConfig:
    return load_deployment("prod")


def named(config: DeploymentConfig, kind: str) -> Any:
    (found,) = [document for document in manifests(config, VERSION, BENTO) if document["kind"] == kind]
    return found


def test_every_manifest_matches_its_schema(config: DeploymentConfig) -> None:
    documents = manifests(config, VERSION, BENTO)
    kinds = {document["kind"] for document in documents}
    assert {"Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"} <= kinds
    for document in documents:
        kubernetes_validate.validate(document, "1.37", strict=True)
    broken = named(config, "Deployment")
    broken["spec"]["replicass"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.37", strict=True)


def test_pods_are_probed_and_replaced_one_by_one(config: DeploymentConfig) -> None:
    deployment = named(config, "Deployment")["spec"]
    (container,) = deployment["template"]["spec"]["containers"]
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["startupProbe"]["failureThreshold"] * 5 >= config.timeouts.ready_seconds
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert deployment["selector"]["matchLabels"].items() <= deployment["template"]["metadata"]["labels"].items()
    assert named(config, "Service")["spec"]["selector"] == deployment["selector"]["matchLabels"]
    assert "replicas" not in deployment, "the autoscaler's, or every apply would undo it"
    scaler = named(config, "HorizontalPodAutoscaler")["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 8)
    assert scaler["scaleTargetRef"]["name"] == named(config, "Deployment")["metadata"]["name"]


def test_secrets_are_references_everywhere(config: DeploymentConfig) -> None:
    (container,) = named(config, "Deployment")["spec"]["template"]["spec"]["containers"]
    variables = {item["name"]: item for item in container["env"]}
    assert "value" not in variables["TRUECOURSE_S3_SECRET_ACCESS_KEY"]
    assert variables["TRUECOURSE_S3_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"] == {
        "name": "truecourse", "key": "TRUECOURSE_S3_SECRET_ACCESS_KEY"
    }  # fmt: skip
    services = compose(config, VERSION, BENTO)["services"]
    assert services["endpoint"]["environment"]["TRUECOURSE_ONLINE_STORE"] == "${TRUECOURSE_ONLINE_STORE:?}"


@pytest.mark.skipif(sys.platform != "linux", reason="the parser is built for Linux alone")
def test_the_compose_file_matches_the_specification(config: DeploymentConfig) -> None:
    from compose_spec import PyCompose

    text = yaml.safe_dump(compose(config, VERSION, BENTO), sort_keys=False)
    wanted = {"endpoint", "prefect", "worker", "mlflow", "postgres", "valkey", "storage", "bucket"}
    assert set(PyCompose.from_yaml(text).service_names()) == wanted
    with pytest.raises(Exception, match="imagee"):
        PyCompose.from_yaml(text.replace("image:", "imagee:", 1))


def test_the_dependencies_of_services_exist(config: DeploymentConfig) -> None:
    document = compose(config, VERSION, BENTO)
    services = document["services"]
    for service in services.values():
        waited = service.get("depends_on", {})
        assert set(waited) <= set(services)
        if isinstance(waited, dict):
            healthy = {name for name, how in waited.items() if how["condition"] == "service_healthy"}
            assert all("healthcheck" in services[name] for name in healthy)
        volumes = {volume.partition(":")[0] for volume in service.get("volumes", ()) if volume[0] != "."}
        assert volumes <= set(document["volumes"])


def test_the_named_files_exist(config: DeploymentConfig, tmp_path: Any) -> None:
    dockerfile = tmp_path / "env" / "docker" / "Dockerfile"
    dockerfile.parent.mkdir(parents=True)
    dockerfile.write_text("FROM scratch\n")
    written = files(config, VERSION, BENTO, tmp_path)
    assert written["Dockerfile"] == b"FROM scratch\n"
    services = yaml.safe_load(written["compose.yaml"])["services"]
    assert services["endpoint"]["image"] == f"{config.container.image}:3-{'b' * 12}"
    mounted = [v.split(":")[0] for s in services.values() for v in s.get("volumes", ()) if v[0] == "."]
    assert {name.removeprefix("./") for name in mounted} <= set(written)
    assert (REPOSITORY / services["worker"]["build"]["dockerfile"]).is_file()
    assert list(yaml.safe_load_all(written["kubernetes.yaml"])) == manifests(config, VERSION, BENTO)

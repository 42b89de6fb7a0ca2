"""The Kubernetes manifests of an environment: deployment, service, autoscaler, disruption budget."""

from typing import Any

from truecourse.deployment.config import DeploymentConfig
from truecourse.deployment.container import USER, image, variables
from truecourse.references import ArtifactRef, ModelVersion

Document = dict[str, Any]
NAME = "truecourse-endpoint"
WRITABLE = {"home": "/home/bentoml/truecourse", "bentoml": "/home/bentoml/bentoml", "tmp": "/tmp"}  # noqa: S108


def manifests(config: DeploymentConfig, version: ModelVersion, bento: ArtifactRef) -> list[Document]:
    """Build the manifests for `kubectl apply -f`. Secrets are references to keys of one Kubernetes secret."""
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": config.container.namespace}},
        _deployment(config, version, bento),
        _service(config),
        _autoscaler(config),
        _budget(config),
    ]


def _metadata(config: DeploymentConfig, version: ModelVersion | None = None) -> Document:
    labels = _selector(config) | ({"truecourse/version": str(version.version)} if version else {})
    return {"name": NAME, "namespace": config.container.namespace, "labels": labels}


def _selector(config: DeploymentConfig) -> dict[str, str]:
    return {"app.kubernetes.io/name": NAME, "app.kubernetes.io/instance": config.environment}


def _deployment(config: DeploymentConfig, version: ModelVersion, bento: ArtifactRef) -> Document:
    metadata = _metadata(config, version)
    metadata["annotations"] = {"truecourse/bento": bento.sha256, "truecourse/model": version.model_sha256}
    template = {
        "metadata": {"labels": metadata["labels"]},
        "spec": {
            "securityContext": {"runAsNonRoot": True, "runAsUser": USER, "fsGroup": USER},
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": int(config.timeouts.drain_seconds) + 30,
            "containers": [_container(config, version, bento)],
            "volumes": [{"name": name, "emptyDir": {}} for name in WRITABLE],
        },
    }
    # A new pod is ready before an old one is removed, so that requests are always answered.
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "selector": {"matchLabels": _selector(config)},
            "strategy": strategy,
            "progressDeadlineSeconds": int(config.timeouts.ready_seconds) + 60,
            "template": template,
        },
    }


def _container(config: DeploymentConfig, version: ModelVersion, bento: ArtifactRef) -> Document:
    needed = {"cpu": config.container.resources.cpu, "memory": config.container.resources.memory}
    return {
        "name": "endpoint",
        "image": image(config, version, bento),
        "args": ["serve", "--host", config.host, "--port", str(config.port)],
        "ports": [{"name": "http", "containerPort": config.port}],
        "env": [*({"name": name, "value": value} for name, value in variables(config).items()), *_secrets(config)],
        "startupProbe": _probe(config, "/livez")
        | {"failureThreshold": max(1, int(config.timeouts.ready_seconds) // 5)},
        "livenessProbe": _probe(config, "/livez"),
        "readinessProbe": _probe(config, "/readyz"),
        # The service still sends requests for a while after the pod is told to stop.
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(int(config.timeouts.drain_seconds))]}}},
        "resources": {"requests": needed, "limits": {"memory": needed["memory"]}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in WRITABLE.items()],
    }


def _secrets(config: DeploymentConfig) -> list[Document]:
    return [
        {
            "name": f"TRUECOURSE_{setting.upper()}",
            "valueFrom": {"secretKeyRef": {"name": config.container.secret, "key": key}},
        }
        for setting, key in sorted(config.secrets.items())
    ]


def _probe(config: DeploymentConfig, path: str) -> Document:
    scheme = {"scheme": "HTTPS"} if config.authentication.tls else {}  # Kubernetes probes do not verify certificates
    return {"httpGet": {"path": path, "port": "http", **scheme}, "periodSeconds": 5, "timeoutSeconds": 5}


def _service(config: DeploymentConfig) -> Document:
    ports = [{"name": "http", "port": 80, "targetPort": "http"}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(config),
        "spec": {"selector": _selector(config), "ports": ports},
    }


def _autoscaler(config: DeploymentConfig) -> Document:
    target = {"type": "Utilization", "averageUtilization": config.container.cpu_percent}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": _metadata(config),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": NAME},
            "minReplicas": config.container.replicas_min,
            "maxReplicas": config.container.replicas_max,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        },
    }


def _budget(config: DeploymentConfig) -> Document:
    """Allow at most one pod at a time to be evicted from a node."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(config),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": _selector(config)}},
    }

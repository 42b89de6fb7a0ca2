"""Deployment: inference and deployment configurations, Bentos, endpoints, Compose and Kubernetes files.

Depends on `registry` and `modeling`.
"""

__all__ = [
    "bento",
    "config",
    "config_loader",
    "deployment_history",
    "endpoints",
    "inference_config",
    "manifests",
]

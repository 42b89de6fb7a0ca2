"""Deployment: inference and deployment configurations, Bentos, endpoints, Compose and Kubernetes files.

Depends on `registry` and `modeling`.
"""

__all__ = ["bento", "compose", "config", "endpoints", "history", "inference_config", "kubernetes", "loader"]

"""What is deployed and where: inference and deployment configurations, Bentos, endpoints, container and cluster files.

Depends on `registry` and `modeling`.
"""

__all__ = ["bento", "compose", "config", "endpoints", "history", "inference_config", "kubernetes", "loader"]

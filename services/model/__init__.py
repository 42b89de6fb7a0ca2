"""The models of a server, the routing of requests between them, and their results.

Depends on `truecourse.modeling`, `truecourse.serving` and the online feature store.
"""

__all__ = ["model_router", "predictor", "results", "scoring_script", "traffic_split"]

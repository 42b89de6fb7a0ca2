"""The models that a server answers with, who answers which request, and the results.

Depends on `truecourse.modeling`, `truecourse.serving` and the online feature store.
"""

__all__ = ["model_router", "predictor", "results", "scoring_script", "traffic_split"]

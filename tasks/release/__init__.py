"""From a training run to a deployed version: registration, approval, promotion, packaging, canary and deployment.

Depends on `tasks.training`, `truecourse.registry` and `truecourse.deployment`.
"""

__all__ = [
    "approve",
    "deploy",
    "evaluate_canary",
    "package",
    "prefect_deployments",
    "promote",
    "register",
    "start_canary",
]

"""The processes that `truecourse up` starts and watches: Prefect's server and worker, the endpoint, the control page.

Depends on `services.process` and `truecourse.processes`.
"""

__all__ = ["endpoint", "endpoint_parts", "flow_deployments", "prefect_server", "server_logs"]

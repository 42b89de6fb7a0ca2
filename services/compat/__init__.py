"""What depends on internals of the server's libraries: uvicorn, BentoML, circus, Starlette, prometheus_client, asyncio.

One module for each patch, which it states as `PATCH`. Depends on `truecourse.compat`.
"""

__all__ = [
    "bentoml_build",
    "bentoml_swagger_ui",
    "circus_clock",
    "circus_socket",
    "prometheus_files",
    "starlette_middleware",
    "tls_protocol",
    "uvicorn_fast_path",
    "uvicorn_protocol",
    "uvicorn_shutdown",
]

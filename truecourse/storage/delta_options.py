"""Access to Delta tables: storage options of delta-rs, the Arrow file system, and row filters."""

from collections.abc import Sequence
from typing import Any

import pyarrow.fs
import pyarrow.parquet as pq

from truecourse.settings import Settings


def options(settings: Settings) -> dict[str, str]:
    """The storage options of deltalake."""
    if not settings.storage_root.startswith("s3://"):
        return {}
    storage_options = {"aws_region": settings.s3_region, "aws_conditional_put": "etag"}
    if settings.s3_endpoint:
        storage_options |= {
            "aws_endpoint": settings.s3_endpoint,
            "aws_allow_http": str(settings.s3_endpoint.startswith("http:")).lower(),
        }
    if settings.s3_access_key_id.get_secret_value():
        storage_options["aws_access_key_id"] = settings.s3_access_key_id.get_secret_value()
        storage_options["aws_secret_access_key"] = settings.s3_secret_access_key.get_secret_value()
    return storage_options


def filesystem(settings: Settings, uri: str) -> pyarrow.fs.SubTreeFileSystem:
    """The Arrow file system of a table. deltalake's own is written in Python, and aborts the process if a scan is still
    open when the interpreter exits."""
    if not settings.storage_root.startswith("s3://"):
        return pyarrow.fs.SubTreeFileSystem(uri, pyarrow.fs.LocalFileSystem())
    s3 = pyarrow.fs.S3FileSystem(
        access_key=settings.s3_access_key_id.get_secret_value() or None,
        secret_key=settings.s3_secret_access_key.get_secret_value() or None,
        region=settings.s3_region,
        endpoint_override=settings.s3_endpoint or None,
    )
    return pyarrow.fs.SubTreeFileSystem(uri.removeprefix("s3://"), s3)


def filter_expression(where: Sequence[tuple[str, str, Any]], filter: Any = None) -> Any:
    """Combine limits and a filter into one expression; None if there are neither."""
    if not where:
        return filter
    limits = pq.filters_to_expression(list(where))
    return limits if filter is None else limits & filter

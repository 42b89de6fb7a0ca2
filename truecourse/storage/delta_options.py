"""How Delta tables are reached under a storage root: options of delta-rs, the file system of Arrow, limits of rows."""

from collections.abc import Sequence
from typing import Any

import pyarrow.fs
import pyarrow.parquet as pq

from truecourse.settings import Settings


def options(settings: Settings) -> dict[str, str]:
    """deltalake's storage options."""
    if not settings.storage_root.startswith("s3://"):
        return {}
    found = {"aws_region": settings.s3_region, "aws_conditional_put": "etag"}
    if settings.s3_endpoint:
        found |= {
            "aws_endpoint": settings.s3_endpoint,
            "aws_allow_http": str(settings.s3_endpoint.startswith("http:")).lower(),
        }
    if settings.s3_access_key_id.get_secret_value():
        found["aws_access_key_id"] = settings.s3_access_key_id.get_secret_value()
        found["aws_secret_access_key"] = settings.s3_secret_access_key.get_secret_value()
    return found


def filesystem(settings: Settings, uri: str) -> pyarrow.fs.SubTreeFileSystem:
    """Of a table. Arrow's own: deltalake's is written in Python, and a scan of it that outlives the interpreter by a
    moment aborts the process."""
    if not settings.storage_root.startswith("s3://"):
        return pyarrow.fs.SubTreeFileSystem(uri, pyarrow.fs.LocalFileSystem())
    s3 = pyarrow.fs.S3FileSystem(
        access_key=settings.s3_access_key_id.get_secret_value() or None,
        secret_key=settings.s3_secret_access_key.get_secret_value() or None,
        region=settings.s3_region,
        endpoint_override=settings.s3_endpoint or None,
    )
    return pyarrow.fs.SubTreeFileSystem(uri.removeprefix("s3://"), s3)


def selected(where: Sequence[tuple[str, str, Any]], filter: Any = None) -> Any:
    """The rows that keep all limits and the filter, as an expression; None where there is neither."""
    if not where:
        return filter
    limits = pq.filters_to_expression(list(where))
    return limits if filter is None else limits & filter

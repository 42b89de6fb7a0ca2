"""How Delta tables are reached under a storage root: the options of delta-rs, and the file system of Arrow."""

import pyarrow.fs

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

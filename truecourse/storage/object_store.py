"""Object storage behind one interface: a local folder by default, S3 through boto3 if the root is `s3://`.

Keys are relative and `/`-separated. Writes are atomic. `put_new` creates an object only if it is absent, so of two
concurrent writers one succeeds.
"""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, Protocol
from urllib.parse import urlsplit

from truecourse.addresses import is_loopback_name
from truecourse.errors import AccessDenied, AlreadyExists, NotFound, SettingsError, StorageError
from truecourse.hashing import sha256, sha256_file
from truecourse.references import ArtifactRef
from truecourse.settings import Settings, get_settings
from truecourse.storage.fsync import make_folder, sync_descriptor, sync_file


@dataclass(frozen=True)
class StoredObject:
    """An object's key, its size in bytes, and when (UTC) it was last written."""

    key: str
    bytes: int
    modified: datetime


class ObjectStore(Protocol):
    """The interface of all stores. Methods raise NotFound, AlreadyExists, AccessDenied or StorageError."""

    root: str

    def put(self, key: str, data: bytes) -> None: ...
    def put_new(self, key: str, data: bytes) -> None: ...
    def get(self, key: str) -> bytes: ...
    def exists(self, key: str) -> bool: ...
    def list(self, prefix: str, after: str = "") -> Iterator[str]: ...
    def objects(self, prefix: str, after: str = "") -> Iterator[StoredObject]: ...
    def delete(self, key: str) -> None: ...
    def upload(self, key: str, path: Path) -> None: ...
    def download(self, key: str, path: Path) -> None: ...
    def digest(self, key: str) -> str: ...


class LocalStore:
    """Objects as files in a folder. A write syncs a temporary file, then renames or links it, so that readers never see
    a partial object; the name is synced before the call returns."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self._root = root

    def _path(self, key: str) -> Path:
        path = (self._root / key).resolve()
        if not path.is_relative_to(self._root.resolve()):
            raise StorageError(f"the key {key!r} leaves the storage root", where=self.root)
        return path

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        where = f"{self.root}/{key}"
        try:
            yield
        except (FileNotFoundError, IsADirectoryError):
            raise NotFound("no such object", where=where) from None
        except FileExistsError:
            raise AlreadyExists("the object already exists", where=where) from None
        except PermissionError:
            raise AccessDenied(
                "the folder may not be read or written", where=where, hint="check its owner and mode"
            ) from None
        except NotADirectoryError:
            hint = "set TRUECOURSE_HOME, or TRUECOURSE_STORAGE, to a folder that you can write"
            raise StorageError("a part of this path is a file, not a folder", where=where, hint=hint) from None
        except OSError as error:
            raise StorageError(error.strerror or str(error), where=where) from error

    @contextmanager
    def _temporary(self, path: Path, data: bytes | Path) -> Iterator[Path]:
        """Write the data to a temporary file. The caller renames it to `path`; the name is synced after the block."""
        make_folder(path.parent)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with temporary.open("wb") as file:
                if isinstance(data, bytes):
                    file.write(data)
                else:
                    with data.open("rb") as source:
                        while chunk := source.read(1 << 20):
                            file.write(chunk)
                file.flush()
                sync_descriptor(file.fileno())
            yield temporary
            sync_file(path.parent)
        finally:
            temporary.unlink(missing_ok=True)

    def put(self, key: str, data: bytes) -> None:
        with self._errors(key), self._temporary(self._path(key), data) as temporary:
            temporary.replace(self._path(key))

    def put_new(self, key: str, data: bytes) -> None:
        with self._errors(key), self._temporary(self._path(key), data) as temporary:
            os.link(temporary, self._path(key))

    def get(self, key: str) -> bytes:
        with self._errors(key):
            return self._path(key).read_bytes()

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def list(self, prefix: str, after: str = "") -> Iterator[str]:
        """The keys below a prefix that sort behind `after`, in order."""
        folder = self._path(prefix if prefix.endswith("/") or not prefix else str(Path(prefix).parent))
        keys = (
            p.relative_to(self._root.resolve()).as_posix()
            for p in folder.rglob("*")
            if p.is_file() and p.name[0] != "."
        )
        yield from sorted(key for key in keys if key.startswith(prefix) and key > after)

    def objects(self, prefix: str, after: str = "") -> Iterator[StoredObject]:
        """The objects below a prefix whose keys sort behind `after`, in the order of their keys."""
        for key in self.list(prefix, after):
            with suppress(FileNotFoundError):  # deleted meanwhile
                about = self._path(key).stat()
                yield StoredObject(key, about.st_size, datetime.fromtimestamp(about.st_mtime, UTC))

    def delete(self, key: str) -> None:
        with self._errors(key):
            self._path(key).unlink(missing_ok=True)

    def upload(self, key: str, path: Path) -> None:
        with self._errors(key), self._temporary(self._path(key), path) as temporary:
            temporary.replace(self._path(key))

    def download(self, key: str, path: Path) -> None:
        with self._errors(key), self._path(key).open("rb") as source:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                while chunk := source.read(1 << 20):
                    file.write(chunk)

    def digest(self, key: str) -> str:
        """The SHA-256 of an object, computed in constant memory."""
        with self._errors(key):
            return sha256_file(self._path(key))


class S3Store:
    """A bucket and prefix. `put_new` is S3's conditional put (If-None-Match: *)."""

    def __init__(self, settings: Settings) -> None:
        self.root = settings.storage_root
        self._settings = settings
        self._bucket, _, prefix = self.root.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""

    @cached_property
    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        settings = self._settings
        return boto3.client(
            "s3",
            endpoint_url=settings.s3_endpoint or None,
            region_name=settings.s3_region,
            aws_access_key_id=settings.s3_access_key_id.get_secret_value() or None,
            aws_secret_access_key=settings.s3_secret_access_key.get_secret_value() or None,
            config=Config(
                retries={"mode": "standard", "max_attempts": 5},
                s3={"addressing_style": "path"} if settings.s3_endpoint else {},
                request_checksum_calculation="when_required",
                proxies={} if is_loopback_name(urlsplit(settings.s3_endpoint).hostname or "") else None,
            ),
        )

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            self._raise(error.response["Error"].get("Code", ""), key, error)
        except BotoCoreError as error:
            hint = "check TRUECOURSE_S3_ENDPOINT, and the credentials"
            raise StorageError(str(error), where=f"{self.root}/{key}", hint=hint) from error

    def _raise(self, code: str, key: str, error: Exception) -> NoReturn:
        where = f"{self.root}/{key}"
        if code in ("404", "NoSuchKey", "NoSuchBucket"):
            raise NotFound("no such bucket" if code == "NoSuchBucket" else "no such object", where=where) from None
        if code in ("412", "PreconditionFailed", "ConditionalRequestConflict"):
            raise AlreadyExists("the object already exists", where=where) from None
        if code in ("401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"):
            hint = "check TRUECOURSE_S3_ACCESS_KEY_ID, TRUECOURSE_S3_SECRET_ACCESS_KEY and the bucket's policy"
            raise AccessDenied("the storage refuses these credentials", where=where, hint=hint) from None
        raise StorageError(str(error), where=where) from error

    def put(self, key: str, data: bytes) -> None:
        with self._errors(key):
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=data)

    def put_new(self, key: str, data: bytes) -> None:
        with self._errors(key):
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=data, IfNoneMatch="*")

    def get(self, key: str) -> bytes:
        with self._errors(key):
            data: bytes = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)["Body"].read()
            return data

    def exists(self, key: str) -> bool:
        try:
            with self._errors(key):
                self._client.head_object(Bucket=self._bucket, Key=self._prefix + key)
        except NotFound:
            return False
        return True

    def list(self, prefix: str, after: str = "") -> Iterator[str]:
        """The keys below a prefix that sort behind `after`, in order."""
        yield from (one.key for one in self.objects(prefix, after))

    def objects(self, prefix: str, after: str = "") -> Iterator[StoredObject]:
        """The objects below a prefix whose keys sort behind `after`, in the order of their keys."""
        start = {"StartAfter": self._prefix + after} if after else {}
        with self._errors(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix, **start
            )
            for page in pages:
                for item in page.get("Contents", ()):
                    key = item["Key"].removeprefix(self._prefix)
                    yield StoredObject(key, item["Size"], item["LastModified"].astimezone(UTC))

    def delete(self, key: str) -> None:
        with self._errors(key):
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key)

    def upload(self, key: str, path: Path) -> None:
        with self._errors(key):
            self._client.upload_file(str(path), self._bucket, self._prefix + key)

    def download(self, key: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._errors(key):
            self._client.download_file(self._bucket, self._prefix + key, str(path))

    def digest(self, key: str) -> str:
        with self._errors(key):
            body = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)["Body"]
            sha = hashlib.sha256()
            for chunk in body.iter_chunks(1 << 20):
                sha.update(chunk)
            return sha.hexdigest()


def open_store(settings: Settings | None = None) -> ObjectStore:
    """Open the store of the settings' storage root. Nothing is accessed before the first call."""
    settings = settings or get_settings()
    root = settings.storage_root
    if root.startswith("s3://"):
        if not root.removeprefix("s3://").split("/")[0]:
            raise SettingsError("has no bucket", where=f"TRUECOURSE_STORAGE={root}", hint="write s3://bucket/prefix")
        return S3Store(settings)
    if "://" in root:
        raise SettingsError("is neither a folder nor s3://", where=f"TRUECOURSE_STORAGE={root}")
    return LocalStore(Path(root).absolute())


def put_artifact(store: ObjectStore, key: str, data: bytes) -> ArtifactRef:
    store.put(key, data)
    return ArtifactRef(key=key, sha256=sha256(data), bytes=len(data))


def upload_artifact(store: ObjectStore, key: str, path: Path) -> ArtifactRef:
    store.upload(key, path)
    return ArtifactRef(key=key, sha256=sha256_file(path), bytes=path.stat().st_size)

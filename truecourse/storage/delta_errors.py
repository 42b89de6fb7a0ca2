"""Errors of Delta tables as errors of the product."""

from collections.abc import Iterator
from contextlib import contextmanager

from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from truecourse.errors import AccessDenied, ConflictError, NotFound, StorageError

_REFUSED = ("403", "Forbidden", "AccessDenied", "InvalidAccessKeyId")


@contextmanager
def table_errors(name: str, uri: str) -> Iterator[None]:
    """Raise errors of the block as ours: NotFound, AccessDenied, ConflictError or StorageError."""
    try:
        yield
    except TableNotFoundError:
        raise NotFound("no such table", where=name, hint="run the flow that writes it first") from None
    except FileNotFoundError:
        hint = "TRUECOURSE_TABLE_RETENTION keeps replaced files longer"
        raise NotFound("files of the table's version are gone", where=name, hint=hint) from None
    except CommitFailedError as error:
        hint = "try again: another process changed the table at the same time"
        raise ConflictError(str(error), where=uri, hint=hint) from error
    except (DeltaError, OSError) as error:
        if any(sign in str(error) for sign in _REFUSED):
            hint = "check TRUECOURSE_S3_ACCESS_KEY_ID, TRUECOURSE_S3_SECRET_ACCESS_KEY and the bucket's policy"
            raise AccessDenied("the storage refuses these credentials", where=uri, hint=hint) from None
        raise StorageError(str(error), where=uri) from error

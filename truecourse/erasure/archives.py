"""Read and rewrite what is inside gzip, zip and tar files."""

import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator

GZIP, ZIP, XZ = b"\x1f\x8b", b"PK\x03\x04", b"\xfd7zXZ\x00"
Rewrite = Callable[[str, bytes], bytes | None]
"""Returns the new bytes of a member by its name and bytes; None if it cannot be rewritten."""
BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile)
"""Errors of damaged archives."""


def is_archive(data: bytes) -> bool:
    return data[:2] == GZIP or data[:4] == ZIP or data[:6] == XZ


def members(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The files in an archive, unpacked. Raises one of BROKEN."""
    if data[:4] == ZIP:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield name, archive.read(name)
        return
    plain = gzip.decompress(data) if data[:2] == GZIP else lzma.decompress(data)
    if not _is_tar(plain):
        yield "", plain
        return
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isfile() else None
            yield member.name, file.read() if file is not None else b""


def rewrite_archive(data: bytes, rewrite: Rewrite) -> bytes | None:
    """Rewrite the files in an archive; members keep their names, times and modes. Return the same bytes if no file
    changes, and None if one cannot be rewritten."""
    if data[:4] == ZIP:
        return rewrite_zip(data, rewrite)
    plain = gzip.decompress(data) if data[:2] == GZIP else lzma.decompress(data)
    new = _rewrite_tar(plain, rewrite) if _is_tar(plain) else rewrite("", plain)
    if new is None or new == plain:
        return None if new is None else data
    return gzip.compress(new, mtime=0) if data[:2] == GZIP else lzma.compress(new)


def rewrite_gzip(data: bytes, rewrite: Callable[[bytes], bytes | None]) -> bytes | None:
    return rewrite_archive(data, lambda _, part: rewrite(part))


def rewrite_zip(data: bytes, rewrite: Rewrite) -> bytes | None:
    packed, changed = io.BytesIO(), False
    with zipfile.ZipFile(io.BytesIO(data)) as before, zipfile.ZipFile(packed, "w") as after:
        for info in before.infolist():
            old = before.read(info)
            new = rewrite(info.filename, old)
            if new is None:
                return None
            changed |= new != old
            after.writestr(info, new, compress_type=info.compress_type)
    return packed.getvalue() if changed else data


def _is_tar(plain: bytes) -> bool:
    return plain[257:262] == b"ustar"


def _rewrite_tar(plain: bytes, rewrite: Rewrite) -> bytes | None:
    packed, changed = io.BytesIO(), False
    with tarfile.open(fileobj=io.BytesIO(plain)) as before, tarfile.open(fileobj=packed, mode="w") as after:
        for member in before:
            file = before.extractfile(member) if member.isfile() else None
            if file is None:
                after.addfile(member)
                continue
            old = file.read()
            new = rewrite(member.name, old)
            if new is None:
                return None
            changed |= new != old
            member.size = len(new)
            after.addfile(member, io.BytesIO(new))
    return packed.getvalue() if changed else plain

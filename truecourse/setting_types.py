"""Types of settings that pydantic has not: absolute paths, and where lineage events are sent."""

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _absolute_if_any(name: str) -> str:
    return str(_absolute(Path(name))) if name else ""


def _lineage_target(text: str) -> str:
    """`off`, `file:<absolute path>` or an HTTP URL. Raises ValueError for anything else."""
    if text in ("", "off"):
        return "off"
    scheme, _, rest = text.partition(":")
    if scheme == "file" and rest.strip("/"):
        return f"file:{_absolute(Path(rest.removeprefix('//')))}"
    if scheme in ("http", "https"):
        parts = urlsplit(text)
        if parts.username or parts.password:
            raise ValueError("an API key belongs in TRUECOURSE_OPENLINEAGE_API_KEY, not in the URL")
        if parts.hostname and (parts.port is None or parts.port > 0):
            return text
    raise ValueError("expected off, file:PATH, http://HOST:PORT or https://HOST")


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
FileName = Annotated[str, AfterValidator(_absolute_if_any)]
LineageTarget = Annotated[str, AfterValidator(_lineage_target)]

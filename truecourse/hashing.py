"""SHA-256 of bytes, files and JSON documents: the identity of everything that is handed on."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(document: Any) -> bytes:
    """One byte sequence for equal documents: sorted keys, no spaces, UTF-8."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sha256_json(document: Any) -> str:
    return sha256(canonical_json(document))


SEAL = "sha256"


def seal(document: Mapping[str, Any]) -> bytes:
    """A JSON object that holds the SHA-256 of the rest of it, for documents that are written anew as things change."""
    said = json.loads(json.dumps({name: part for name, part in document.items() if name != SEAL}))
    return json.dumps({**said, SEAL: sha256_json(said)}, indent=1).encode()


def unseal(data: bytes) -> dict[str, Any] | None:
    """What sealed() was given; None if a byte of it was changed."""
    try:
        found: dict[str, Any] = json.loads(data)
        found.pop(SEAL)
    except (ValueError, KeyError, AttributeError, TypeError):
        return None
    return found if seal(found) == data else None

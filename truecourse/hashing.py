"""SHA-256 of bytes, files and JSON documents: the identity of artifacts."""

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
    """Encode a document such that equal documents give equal bytes: sorted keys, no spaces, UTF-8."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sha256_json(document: Any) -> str:
    return sha256(canonical_json(document))


SEAL = "sha256"


def seal(document: Mapping[str, Any]) -> bytes:
    """Encode a JSON object with the SHA-256 of its other members, for documents that are rewritten over time."""
    content = json.loads(json.dumps({name: part for name, part in document.items() if name != SEAL}))
    return json.dumps({**content, SEAL: sha256_json(content)}, indent=1).encode()


def unseal(data: bytes) -> dict[str, Any] | None:
    """Decode a document written by seal(), without the seal. Return None if any byte was changed."""
    try:
        document: dict[str, Any] = json.loads(data)
        document.pop(SEAL)
    except (ValueError, KeyError, AttributeError, TypeError):
        return None
    return document if seal(document) == data else None

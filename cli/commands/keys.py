"""`truecourse key`: API keys of the endpoint. Running endpoints apply changes within seconds."""

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.text import Text

from cli.terminal.output import Answer, Json, command
from cli.terminal.tables import pairs, table
from truecourse.errors import RequestError
from truecourse.serving import api_keys
from truecourse.serving.api_keys import SCOPES, ApiKey, Scope
from truecourse.wording import nearest

Scopes = Annotated[list[str], typer.Option("--scope", help=f"{', '.join(SCOPES)}; may be given again.")]


@command
def create(
    scope: Scopes,
    name: Annotated[str, typer.Option(help="Owner of the key.")],
    days: Annotated[float | None, typer.Option(min=0, help="Days until it expires; never if not given.")] = None,
    json: Json = False,
) -> Answer:
    """Create a key and show it once: only its hash is stored. Several keys may be valid at once, for rotation without a
    gap."""
    key, text = api_keys.create(name, _scopes(scope), days)
    shown = {"key": text, "id": key.id, "scopes": ", ".join(key.scopes), "expires": _moment(key.expires)}
    return Answer({"key": text} | key.model_dump(mode="json", exclude={"sha256"}), pairs(shown))


def _scopes(names: list[str]) -> tuple[Scope, ...]:
    unknown = sorted(set(names) - set(SCOPES))
    if unknown:
        what = f"unknown scope {', '.join(unknown)}"
        raise RequestError(what, status=422, where="--scope", hint=nearest(unknown[0], SCOPES))
    return tuple(scope for scope in SCOPES if scope in names)


@command
def list_keys(json: Json = False) -> Answer:
    """List the keys that are not revoked."""
    keys = api_keys.current().keys
    document = {"keys": [key.model_dump(mode="json", exclude={"sha256"}) for key in keys]}
    rows = [[key.id, key.name, ", ".join(key.scopes), _moment(key.created), _expiry(key)] for key in keys]
    shown = table("id", "name", "scopes", "created", "expires", rows=rows) if rows else Text("no keys")
    return Answer(document, shown)


@command
def revoke(
    number: Annotated[str, typer.Argument(metavar="ID", help="As `key list` shows it.")], json: Json = False
) -> Answer:
    """Revoke a key. Endpoints refuse it within seconds."""
    key = api_keys.revoke(number)
    return Answer(key.model_dump(mode="json", exclude={"sha256"}), Text(f"revoked {key.id}, of {key.name}"))


def _moment(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment else "never"


def _expiry(key: ApiKey) -> str:
    expired = key.expires is not None and key.expires <= datetime.now(UTC)
    return f"{_moment(key.expires)}{' (expired)' if expired else ''}"

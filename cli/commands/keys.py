"""`truecourse key`: who may ask the endpoint. Running endpoints follow within seconds."""

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
    name: Annotated[str, typer.Option(help="Whose key it is.")],
    days: Annotated[float | None, typer.Option(min=0, help="How long it holds; for good if not given.")] = None,
    json: Json = False,
) -> Answer:
    """A new key. It is shown this once: only its hash is stored. Several may hold at once, to change from one to the
    next without a gap."""
    key, text = api_keys.create(name, _scopes(scope), days)
    shown = {"key": text, "id": key.id, "scopes": ", ".join(key.scopes), "expires": _moment(key.expires)}
    return Answer({"key": text} | key.model_dump(mode="json", exclude={"sha256"}), pairs(shown))


def _scopes(words: list[str]) -> tuple[Scope, ...]:
    wrong = sorted(set(words) - set(SCOPES))
    if wrong:
        what = f"there is no scope {', '.join(wrong)}"
        raise RequestError(what, status=422, where="--scope", hint=nearest(wrong[0], SCOPES))
    return tuple(scope for scope in SCOPES if scope in words)


@command
def list_keys(json: Json = False) -> Answer:
    """The keys that were made and not revoked."""
    held = api_keys.current().keys
    document = {"keys": [key.model_dump(mode="json", exclude={"sha256"}) for key in held]}
    rows = [[key.id, key.name, ", ".join(key.scopes), _moment(key.created), _standing(key)] for key in held]
    shown = table("id", "name", "scopes", "created", "expires", rows=rows) if rows else Text("no keys")
    return Answer(document, shown)


@command
def revoke(
    number: Annotated[str, typer.Argument(metavar="ID", help="As `key list` shows it.")], json: Json = False
) -> Answer:
    """Take a key back. Endpoints refuse it within seconds."""
    key = api_keys.revoke(number)
    return Answer(key.model_dump(mode="json", exclude={"sha256"}), Text(f"revoked {key.id}, of {key.name}"))


def _moment(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment else "never"


def _standing(key: ApiKey) -> str:
    gone = key.expires is not None and key.expires <= datetime.now(UTC)
    return f"{_moment(key.expires)}{' (gone)' if gone else ''}"

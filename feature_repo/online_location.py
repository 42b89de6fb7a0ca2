"""Location of the online store and its last loads, without importing Feast, which takes seconds."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from truecourse.errors import PlatformError, SettingsError
from truecourse.features.definition_digests import views_digest
from truecourse.problem.namespace import Namespace
from truecourse.settings import Settings, get_settings


def feast_project(problem: Namespace) -> str:
    """The Feast project of the current definitions of a problem's own views, or of one view of an area.

    Each set of definitions has its own registry and online values, so that a running model reads the features it was
    trained on while those of another model are loaded."""
    return f"{problem.name}_{views_digest(problem)[:12]}"


def feast_folder(problem: Namespace) -> Path:
    return get_settings().home / "feast" / problem.name / views_digest(problem)[:12]


def online_config(problem: Namespace, settings: Settings) -> dict[str, Any]:
    """Feast's configuration of the online store in the settings. Raises SettingsError for an unsupported store."""
    url = settings.online_store.get_secret_value()
    if url == "sqlite":
        return {"type": "sqlite", "path": str(feast_folder(problem) / "online.db")}
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        hint = "write sqlite, or redis://[:password@]host:port[/db]"
        raise SettingsError("unsupported online store", where="TRUECOURSE_ONLINE_STORE", hint=hint)
    options = {"db": parts.path.strip("/") or "0"}
    options |= {"username": parts.username} if parts.username else {}
    options |= {"password": parts.password} if parts.password else {}
    options |= {"ssl": "true"} if parts.scheme == "rediss" else {}
    texts = [f"{parts.hostname}:{parts.port or 6379}", *(f"{name}={value}" for name, value in options.items())]
    # skip_dedup: without it a corrected value of the same event would not be written
    return {"type": "redis", "connection_string": ",".join(texts), "skip_dedup": True}


def mark_name(problem: Namespace, view: str) -> str:
    """The key, in the online store, of the mark of a view's last load."""
    return f"truecourse:loaded:{feast_project(problem)}:{view}"


def loaded_marks(problem: Namespace) -> dict[str, dict[str, Any]]:
    """The mark of each loaded view: the `version` of its feature table, and the time `until` (ISO 8601, UTC).

    Raises PlatformError if the store does not answer."""
    settings = get_settings()
    names = {view.name: mark_name(problem.namespace_of(view.name), view.name) for view in problem.views}
    if settings.online_store.get_secret_value() != "sqlite":
        texts = dict(zip(names, _read_redis(settings, list(names.values())), strict=True))
    else:
        texts = {}
        for owner in problem.view_owners:
            own = [view.name for view in owner.own_views]
            path = Path(online_config(owner, settings)["path"])
            texts |= dict(zip(own, _read_sqlite(path, [names[view] for view in own]), strict=True))
    return {view: json.loads(text) for view in names if (text := texts[view])}


def _read_sqlite(path: Path, names: Sequence[str]) -> list[str | None]:
    if not path.is_file():
        return [None] * len(names)
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            marks = dict(database.execute("SELECT name, mark FROM truecourse_loaded"))
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return [None] * len(names)
        raise PlatformError(f"the online store does not answer: {error}", where=str(path)) from None
    return [marks.get(name) for name in names]


def _read_redis(settings: Settings, names: Sequence[str]) -> list[str | None]:
    import redis

    try:
        with redis.Redis.from_url(settings.online_store.get_secret_value(), socket_timeout=5) as client:
            return list(client.mget(names)) if names else []
    except redis.RedisError as error:
        what = f"the online store does not answer: {type(error).__name__}"
        raise PlatformError(what, where="TRUECOURSE_ONLINE_STORE") from None

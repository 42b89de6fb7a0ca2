"""Remove a subject from the online stores of all view definitions, by its key."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from feature_repo.compat import feast_online_store
from truecourse.errors import PlatformError
from truecourse.problem.namespace import Namespace
from truecourse.settings import get_settings

Matches = Callable[[dict[str, Any]], bool]
"""Whether a key of an entity, its values by column, is the subject's or holds it."""
_FOLDER = "feast"


def remove_online(problem: Namespace, matches: Matches, *, dry_run: bool) -> Iterator[tuple[str, int]]:
    """Remove the matching keys from every online store of a problem or area; yields each store's name and the number of
    keys.

    Raises PlatformError if Redis does not answer."""
    settings = get_settings()
    place = settings.home / _FOLDER / problem.name
    for path in sorted(place.glob("*/online.db")):
        count = _remove_sqlite(path, matches, dry_run)
        if count:
            yield path.relative_to(settings.home).as_posix(), count
    if settings.online_store.get_secret_value() != "sqlite":
        count = _remove_redis(problem, matches, dry_run)
        if count:
            yield "redis", count


def _remove_sqlite(path: Path, matches: Matches, dry_run: bool) -> int:
    found: set[bytes] = set()
    with closing(sqlite3.connect(path, timeout=30)) as database:
        tables = [
            name
            for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if any(row[1] == "entity_key" for row in database.execute(f'PRAGMA table_info("{name}")'))
        ]
        for table in tables:
            keys = [key for (key,) in database.execute(f'SELECT DISTINCT entity_key FROM "{table}"')]  # noqa: S608
            gone = [key for key in keys if matches(feast_online_store.key_values(key))]
            found.update(gone)
            if not dry_run:
                database.executemany(f'DELETE FROM "{table}" WHERE entity_key = ?', [(key,) for key in gone])  # noqa: S608
        if found and not dry_run:
            database.commit()
            database.execute("VACUUM")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return len(found)


def _remove_redis(problem: Namespace, matches: Matches, dry_run: bool) -> int:
    import redis

    found = 0
    try:
        with redis.Redis.from_url(get_settings().online_store.get_secret_value(), socket_timeout=30) as client:
            for name in client.scan_iter(match=f"*{problem.name}_????????????", count=1000):
                key = name[: -len(problem.name) - 13]
                if matches(feast_online_store.key_values(key)):
                    found += 1
                    if not dry_run:
                        client.delete(name)
    except redis.RedisError as error:
        what = f"the online store does not answer: {type(error).__name__}"
        raise PlatformError(what, where="TRUECOURSE_ONLINE_STORE", hint="start it, and run the command again") from None
    return found

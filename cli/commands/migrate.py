"""`migrate`: rewrite what an earlier release stored, with a backup."""

from typing import Annotated, Any

import typer
from rich.text import Text

from cli.terminal.output import Answer, Json, command_without_storage


@command_without_storage
def migrate(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be rewritten, and change nothing.")
    ] = False,
    json: Json = False,
) -> Answer:
    """Rewrite what an earlier release stored in today's format. It may be interrupted and repeated.

    Copies of the rewritten objects are kept below backup/ in the storage. Stop `truecourse up` and schedules first."""
    from services.process.platform_state import running_platform
    from truecourse import migration
    from truecourse.errors import PlatformError
    from truecourse.storage.object_store import open_store
    from truecourse.stored_format import FORMAT

    store, platform = open_store(), running_platform()
    if platform is not None and not dry_run:
        what = f"truecourse up runs as process {platform.pid}, and its checks write the objects to rewrite"
        raise PlatformError(what, where=platform.prefect, hint="stop it with Ctrl-C, then migrate")
    found = migration.plan(store) if dry_run else migration.migrate(store)
    rewrites = [one for one in found.rewrites if not one.fault]
    faults = [one for one in found.rewrites if one.fault]
    document: dict[str, Any] = {
        "storage": store.root,
        "dry_run": dry_run,
        "format": {"before": found.oldest, "after": found.oldest if dry_run else FORMAT},
        "rewritten": [{"key": one.key, "becomes": one.becomes, "backup": one.backup} for one in rewrites],
        "unreadable": [{"key": one.key, "reason": one.fault} for one in faults],
    }
    return Answer(document, Text("\n".join(_lines(document))), ok=not faults)


def _lines(document: dict[str, Any]) -> list[str]:
    from truecourse.wording import counted

    count = counted(len(document["rewritten"]), "object")
    lines = [f"{one['key']} → {one['becomes']}" for one in document["rewritten"]] if document["dry_run"] else []
    lines += [f"{one['key']} cannot be read and is left as it is: {one['reason']}" for one in document["unreadable"]]
    before, after = document["format"]["before"], document["format"]["after"]
    if document["dry_run"]:
        return [*lines, f"{document['storage']}: format {before}, {count} to rewrite"]
    return [*lines, f"{document['storage']}: format {after}, {count} rewritten"]

"""`forget`: remove a subject everywhere."""

import sys
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType

from cli.terminal.output import Answer, Json, command
from cli.terminal.tables import pairs, table
from truecourse.wording import counted


@command
def forget(
    entity: Annotated[
        str | None, typer.Argument(help="An entity, or a table with a key; with AREA. or PROBLEM. before it, that one.")
    ] = None,
    key: Annotated[list[str] | None, typer.Argument(help="The subject's key; one value for each key column.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be removed, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
    allow_return: Annotated[
        bool, typer.Option("--allow-return", help="Accept rows of a forgotten subject again, and remove nothing.")
    ] = False,
    show: Annotated[bool, typer.Option("--list", help="List what was forgotten, and removals to finish.")] = False,
    json: Json = False,
) -> Answer:
    """Remove a subject from everything that is stored: sources, tables, features, frames, logs, predictions, reports.

    It cannot be undone. Rows of the subject are refused from then on. An interrupted removal is finished by the same
    command. Stop `truecourse up` and other flows first; endpoints may run."""
    from truecourse.errors import SettingsError

    if show:
        return _history()
    if entity is None or not key:
        hint = "for example truecourse forget customer c07, or truecourse forget --list"
        raise SettingsError("no subject was given", where="truecourse forget", hint=hint)
    if allow_return:
        return _allow_return(entity, key)
    return _forget(entity, key, dry_run, yes or dry_run, json)


def _forget(entity: str, key: list[str], dry_run: bool, agreed: bool, json: bool) -> Answer:
    from tasks.data.forget_subject import forget_subject
    from truecourse.errors import SettingsError

    if not dry_run:
        _refuse_running_flows()
    if not agreed:
        if json or not sys.stdin.isatty():
            raise SettingsError("a removal cannot be undone", where="truecourse forget", hint="add --yes or --dry-run")
        from cli.terminal.output import stderr

        planned = forget_subject(entity, key, dry_run=True)
        stderr().print(_view(planned, dry_run=True))
        typer.confirm("Remove all of this? It cannot be undone", abort=True, err=True)
    outcome = forget_subject(entity, key, dry_run=dry_run)
    return Answer(_document(outcome, dry_run), _view(outcome, dry_run=dry_run), ok=dry_run or outcome.is_complete)


def _refuse_running_flows() -> None:
    from services.process.flow_runs import noted_processes
    from services.process.platform_state import running_platform
    from truecourse.errors import PlatformError

    platform = running_platform()
    if platform is not None:
        what = f"truecourse up runs as process {platform.pid}, and its flows write what is to be removed"
        raise PlatformError(what, where=platform.prefect, hint="stop it with Ctrl-C, then forget")
    if flows := noted_processes():
        what = f"flows run as {', '.join(f'process {pid}' for pid in sorted(flows))}, and write what is to be removed"
        raise PlatformError(what, hint="let them end, then forget")


def _document(outcome: Any, dry_run: bool) -> dict[str, Any]:
    from truecourse.erasure.removal import counts_by_kind
    from truecourse.problem.namespace import FeatureArea

    return {
        "dry_run": dry_run,
        "entity": outcome.entity,
        "key_hash": outcome.key_hash,
        "problems": [one.namespace.name for one in outcome.targets if not isinstance(one.namespace, FeatureArea)],
        "areas": [one.namespace.name for one in outcome.targets if isinstance(one.namespace, FeatureArea)],
        "removed": counts_by_kind(outcome.removed_data),
        "objects": [one.document() for one in outcome.removed_data],
        "versions": list(outcome.versions),
        "remains": list(outcome.remains),
        "unread": dict(outcome.unread),
        "resumed": outcome.resumed,
        "record": outcome.number,
        "complete": outcome.is_complete,
    }


def _view(outcome: Any, *, dry_run: bool) -> RenderableType:
    document = _document(outcome, dry_run)
    rows = [
        [kind, f"{one['rewritten']:,}", f"{one['deleted']:,}", f"{one['rows']:,}", f"{one['texts']:,}"]
        for kind, one in document["removed"].items()
    ]
    shown: dict[str, object] = {"problems": ", ".join(document["problems"]) or "none"}
    shown |= {"feature areas": ", ".join(document["areas"])} if document["areas"] else {}
    shown |= {"record": f"number {document['record']}, key hash {document['key_hash'][:12]}"} if not dry_run else {}
    learned = [f"{one['problem']} {one['version']} ({counted(one['rows'], 'row')})" for one in document["versions"]]
    shown["models that learned from it"] = ", ".join(learned) or "none"
    if document["unread"]:
        shown["problems and areas that cannot be read"] = "; ".join(
            f"{name}: {why}" for name, why in outcome.unread.items()
        )
    if document["remains"]:
        shown["the key is still found in"] = "\n".join(document["remains"])
    headers = ("would be removed from" if dry_run else "removed from", "rewritten", "deleted", "rows", "texts")
    return Group(table(*headers, rows=rows), pairs(shown))


def _allow_return(entity: str, key: list[str]) -> Answer:
    from truecourse.erasure.forget import allow_return

    hashed = allow_return(entity, key)
    return Answer({"entity": entity, "key_hash": hashed, "allowed": True}, f"rows of this {entity} are accepted again")


def _history() -> Answer:
    from truecourse.erasure.forget import unfinished
    from truecourse.erasure.remembered import ledger
    from truecourse.storage.object_store import open_store

    store = open_store()
    entries = [entry.model_dump(mode="json") for entry in ledger(store).entries()]
    opened = unfinished(store)
    rows = [[one["number"], *_entry(one), one["author"], one["reason"]] for one in entries]
    rows += [["", *_entry({**one, "action": "not finished"}), one["author"], "run it again"] for one in opened]
    headers = ("number", "at (UTC)", "action", "entity", "key hash", "by", "what")
    return Answer({"entries": entries, "unfinished": opened}, table(*headers, rows=rows), ok=not opened)


def _entry(one: dict[str, Any]) -> list[str]:
    return [one["at"][:16], one["action"], one["entity"], one["key_hash"][:12]]

"""Mark and sweep: which stored items nothing needs. Pure: it reads no storage.

An item is kept if it is held (a reason is given), if it is younger than the retention of its kind, or if a kept item
needs it. All others are unneeded. So nothing that a kept item needs, however indirectly, is ever unneeded.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal[
    "version", "run", "frame", "feature table", "table", "table file", "log file", "source", "batch"
]
Limits: TypeAlias = Mapping[str, datetime | None]
"""By kind: an item that is unused since before this time (UTC) is unneeded unless it is needed; None: never."""


@dataclass(frozen=True)
class Item:
    """Something stored. `needs`: ids of the items that it is useless without. `held`: why it is always kept; empty if
    it is not. `since`: the time (UTC) from which its retention counts; None: it is kept only while it is needed."""

    kind: Kind
    id: str
    bytes: int = 0
    needs: frozenset[str] = frozenset()
    held: str = ""
    since: datetime | None = None


@dataclass(frozen=True)
class Marked:
    """`unneeded`: in the given order. `holders`: for each kept item's id the id of the root that keeps it, which is the
    item itself for a root."""

    unneeded: tuple[Item, ...]
    holders: Mapping[str, str]


def mark(items: Iterable[Item], limits: Limits) -> Marked:
    """Divide items into kept and unneeded ones. An item that several roots keep has the first one as its holder: held
    roots come first, in the given order, then young ones."""
    listed = {item.id: item for item in items}
    roots = [item for item in listed.values() if item.held]
    roots += [item for item in listed.values() if not item.held and is_young(item, limits)]
    holders: dict[str, str] = {}
    for root in roots:
        pending = deque([root.id])
        while pending:
            id = pending.popleft()
            if id in listed and id not in holders:
                holders[id] = root.id
                pending.extend(listed[id].needs)
    return Marked(tuple(item for item in listed.values() if item.id not in holders), holders)


def is_young(item: Item, limits: Limits) -> bool:
    """Whether the retention of the item's kind keeps it."""
    limit = limits[item.kind]
    return item.since is not None and (limit is None or item.since >= limit)

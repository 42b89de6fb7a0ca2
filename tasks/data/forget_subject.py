"""Forget a subject in storage, home and online stores."""

from collections.abc import Iterator, Sequence

from truecourse.erasure.forget import Outcome, forget
from truecourse.erasure.frames import has_key
from truecourse.erasure.removal import DELETED, RemovedData, Target


def forget_subject(entity: str, key: Sequence[str], *, dry_run: bool = False) -> Outcome:
    """Remove a subject everywhere, or with `dry_run` find it; see truecourse.erasure.forget.forget()."""
    return forget(entity, key, _remove_online, dry_run=dry_run)


def _remove_online(targets: Sequence[Target], dry_run: bool) -> Iterator[RemovedData]:
    from feature_repo.online_erasure import remove_online  # Feast takes seconds to import

    for target in targets:
        found = remove_online(target.namespace, lambda key, of=target.subject: has_key(key, of), dry_run=dry_run)  # type: ignore[misc]
        for store, keys in found:
            yield RemovedData(store, "online store", rows=keys, how=DELETED)

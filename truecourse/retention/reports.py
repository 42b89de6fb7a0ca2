"""Reports of checks, daily histograms, findings and quality baselines whose retention is over."""

import re
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from typing import get_args

from truecourse.evaluation.experiment_pages import experiment_objects
from truecourse.monitoring import report_store
from truecourse.monitoring.alerts import alert_record as record
from truecourse.monitoring.findings import Check
from truecourse.retention.removal import Context, Removal, in_days, objects_removal
from truecourse.storage.object_store import StoredObject
from truecourse.stored_format import FORMER_HISTOGRAMS, HISTOGRAMS

_WINDOW = re.compile(r"(drift|evidently)-\d{8}T\d{4}-(?P<end>\d{8}T\d{4})\.(html|parquet)")
_ENTRIES = 200
"""The number of newest entries of the findings ledger that are always kept."""


def expired_reports(context: Context) -> Iterator[Removal]:
    """Old reports, daily histograms and findings; ages are relative to the newest of each kind, since they may be dated
    by the data's clock."""
    if not context.settings.report_retention:
        return
    days, store = timedelta(days=context.settings.report_retention), context.store
    reason = f"more than {in_days(context.settings.report_retention)} before the newest"
    reports = [one for check in get_args(Check) for one in report_store.expired(store, context.problem, check, days)]
    yield from objects_removal(store, "reports", [*reports, *_windows(context, days)], reason)
    yield from objects_removal(store, "histograms", _histograms(context, days), reason)
    yield from objects_removal(store, "findings", _findings(context, days), reason)
    yield from objects_removal(store, "experiment pages", _experiments(context, days), reason)


def baselines(context: Context, versions: Collection[int]) -> Iterator[Removal]:
    """Quality baselines of versions that do not exist. `versions`: the existing ones."""
    place = f"quality/{context.problem}/"
    found = [
        one
        for one in context.store.objects(place)
        if (number := one.key.removeprefix(place).partition("-")[0]).isdecimal() and int(number) not in versions
    ]
    yield from objects_removal(context.store, "quality baselines", found, "their versions do not exist")


def _windows(context: Context, days: timedelta) -> Iterator[StoredObject]:
    """Pages and samples named after a time window."""
    place, ends = f"reports/{context.problem}/", dict[StoredObject, str]()
    for one in context.store.objects(place):
        named = _WINDOW.fullmatch(one.key.removeprefix(place))
        if named:
            ends[one] = named["end"]
    if ends:
        newest = datetime.strptime(max(ends.values()), "%Y%m%dT%H%M").replace(tzinfo=UTC)
        yield from (one for one, end in ends.items() if end < f"{newest - days:%Y%m%dT%H%M}")


def _experiments(context: Context, days: timedelta) -> list[StoredObject]:
    found = list(experiment_objects(context.store, context.problem))
    newest = max((one.modified for one in found), default=None)
    return [one for one in found if newest is not None and one.modified < newest - days]


def _histograms(context: Context, days: timedelta) -> Iterator[StoredObject]:
    by_folder: dict[str, list[StoredObject]] = {}
    for place in (HISTOGRAMS, FORMER_HISTOGRAMS):
        for one in context.store.objects(f"{place}/{context.problem}/"):
            folder, _, name = one.key.rpartition("/")
            if name.removesuffix(".json").isdecimal():
                by_folder.setdefault(folder, []).append(one)
    for folder, found in by_folder.items():
        newest = max(one.key for one in found).rpartition("/")[2]
        first = f"{datetime.strptime(newest, '%Y%m%d.json').replace(tzinfo=UTC) - days:%Y%m%d}.json"
        yield from (one for one in found if one.key < f"{folder}/{first}")


def _findings(context: Context, days: timedelta) -> Iterator[StoredObject]:
    book = record.open_ledger(context.store, context.problem)
    newest = book.newest()
    if newest is None:
        return
    sizes = {one.key: one for one in context.store.objects(f"alarms/{context.problem}/")}
    for number in book.numbers()[:-_ENTRIES]:
        entry = book.entry(number)
        if entry is None or newest.at - entry.at < days:
            break
        yield sizes[book.key(number)]

"""Whether this machine has processors, memory and disk left."""

import os
from datetime import datetime
from pathlib import Path

from truecourse.monitoring.findings import Finding, Report
from truecourse.monitoring.wording import summarize
from truecourse.problem import Problem
from truecourse.settings import Settings

CRITICAL_SHARE = 0.5
"""Of what a limit leaves, this share used up as well is worth a page: at a limit of 0.9, 0.95."""


def check_machine(problem: Problem, settings: Settings, at: datetime) -> Report:
    """`at`: now, by the wall clock, UTC."""
    import psutil

    processors = psutil.cpu_count() or 1
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    used = {"processors": psutil.getloadavg()[1] / processors, "memory": 1 - memory.available / memory.total}
    disks = {str(path): psutil.disk_usage(str(path)) for path in _places(settings)}
    findings = [
        *_loaded(used["processors"], settings.machine_cpu),
        *_full("memory", used["memory"], settings.machine_memory, memory.available),
    ]
    for place, disk in disks.items():
        findings += _full(f"disk of {place}", _share(disk), settings.machine_disk, disk.free)
    figures = {
        "used": used,
        "processors": processors,
        "memory_bytes": memory.total,
        "swap_share": swap.used / swap.total if swap.total else 0.0,
        "disks": {place: {"used": _share(disk), "free_bytes": disk.free} for place, disk in disks.items()},
        "limits": {
            "processors": settings.machine_cpu,
            "memory": settings.machine_memory,
            "disk": settings.machine_disk,
        },
        "up_seconds": at.timestamp() - psutil.boot_time(),
    }
    worst = max((_share(disk) for disk in disks.values()), default=0.0)
    well = f"The machine has room: memory {used['memory']:.0%} full, disk {worst:.0%}, and work for "
    well += f"{used['processors']:.0%} of its processors."
    return Report(
        check="machine",
        problem=problem.name,
        at=at,
        sentence=summarize(findings, well),
        findings=tuple(findings),
        figures=figures,
    )


def _places(settings: Settings) -> list[Path]:
    """The home, and the storage root if that is a folder on another disk; where they are not made yet, what is to
    hold them."""
    wanted = [settings.home] + ([] if "://" in settings.storage_root else [Path(settings.storage_root)])
    there = [next(parent for parent in (path, *path.parents) if parent.exists()) for path in wanted]
    return list({os.stat(path).st_dev: path for path in reversed(there)}.values())[::-1]  # noqa: PTH116


def _share(disk: object) -> float:
    """Of what anybody may use: some of a disk is kept for root."""
    return float(getattr(disk, "percent", 0.0)) / 100


def _loaded(load: float, limit: float) -> list[Finding]:
    if load <= limit:
        return []
    what = f"Work waits for this machine's processors: {load:.1f} for each in the last 5 minutes, more than {limit:g}."
    return [_finding("processors", "overload", False, what, load, limit)]


def _full(subject: str, share: float, limit: float, left: float) -> list[Finding]:
    if share <= limit:
        return []
    what = f"This machine's {subject} is {share:.0%} full, more than {limit:.0%}: {left / (1 << 30):,.1f} GiB are left."
    return [_finding(subject, "full", share >= 1 - (1 - limit) * (1 - CRITICAL_SHARE), what, share, limit)]


def _finding(subject: str, cause: str, page: bool, sentence: str, used: float, limit: float) -> Finding:
    figures = {"used": used, "limit": limit}
    return Finding(check="machine", subject=subject, cause=cause, page=page, sentence=sentence, figures=figures)

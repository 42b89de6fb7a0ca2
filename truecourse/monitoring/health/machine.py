"""The machine check: load of the processors, free memory and free disk space."""

import os
from datetime import datetime
from pathlib import Path

from truecourse.monitoring.finding_causes import Cause
from truecourse.monitoring.findings import Finding, Report, summarize
from truecourse.problem import Problem
from truecourse.settings import Settings

CRITICAL_SHARE = 0.5
"""A finding is critical when this share of what the limit leaves is used too: at a limit of 0.9, from 0.95 on."""


def check_machine(problem: Problem, settings: Settings, at: datetime) -> Report:
    """Check this machine. `at`: now, by the wall clock, UTC."""
    import psutil

    processors = psutil.cpu_count() or 1
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    used = {"processors": psutil.getloadavg()[1] / processors, "memory": 1 - memory.available / memory.total}
    disks = {str(path): psutil.disk_usage(str(path)) for path in _disk_folders(settings)}
    findings = [
        *_check_load(used["processors"], settings.machine_cpu),
        *_check_space("memory", used["memory"], settings.machine_memory, memory.available),
    ]
    for place, disk in disks.items():
        findings += _check_space(f"disk of {place}", _share(disk), settings.machine_disk, disk.free)
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
    summary = f"The machine has room: memory {used['memory']:.0%} full, disk {worst:.0%} full, "
    summary += f"load {used['processors']:.0%} of its processors."
    return Report(
        check="machine",
        problem=problem.name,
        at=at,
        sentence=summarize(findings, summary),
        findings=tuple(findings),
        figures=figures,
    )


def _disk_folders(settings: Settings) -> list[Path]:
    """List one folder per disk: the home, and the storage root if it is on another disk.

    A folder that does not exist yet is replaced by its nearest existing parent."""
    folders = [settings.home] + ([] if "://" in settings.storage_root else [Path(settings.storage_root)])
    existing = [next(parent for parent in (path, *path.parents) if parent.exists()) for path in folders]
    return list({os.stat(path).st_dev: path for path in reversed(existing)}.values())[::-1]  # noqa: PTH116


def _share(disk: object) -> float:
    """Return the used share of the disk space that is not reserved for root."""
    return float(getattr(disk, "percent", 0.0)) / 100


def _check_load(load: float, limit: float) -> list[Finding]:
    if load <= limit:
        return []
    message = f"The load average over 5 minutes is {load:.1f} per processor, more than {limit:g}."
    return [_finding("processors", "overload", False, message, load, limit)]


def _check_space(subject: str, share: float, limit: float, left: float) -> list[Finding]:
    if share <= limit:
        return []
    message = (
        f"This machine's {subject} is {share:.0%} full, more than {limit:.0%}: {left / (1 << 30):,.1f} GiB are left."
    )
    return [_finding(subject, "full", share >= 1 - (1 - limit) * (1 - CRITICAL_SHARE), message, share, limit)]


def _finding(subject: str, cause: Cause, page: bool, sentence: str, used: float, limit: float) -> Finding:
    figures = {"used": used, "limit": limit}
    return Finding(check="machine", subject=subject, cause=cause, page=page, sentence=sentence, figures=figures)

"""`python -m benchmarks [NAME...]`: measure, print a table, write JSON; exits 1 if a limit is exceeded."""

import importlib
from types import ModuleType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import harness
from truecourse.errors import SettingsError, TruecourseError

NAMES = ("pit_join", "aggregations", "exploration", "score", "tables", "flows", "scale", "drift", "alarms", "truth")
ON_REQUEST = (
    "serve",
    "overload",
    "replay",
    "storage",
    "predictions",
    "edits",
    "tuning",
    "decisions",
    "intervals",
    "lifecycle",
    "plan",
    "soak",
)
"""Measured only if named: they start servers, or take many minutes."""
PACKAGES = {
    **dict.fromkeys(
        (
            "pit_join",
            "aggregations",
            "exploration",
            "score",
            "tables",
            "flows",
            "scale",
            "tuning",
            "decisions",
            "intervals",
        ),
        "pipeline",
    ),
    "lifecycle": "pipeline",
    "plan": "pipeline",
    **dict.fromkeys(("drift", "alarms"), "monitoring"),
    **dict.fromkeys(("serve", "overload"), "serving"),
}
"""The package of a benchmark's module; without one, the module is beside this file."""


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"of {', '.join(NAMES + ON_REQUEST)}; by default the first {len(NAMES)}")
    ] = None,
    quick: Annotated[bool, typer.Option(help="use samples of the rows; the figures are not exact")] = False,
    minutes: Annotated[float, typer.Option(min=0.5, help="minutes of faults, for soak only")] = 30,
    times: Annotated[
        list[int] | None, typer.Option(min=1, help="copies of the rows, for lifecycle only; by default 1, 3 and 10")
    ] = None,
) -> None:
    console, all_hold = Console(), True
    for name in names or NAMES:
        try:
            if name not in NAMES + ON_REQUEST:
                raise SettingsError(f"no benchmark {name!r}", hint=f"choose from {', '.join(NAMES + ON_REQUEST)}")
            with console.status(f"measuring {name}"):
                given: dict[str, dict[str, Any]] = {"soak": {"minutes": minutes}, "lifecycle": {"times": times or ()}}
                options = given.get(name, {})
                rows = benchmark(name).rows(quick, **options)
        except TruecourseError as error:
            Console(stderr=True).print(f"[red]{name}[/]: {error}", highlight=False)
            raise typer.Exit(2) from None
        document = harness.report(name, rows, quick)
        console.print(table(document))
        all_hold = all_hold and all(row["holds"] for row in document["rows"])
    raise typer.Exit(0 if all_hold else 1)


def benchmark(name: str) -> ModuleType:
    """Import a benchmark's module."""
    return importlib.import_module(".".join(filter(None, ("benchmarks", PACKAGES.get(name), name))))


def table(document: dict[str, Any]) -> Table:
    machine = document["machine"]
    caption = f"{machine['cores']} cores, {machine['memory_gb']} GB, {machine['cpu']}, Python {machine['python']}"
    grid = Table(title=document["name"] + (" (quick)" if document["quick"] else ""), caption=caption)
    for name in ("what", "value", "reference", "ratio", "limit", ""):
        grid.add_column(name, justify="left" if name == "what" else "right")
    for row in document["rows"]:
        reference = "" if row["reference"] is None else f"{row['reference']:,.4g}  {row['reference_is']}"
        limit = "" if row["limit"] is None else f"{row['sense']} {row['limit']:g}"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.3g}"
        result = "" if not limit else "[green]holds[/]" if row["holds"] else "[red]broken[/]"
        grid.add_row(row["what"], f"{row['value']:,.4g} {row['unit']}", reference, ratio, limit, result)
    return grid


if __name__ == "__main__":
    typer.run(main)

"""`python -m benchmarks [NAME...]`: measure, print a table, write JSON; exits 1 if a promise does not hold."""

import importlib
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import harness
from truecourse.errors import SettingsError, TruecourseError

NAMES = ("pit_join", "score", "tables", "flows", "scale", "drift", "alarms", "truth")
ALSO = ("serve", "overload", "replay", "soak")
"""Measured by name only: servers of their own, or many minutes."""


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"of {', '.join(NAMES + ALSO)}; if none, {len(NAMES)}")
    ] = None,
    quick: Annotated[bool, typer.Option(help="samples instead of all rows: a look, not a figure")] = False,
    minutes: Annotated[float, typer.Option(min=0.5, help="minutes of faults, of soak alone")] = 30,
) -> None:
    console, kept = Console(), True
    for name in names or NAMES:
        try:
            if name not in NAMES + ALSO:
                raise SettingsError(f"no benchmark {name!r}", hint=f"there are {', '.join(NAMES + ALSO)}")
            with console.status(f"measuring {name}"):
                options = {"minutes": minutes} if name == "soak" else {}
                rows = importlib.import_module(f"benchmarks.{name}").rows(quick, **options)
        except TruecourseError as error:
            Console(stderr=True).print(f"[red]{name}[/]: {error}", highlight=False)
            raise typer.Exit(2) from None
        document = harness.report(name, rows, quick)
        console.print(table(document))
        kept = kept and all(row["holds"] for row in document["rows"])
    raise typer.Exit(0 if kept else 1)


def table(document: dict[str, Any]) -> Table:
    about = document["machine"]
    caption = f"{about['cores']} cores, {about['memory_gb']} GB, {about['cpu']}, Python {about['python']}"
    drawn = Table(title=document["name"] + (" (quick)" if document["quick"] else ""), caption=caption)
    for name in ("what", "value", "reference", "ratio", "limit", ""):
        drawn.add_column(name, justify="left" if name == "what" else "right")
    for row in document["rows"]:
        reference = "" if row["reference"] is None else f"{row['reference']:,.4g}  {row['reference_is']}"
        limit = "" if row["limit"] is None else f"{row['sense']} {row['limit']:g}"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.3g}"
        verdict = "" if not limit else "[green]holds[/]" if row["holds"] else "[red]broken[/]"
        drawn.add_row(row["what"], f"{row['value']:,.4g} {row['unit']}", reference, ratio, limit, verdict)
    return drawn


if __name__ == "__main__":
    typer.run(main)

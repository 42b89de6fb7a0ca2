"""The features of a prediction with their source rows, for the terminal."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from cli.terminal.tables import table
from truecourse.wording import counted


def origins_view(traced: Mapping[str, Any]) -> RenderableType:
    """The features with value, event time and source, then the source rows of each view."""
    rows = [
        [
            one["feature"],
            one["value"],
            one["from"],
            _moment(one["event_time"]),
            one["sql"],
            one["rows"],
            one["changed_by"],
        ]
        for one in traced["features"]
    ]
    headers = ("feature", "value", "from", "event time", "SQL", "candidate rows", "rows that change it")
    parts: list[RenderableType] = [table(*headers, rows=rows)] if rows else [Text(traced.get("reason", ""), "yellow")]
    return Group(*parts, *(line for origin in traced["origins"] for line in _origin(origin)))


def _moment(value: datetime | None) -> str | None:
    return f"{value:%Y-%m-%d %H:%M:%S}" if value is not None else None


def _origin(origin: Mapping[str, Any]) -> Iterator[RenderableType]:
    of = f" of {origin['feature_table']}" if origin["feature_table"] else ""
    yield Text.assemble((origin["view"], "bold"), f"{of}: {origin['detail']}")
    for each in origin["tables"]:
        span = f", {_moment(each['from'])} to {_moment(each['to'])}" if each["from"] is not None else ""
        matter = f", {each['matter']:,} of them change a value" if each["matter"] is not None else ""
        yield Text(f"  {counted(each['rows'], 'row')} of {each['version']}{span}{matter}")
        for row in each["first"]:
            changes = f"  ← {', '.join(row['changes'])}" if row["changes"] else ""
            values = ", ".join(f"{name}={value}" for name, value in row["values"].items())
            yield Text(f"    {row['file']}, row {row['line']:,}: {values}{changes}", style="dim")
        if each["rows"] > len(each["first"]):
            yield Text(f"    and {counted(each['rows'] - len(each['first']), 'more row')}", style="dim")
        for file in each["files"]["first"]:
            size = f"{counted(file['bytes'], 'byte')}, {counted(file['rows'], 'row')}"
            yield Text(f"  file {file['file']}: {size}, SHA-256 {file['sha256'][:12]}, bytes {file['state']}")
        if each["files"]["count"] > len(each["files"]["first"]):
            yield Text(
                f"  and {counted(each['files']['count'] - len(each['files']['first']), 'more file')}", style="dim"
            )
        yield Text(f"  {each['query']}", style="cyan")

"""Tables, predictions and explanations for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from truecourse.page_sections import cell_text
from truecourse.problem import Problem
from truecourse.wording import counted

BAR = 24
"""Characters of the longest bar."""


def table(*headers: str, rows: Sequence[Sequence[object]], title: str | None = None) -> Table:
    """A table of text columns; columns of numbers are right-aligned."""
    drawn = Table(box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for i, header in enumerate(headers):
        numbers = bool(rows) and all(isinstance(row[i], int | float) for row in rows)
        drawn.add_column(header, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(value if isinstance(value, Text) else escape(cell_text(value)) for value in row))
    return drawn


def pairs(items: Mapping[str, object]) -> Table:
    drawn = Table.grid(padding=(0, 2))
    drawn.add_column(style="dim")
    drawn.add_column(overflow="fold")
    for name, value in items.items():
        drawn.add_row(name, value if isinstance(value, Text) else escape(cell_text(value)))
    return drawn


def request_view(row: Mapping[str, object]) -> Table:
    """A request row as sent, without thousands separators: 1830 may be a time of day."""
    return pairs({name: str(value) for name, value in row.items()})


def prediction_view(answer: Mapping[str, Any], unit: str = "") -> RenderableType:
    """Predictions of an answer. `unit`: of a regression's predictions."""
    version = answer["model"]["version"]
    lines: list[RenderableType] = []
    for prediction in answer["predictions"]:
        name, value = str(prediction.get("id", "prediction")), _value_text(prediction, unit)
        lines.append(Text.assemble((name, "dim"), "  ", (value, "bold")))
        lines += [
            Text(f"  {what}: {', '.join(prediction[what])}", style="dim")
            for what in ("missing", "unknown")
            if prediction.get(what)
        ]
        if prediction.get("warning"):
            lines.append(Text(f"  ! {prediction['warning']}", style="yellow"))
    return Group(*lines, Text(f"model version {version}, answered by {answer['answered_by']}", style="dim"))


def _value_text(prediction: Mapping[str, Any], unit: str) -> str:
    if "scores" in prediction:
        scores = ", ".join(f"{name} {share:.1%}" for name, share in prediction["scores"].items())
        return f"{prediction['prediction']}  ({scores})"
    if isinstance(prediction["prediction"], int | float):
        bounds = f" ({prediction['lower']:.4g} to {prediction['upper']:.4g})" if "lower" in prediction else ""
        return f"{prediction['prediction']:.4g} {unit}".rstrip() + bounds
    return f"{prediction['prediction']}  (score {prediction['score']:.1%})"


def explanation_view(answer: Mapping[str, Any], top: int, problem: Problem) -> RenderableType:
    return Group(
        prediction_view(answer, problem.label_unit),
        *(part for prediction in answer["predictions"] for part in (Text(), contributions(prediction, top, problem))),
    )


def contributions(prediction: Mapping[str, Any], top: int, problem: Problem) -> RenderableType:
    """Bars of the largest contributions; one line for the rest, so that all add up to the margin."""
    shown, rest = prediction["contributions"][:top], prediction["contributions"][top:]
    scale = max((abs(item["contribution"]) for item in shown), default=1.0) or 1.0
    rows: list[list[object]] = [
        [
            item["feature"],
            _value(item["value"], problem.unit(item["feature"])),
            _bar(item["contribution"] / scale),
            f"{item['contribution']:+.3f}",
        ]
        for item in shown
    ]
    if rest:
        total = sum(item["contribution"] for item in rest)
        rows.append([counted(len(rest), "other"), "", _bar(total / scale), f"{total:+.3f}"])
    unit = problem.contribution_unit
    ends = f"base {prediction['base']:+.3f}, and all contributions: margin {prediction['margin']:+.3f} {unit}"
    return Group(table("feature", "value", "pushes down · up", f"by, {unit}", rows=rows), Text(ends, style="dim"))


def _value(value: object, unit: str) -> str:
    if value is None:
        return "missing"
    return f"{f'{value:.4g}' if isinstance(value, float) else value} {unit}".rstrip()


def _bar(share: float) -> Text:
    length = min(BAR, max(1, round(abs(share) * BAR))) if share else 0
    half = BAR // 2
    filled = "█" * max(1, length // 2) if length else ""
    left, right = (filled.rjust(half), " " * half) if share < 0 else (" " * half, filled.ljust(half))
    return Text.assemble((left, "blue"), "│", (right, "dark_orange"))


_MARKS = {"verified": Text("✓", "green"), "unknown": Text("?", "bold yellow"), "redacted": Text("–", "bold yellow")}


def links_view(traced: Mapping[str, Any]) -> RenderableType:
    rows = [
        [_MARKS.get(item["state"], Text("✗", "bold red")), item["link"], item["id"], item["detail"]]
        for item in traced["links"]
    ]
    end = {
        "verified": Text("every link verified", "bold green"),
        "redacted": Text("a subject was forgotten; nothing else was changed", "bold yellow"),
        "unknown": Text("nothing was changed, but not every link can be verified", "bold yellow"),
    }.get(traced["state"], Text("the lineage is broken", "bold red"))
    return Group(table("", "link", "id", "what was verified", rows=rows), end)


def rebuilt_view(rebuilt: Mapping[str, Any]) -> Text:
    """Whether a rebuilt version is the recorded one."""
    if rebuilt["rebuilt_sha256"] is None:
        return Text("not rebuilt: a subject that it learned from was forgotten", "bold yellow")
    return Text("identical, byte for byte", "bold green") if rebuilt["identical"] else Text("different", "bold red")

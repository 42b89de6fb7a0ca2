"""The sections of a comparison of models, for the terminal, its page and notebooks."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from truecourse.html import PALETTE, figure, svg
from truecourse.page_sections import Code, Note, Pairs, Picture, Rows, Section
from truecourse.statistics.metrics import HIGHER_IS_BETTER
from truecourse.wording import counted

_MARKS = {"better": "✓ better", "worse": "✗ worse", "within noise": "within noise", "unknown": "unknown"}
_MOST_BARS = 40
"""Most differences in a picture; the table has all."""
_PLAIN = "#8a9099"


def comparison_sections(found: Mapping[str, Any]) -> Iterator[Section]:
    """The sections of the document that compare_models() returns."""
    models, comparisons = found["models"], found["comparisons"]
    loss = found["metric"].replace("_", " ")
    yield Pairs(_facts(found))
    for one in comparisons:
        yield Note(f"{one['model']} was not compared: {one['reason']}" if one["reason"] else f"{one['sentence']}.")
    compared = [one for one in comparisons if not one["reason"]]
    if not compared:
        return
    interval = f"{percent(found['coverage'])} interval"
    rows = [[models[0]["name"], "reference", models[0]["metrics"][found["metric"]]["value"], None, "–"]]
    values = {one["name"]: one["metrics"].get(found["metric"], {}).get("value") for one in models}
    rows += [
        [
            one["model"],
            _MARKS[one["conclusion"]],
            values[one["model"]],
            *interval_cells(one["metrics"][found["metric"]]),
        ]
        for one in compared
    ]
    yield Rows(("model", "conclusion", loss, "difference", interval), rows)
    yield Picture(f"Differences of the {loss} to {models[0]['name']}", _picture(found, compared))
    yield from _metrics(models, compared, interval)
    yield from _slices(compared, loss, f"simultaneous {interval}")
    for one in compared:
        yield from flipped_sections(one["flipped"], f"{one['reference']} and {one['model']}: " if compared[1:] else "")
    yield from _inputs(comparisons)


def _facts(found: Mapping[str, Any]) -> dict[str, object]:
    models = found["models"]
    days = f" of {counted(found['days'], 'day')}" if found["days"] is not None else ""
    facts: dict[str, object] = {
        "reference": f"{models[0]['name']}, snapshot {models[0]['snapshot'][:12]}",
        "compared with it": ", ".join(f"{one['name']}, snapshot {one['snapshot'][:12]}" for one in models[1:]),
        "test rows": f"{counted(found['rows'], 'row')}{days} that none was trained on",
        "intervals": f"{percent(found['coverage'])} of each difference"
        + (f", corrected for {counted(len(models) - 1, 'comparison')}" if models[2:] else ""),
    }
    redacted = [f"{one['name']} on {one['redacted']}" for one in models if one["redacted"]]
    return facts | ({"redacted": f"a subject was forgotten: {', '.join(redacted)}"} if redacted else {})


def percent(coverage: float) -> str:
    return f"{100 * coverage:.4g}%"


def estimate_text(difference: Mapping[str, float | None]) -> str:
    """A difference with the limits of its interval, as one text."""
    value, limits = difference["value"], interval_cells(difference)[1]
    return "–" if value is None else f"{value:+.4f} ({limits})"


def interval_cells(difference: Mapping[str, float | None]) -> list[Any]:
    """The cells of a difference: its value, and the limits of its interval."""
    low, high = difference["low"], difference["high"]
    return [difference["value"], f"{low:+.4f} to {high:+.4f}" if low is not None and high is not None else "–"]


def _metrics(
    models: Sequence[Mapping[str, Any]], compared: Sequence[Mapping[str, Any]], interval: str
) -> Iterator[Section]:
    """Each metric of every model, then the differences."""
    shown = [one for one in models if not one["reason"]]
    names = list(shown[0]["metrics"])
    rows = [[_spelled(name), *(one["metrics"][name]["value"] for one in shown)] for name in names]
    yield Rows(("metric", *(one["name"] for one in shown)), rows)
    rows = [
        [_spelled(name), *([one["model"]] if compared[1:] else []), *interval_cells(one["metrics"][name])]
        for name in compared[0]["metrics"]
        for one in compared
    ]
    yield Rows(("difference", *(["model"] if compared[1:] else []), "value", interval), rows)


def _spelled(metric: str) -> str:
    return metric.replace("_", " ") + (" (higher is better)" if metric in HIGHER_IS_BETTER else "")


def _slices(compared: Sequence[Mapping[str, Any]], loss: str, interval: str) -> Iterator[Section]:
    rows = [
        [
            f"{part['column']} {part['value']}",
            *([one["model"]] if compared[1:] else []),
            *interval_cells(part["difference"]),
            part["rows"],
        ]
        for one in compared
        for part in one["slices"]
    ]
    if rows:
        yield Rows(("slice", *(["model"] if compared[1:] else []), f"difference of the {loss}", interval, "rows"), rows)


def flipped_sections(flips: Mapping[str, Any], about: str = "") -> Iterator[Section]:
    """The number of flipped predictions, and the first of them."""
    by = ", ".join(f"{count:,} {what}" for what, count in flips["by"].items())
    yield Pairs({f"{about}other predictions": f"{flips['count']:,}{': ' if by else ''}{by}"})
    if flips["first"]:
        rows = [[f["id"], f["label"], f["from"], f["to"]] for f in flips["first"]]
        yield Rows(("id", "label", "from", "to"), rows, rest=flips["count"] - len(rows))


def features_text(features: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{kind}: {', '.join(some)}" for kind, some in features.items() if some) or "the same"


def _inputs(comparisons: Sequence[Mapping[str, Any]]) -> Iterator[Section]:
    """What the models were made of: a table with a column for each model, then the differences of the code."""
    names = ["made of", comparisons[0]["reference"], *(one["model"] for one in comparisons)]
    rows: list[list[Any]] = [
        ["model", "", *("the same bytes" if one["same_bytes"] else "other bytes" for one in comparisons)],
        ["features", "", *(features_text(one["features"]) for one in comparisons)],
        ["code", "", *(", ".join(one["code"]) or "the same" for one in comparisons)],
    ]
    for kind in ("parameters", "libraries"):
        changed = dict.fromkeys(name for one in comparisons for name in one[kind])
        for name in changed:
            before = next(one[kind][name][0] for one in comparisons if name in one[kind])
            rows.append([name, str(before), *(str(one[kind].get(name, [None, before])[1]) for one in comparisons)])
    yield Rows(names, rows)
    for one in comparisons:
        if one["code"]:
            yield Note(f"Code of {one['reference']} (-) and of {one['model']} (+):")
            yield Code([line for lines in one["code"].values() for line in lines])


def _picture(found: Mapping[str, Any], compared: Sequence[Mapping[str, Any]]) -> Markup:
    """Draw the differences of the loss with their intervals: of all rows, then by slice."""
    bars = [
        (f"{one['model']}, {place}", difference)
        for one in compared
        for place, difference in [
            ("all rows", one["metrics"][found["metric"]]),
            *((f"{part['column']} {part['value']}", part["difference"]) for part in one["slices"]),
        ]
    ]
    return interval_picture(bars, f"difference of the {found['metric'].replace('_', ' ')}: below 0 is better")


def interval_picture(bars: Sequence[tuple[str, Mapping[str, float | None]]], label: str, helps: bool = False) -> Markup:
    """Draw the first differences with their intervals. Green is better: below zero, or with `helps` above."""
    bars = [(text, difference) for text, difference in bars if difference["low"] is not None][:_MOST_BARS]
    drawn, axis = figure(6.6, 0.9 + 0.26 * max(len(bars), 1))
    colours = {True: PALETTE[2], False: PALETTE[1]}
    for place, (_, difference) in enumerate(bars):
        low, value, high = (float(difference[end] or 0) for end in ("low", "value", "high"))
        colour = colours[(low > 0) == helps] if high < 0 or low > 0 else _PLAIN
        axis.plot([low, high], [place, place], color=colour, linewidth=2)
        axis.plot([value], [place], "o", color=colour, markersize=5)
    axis.axvline(0, color=_PLAIN, linewidth=1)
    axis.set_yticks(range(len(bars)), [text for text, _ in bars])
    axis.invert_yaxis()
    axis.set_xlabel(label)
    return svg(drawn, "Differences of the loss with their intervals")

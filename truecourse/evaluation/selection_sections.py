"""The sections of a feature selection, for the terminal, its page and notebooks."""

from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from truecourse.evaluation.comparison_sections import estimate_text, interval_picture, percent
from truecourse.html import number
from truecourse.page_sections import Note, Pairs, Picture, Rows, Section
from truecourse.wording import counted


def selection_sections(found: Mapping[str, Any]) -> Iterator[Section]:
    """The sections of the document of a feature selection."""
    proposed, loss = found["proposed"], found["metric"].replace("_", " ")
    days = f" of {counted(found['days'], 'day')}" if found["days"] is not None else ""
    yield Pairs(
        {
            "model": f"{found['model']}, snapshot {found['snapshot'][:12]}",
            "validation rows": f"{counted(found['rows'], 'row')}{days}; no test row is used",
            f"{loss} with all features": number(found["loss"]),
            "fits": found["fits"],
        }
    )
    yield Note(_sentence(proposed, loss))
    interval = f"({percent(found['coverage'])} interval)"
    ordered = sorted(found["features"], key=lambda one: -(one["dropped"]["value"] or 0.0))
    rows = [
        [one["feature"], one["group"], one["use"], estimate_text(one["dropped"]), estimate_text(one["permuted"])]
        for one in ordered
    ]
    yield Note(f"How much the {loss} rises without a feature, and with its values permuted:")
    yield Rows(("feature", "group", "use", f"without it {interval}", f"permuted {interval}"), rows)
    if found["groups"]:
        yield Rows(("group", "features", "use", f"without it {interval}", "cost: CPU seconds, bytes"), _groups(found))
    yield Picture(f"How much the {loss} rises without each feature", _picture(found, ordered, loss))


def _groups(found: Mapping[str, Any]) -> list[list[object]]:
    rows: list[list[object]] = []
    for one in found["groups"]:
        cost = one["cost"] or {}
        use = "not worth its cost" if cost and one["use"] not in ("useful", "unknown") else one["use"]
        spent = f"{number(cost['cpu_seconds'], 2)}, {int(cost['bytes']):,}" if cost else "–"
        rows.append([one["group"], len(one["features"]), use, estimate_text(one["dropped"]), spent])
    return rows


def _sentence(proposed: Mapping[str, Any], loss: str) -> str:
    kept = counted(len(proposed["kept"]), "feature")
    if not proposed["dropped"]:
        return f"No smaller set is as good as all features. {kept} are kept."
    figures = estimate_text(proposed["difference"])
    saved = proposed["saved"]
    views = f" Without them, no feature of {', '.join(proposed['groups'])} is left" if proposed["groups"] else ""
    if views and saved["cpu_seconds"]:
        views += f", which saves {number(saved['cpu_seconds'], 1)} CPU seconds of a full computation"
    return (
        f"Proposed: keep {kept}, and drop {', '.join(proposed['dropped'])}. "
        f"The {loss} changes by {figures} on the same validation rows.{views}{'.' if views else ''}"
    )


def _picture(found: Mapping[str, Any], ordered: list[Mapping[str, Any]], loss: str) -> Markup:
    bars = [(one["feature"], one["dropped"]) for one in ordered]
    return interval_picture(bars, f"{loss} without the feature: above 0 the feature helps", helps=True)

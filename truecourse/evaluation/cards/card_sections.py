"""The chapters of a model card, for its page, the terminal and Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from truecourse.evaluation.cards.dependence_picture import dependence_picture
from truecourse.evaluation.decision_report import DECISION_LABELS
from truecourse.evaluation.interval_report import INTERVAL_LABELS
from truecourse.html import number
from truecourse.page_sections import Note, Pairs, Picture, Rows, Section
from truecourse.problem.definition import Kind
from truecourse.statistics.intervals import Estimate
from truecourse.statistics.metrics import metric_label
from truecourse.wording import counted, format_duration

_NOT_DECLARED = "not declared"
_INTERVAL = "95% interval"
_PARTS = 5
_GAPS = 24
"""Most gaps of a column of groups that are shown; beyond, only those that are more than noise."""
_ADDITIVE = 1e-4
"""Share of a joint effect below which two features do not interact."""
_OPERATING: Mapping[Kind, str] = {"binary": "Thresholds", "multiclass": "Confidence", "regression": "Errors"}
Card = Mapping[str, Any]


@dataclass(frozen=True)
class Chapter:
    """A titled part of the card. `own`: whether the model page has a layout of its own for it."""

    title: str
    sections: Sequence[Section]
    own: bool = False


def chapters(card: Card, draw: bool = False) -> list[Chapter]:
    """Return the chapters of a card, as card_document() builds it. `draw`: with pictures, for a page."""
    found = [
        Chapter("Intended use", list(_use(card))),
        Chapter("Data", list(_data(card)), own=True),
        Chapter("Split", list(_split(card))),
        Chapter("Metrics on test rows", list(_metrics(card)), own=True),
        Chapter("Compared with the champion", list(_champion(card))),
        Chapter("Gates", list(_gates(card)), own=True),
        Chapter("Decisions", list(_decision(card)), own=True),
        Chapter("Intervals", list(_interval(card))),
        Chapter(operating_title(card), list(_operating(card)), own=True),
        Chapter("Calibration", list(_calibration(card)), own=True),
        Chapter("Slices", list(_slices(card)), own=True),
        Chapter("Fairness", list(_fairness(card))),
        Chapter("Features", list(_features(card)), own=True),
        Chapter("Dependence on features", list(_dependence(card, draw))),
        Chapter("Interactions", list(_interactions(card))),
        Chapter("Examples", list(_examples(card))),
        Chapter("Stability", list(_stability(card))),
        Chapter("Cost of training", list(_cost(card))),
        Chapter("Reproduce", list(_reproduce(card))),
    ]
    return [chapter for chapter in found if chapter.sections]


def operating_title(card: Card) -> str:
    """Return the title of the chapter that has the slider."""
    return _OPERATING[card["kind"]]


def estimate_text(found: Mapping[str, float | None] | None) -> str:
    """Format an estimate with its interval: "0.7421 (0.7313 to 0.7526)"."""
    if found is None or found["value"] is None:
        return "–"
    low, high = found["low"], found["high"]
    return _figure(found["value"]) + (f" ({_figure(low)} to {_figure(high)})" if low is not None else "")


def _figure(value: float | None) -> str:
    return number(value, 2 if value is not None and abs(value) >= 10 else 4)


def _label(card: Card, metric: str) -> str:
    return metric_label(metric, card["declared"]["unit"])


def _use(card: Card) -> Iterator[Section]:
    declared = card["declared"]
    yield Pairs(
        {
            "question": declared["question"] or _NOT_DECLARED,
            "label": declared["label"] or _NOT_DECLARED,
            "intended use": declared["use"] or _NOT_DECLARED,
            "not intended for": "; ".join(declared["not_for"]) or _NOT_DECLARED,
            "limits": "; ".join(declared["limits"]) or _NOT_DECLARED,
            "owner": declared["owner"] or _NOT_DECLARED,
        }
    )
    if not (declared["use"] and declared["limits"]):
        yield Note("Declare them with Problem(card=Card(use=..., not_for=[...], limits=[...])).")


def _data(card: Card) -> Iterator[Section]:
    data = card["data"]
    yield Pairs({"snapshot": data["snapshot"], "problem": data["problem_digest"], "look-ahead": data["look_ahead"]})
    tables = [[one["role"], one["table"], one["version"], one["files"]] for one in data["tables"]]
    yield Rows(("input", "table", "version", "files"), tables)
    if data["sources"]:
        yield Rows(("source", "rows", "SHA-256"), [[one["uri"], one["rows"], one["sha256"]] for one in data["sources"]])


def _split(card: Card) -> Iterator[Section]:
    split = card["split"]
    declared = ", ".join(f"{name}={value}" for name, value in split["declared"].items())
    yield Note(f"{split['kind']}({declared})")
    yield Rows(
        ("rows", "number", "first decision", "last decision"),
        [[one["side"], one["rows"], one["first"], one["last"]] for one in split["sides"]],
    )


def _metrics(card: Card) -> Iterator[Section]:
    sides = [name for name in ("model", "linear", "constant") if name in card["metrics"]]
    rows = [
        [_label(card, name), *(estimate_text(card["metrics"][side][name]) for side in sides)]
        for name in card["metrics"]["model"]
    ]
    yield Rows(
        ("metric", *(f"{side} ({_INTERVAL})" if side == "model" else f"{side} baseline" for side in sides)), rows
    )
    if card.get("recommendation"):
        yield Note(card["recommendation"])


def _champion(card: Card) -> Iterator[Section]:
    found = card["champion"]
    if found is None:
        return
    name = f"version {found['version']}"
    if found["reason"]:
        yield Note(f"The champion, {name}, cannot be compared: {found['reason']}.")
        return
    days = f" of {counted(found['days'], 'day')}" if found["days"] else ""
    yield Note(f"Both models on the {counted(found['rows'], 'row')}{days} that neither was trained on.")
    model, champion = found["metrics"]["model"], found["metrics"]["champion"]
    paired = {card["metric"]: found["loss"], "calibration_error": found["calibration"], "bias": found["calibration"]}
    yield Rows(
        ("metric", "this model", f"champion ({name})", "paired difference"),
        [
            [_label(card, metric), estimate_text(model[metric]), estimate_text(champion[metric]),
             estimate_text(paired.get(metric))]
            for metric in model
        ],
    )  # fmt: skip
    if found.get("cost") is not None:
        yield Note(f"Cost of the decisions, this model minus the champion: {estimate_text(found['cost'])} per row.")


def _gates(card: Card) -> Iterator[Section]:
    rows = [
        [gate["gate"], gate.get("result", "passed" if gate["passed"] else "failed"), gate["detail"]]
        for gate in card["gates"]
    ]
    yield Rows(("gate", "result", "on the test rows"), rows) if rows else Note("The problem declares no gates.")


def _decision(card: Card) -> Iterator[Section]:
    found = card["decision"]
    if found is None:
        return
    yield Note(f"{found['sentence']} All figures are of the test rows.")
    yield from _confusion({"classes": found["classes"], "counts": found["confusion"]})
    rows = [[DECISION_LABELS[name], estimate_text(one)] for name, one in found["metrics"].items()]
    yield Rows(("figure of the decisions", f"value ({_INTERVAL})"), rows)


def _interval(card: Card) -> Iterator[Section]:
    found = card.get("interval")
    if found is None:
        return
    yield Note(f"{found['sentence']} All figures are of the test rows.")
    rows = [[INTERVAL_LABELS[name], estimate_text(one)] for name, one in found["metrics"].items()]
    yield Rows(("figure of the intervals", f"value ({_INTERVAL})"), rows)
    parts = [[f"{p['column']}: {p['value']}", f"{p['rows']:,}", estimate_text(p["coverage"])] for p in found["slices"]]
    if parts:
        yield Rows(("slice", "rows", f"share within the bounds ({_INTERVAL})"), parts)


def _operating(card: Card) -> Iterator[Section]:
    points = card["operating"]
    if card["kind"] == "regression":
        yield Note("How far predictions are off: the share of the test rows within a tolerance.")
        shown = [round(share * (len(points["tolerances"]) - 1)) for share in (0.5, 0.8, 0.9, 0.95, 1.0)]
        unit = card["declared"]["unit"]
        yield Rows(
            (f"absolute error at most{f', {unit}' if unit else ''}", "share of the rows"),
            [[_figure(points["tolerances"][at]), share_text(points["within"][at], points["rows"])] for at in shown],
        )
        return
    if card["kind"] == "multiclass":
        yield from _confusion(points["confusion"])
        return
    at = points["start"]
    yield Note(f"At a threshold of {points['thresholds'][at]:g}:")
    tp, fp = points["true_positives"][at], points["false_positives"][at]
    negative, positive = card["model"]["classes"]
    yield Rows(
        ("actual class", f"predicted {negative}", f"predicted {positive}"),
        [[negative, points["negatives"] - fp, fp], [positive, points["positives"] - tp, tp]],
    )
    places = [n for n, value in enumerate(points["thresholds"]) if round(value * 20) == value * 20]
    yield Rows(
        ("threshold", "precision", "recall", "predicted positive"),
        [[f"{points['thresholds'][n]:g}", *rates_text(points, n)] for n in places],
    )


def _confusion(found: Mapping[str, Any]) -> Iterator[Section]:
    names = found["classes"]
    rows = [[name, *counts] for name, counts in zip(names, found["counts"], strict=True)]
    yield Rows(("actual class", *(f"predicted {name}" for name in names)), rows)


def rates_text(points: Mapping[str, Any], place: int) -> tuple[str, str, str]:
    """Format precision, recall and the share predicted positive at a threshold of a two-class card."""
    tp, fp = points["true_positives"][place], points["false_positives"][place]
    rows = points["positives"] + points["negatives"]
    return share_text(tp, tp + fp), share_text(tp, points["positives"]), share_text(tp + fp, rows)


def share_text(part: int, whole: int) -> str:
    """Format a share as a percentage; a dash of nothing."""
    return f"{100 * part / whole:.1f}%" if whole else "–"


def _calibration(card: Card) -> Iterator[Section]:
    rows = [
        [one["rows"], one["predicted"], f"{_figure(one['actual'])} ± {_figure(one['error'])}"]
        for one in card["calibration"]
    ]
    yield Rows(("rows", "mean prediction", f"mean outcome ({_INTERVAL})"), rows)


def _slices(card: Card) -> Iterator[Section]:
    metric = card["metric"]
    rows = [
        [one["column"], one["value"], one["rows"], estimate_text(one["metrics"][metric]), one["warning"]]
        for one in card["slices"]
    ]
    if rows:
        yield Rows(("column", "value", "rows", _label(card, metric), "warning"), rows)


def _fairness(card: Card) -> Iterator[Section]:
    for name in card["unknown_groups"]:
        yield Note(f"{name} is not in this model's snapshot: train again to compare its groups.")
    for found in card["fairness"]:
        column, labels = found["column"], found["labels"]
        left = f" {counted(found['left_out'], 'group')} left out, too small to compare." if found["left_out"] else ""
        if len(found["groups"]) < 2:
            yield Note(f"{column}: fewer than two groups have 30 test rows, so nothing is compared.{left}")
            continue
        groups = found["groups"]
        yield Note(f"{column}, the largest group first.{left}")
        rates = [[one["value"], one["rows"], *(estimate_text(one["rates"][name]) for name in labels)] for one in groups]
        yield Rows((column, "rows", *labels.values()), rates)
        yield Note(_gap_sentence(found))
        gaps = [
            [one["value"], labels[name], _signed(gap), "more than noise" if name in one["differs"] else "within noise"]
            for one in groups
            for name, gap in one["gaps"].items()
        ]
        shown = gaps if len(gaps) <= _GAPS else [row for row in gaps if row[-1] == "more than noise"][:_GAPS]
        header = f"gap to {found['reference']} (simultaneous {_INTERVAL}s)"
        yield Rows((column, "rate", header, "conclusion"), shown, len(gaps) - len(shown), "gap")


def _signed(gap: Estimate) -> str:
    if gap["value"] is None or gap["low"] is None or gap["high"] is None:
        return "undefined"
    return f"{gap['value']:+.4g} ({gap['low']:+.4g} to {gap['high']:+.4g})"


def _gap_sentence(found: Mapping[str, Any]) -> str:
    differing = [
        f"{group['value']}: {', '.join(found['labels'][name] for name in group['differs'])}"
        for group in found["groups"]
        if group["differs"]
    ]
    if not differing:
        return f"No group of {found['column']} differs from {found['reference']} by more than noise."
    return f"Differ from {found['reference']} by more than noise: {'; '.join(differing)}."


def _features(card: Card) -> Iterator[Section]:
    largest = sorted(card["contributions"].items(), key=lambda item: -item[1])
    yield Rows(("feature", "mean absolute SHAP value"), largest[:20], max(len(largest) - 20, 0), "feature")


def _dependence(card: Card, draw: bool) -> Iterator[Section]:
    for one in card["dependence"]:
        title = one["feature"] + (f", for class {one['class']}" if one["class"] is not None else "")
        if draw:
            yield Picture(title, dependence_picture(one, title))
            continue
        rows = [[part["value"], part["rows"], part["mean"], part["low"], part["high"]] for part in one["bins"]]
        yield Rows((title, "rows", "mean contribution", "10%", "90%"), rows)


def _value_text(value: Any) -> str:
    """Format a value of a row: numbers exactly, so that `truecourse forget` finds them."""
    return f"{value:,}" if isinstance(value, float) else str(value)


def _interactions(card: Card) -> Iterator[Section]:
    rows = [
        [" and ".join(one["features"]), one["strength"], share_text(round(1000 * one["share"]), 1000)]
        for one in card["interactions"]
        if one["share"] >= _ADDITIVE
    ]
    if card["interactions"] and not rows:
        yield Note("None: the effects of the largest features add up.")
    if rows:
        yield Note("How much of the joint effect of two features is not the sum of their own effects.")
        yield Rows(("features", "strength", "share of their joint effect"), rows)


def _examples(card: Card) -> Iterator[Section]:
    for right, title in ((True, "Predicted best"), (False, "Predicted worst")):
        if rows := [one for one in card["examples"] if one["right"] is right]:
            yield examples_table(rows, title)


def examples_table(examples: Sequence[Mapping[str, Any]], title: str) -> Rows:
    """Return the table of example rows, elements of examples()."""
    rows = [
        [one["time"] or f"row {n}", _value_text(one["label"]), _prediction(one), _parts(one)]
        for n, one in enumerate(examples, 1)
    ]
    return Rows((title, "label", "prediction", "largest contributions"), rows)


def _prediction(one: Mapping[str, Any]) -> str:
    text = _value_text(one["prediction"])
    return f"{text} ({one['score']:.3f})" if one["score"] is not None else text


def _parts(one: Mapping[str, Any]) -> str:
    texts = []
    for part in one["contributions"][:_PARTS]:
        value = "hidden" if part.get("hidden") else "missing" if part["value"] is None else _value_text(part["value"])
        texts.append(f"{part['feature']} = {value}: {part['contribution']:+.3g}")
    return "; ".join(texts)


def _stability(card: Card) -> Iterator[Section]:
    found = card["stability"]
    if found is None:
        return
    done = f"{counted(found['done'], 'training')} of {found['planned']} planned"
    sample, duration = counted(found["rows"], "row"), format_duration(found["seconds"])
    yield Note(f"{done}, each with another seed and another sample of {sample}, in {duration}.")
    if found["loss"] is None:
        return
    loss = found["loss"]
    pairs = {
        f"{card['metric'].replace('_', ' ')}, mean": _figure(loss["mean"]),
        "range": f"{_figure(loss['low'])} to {_figure(loss['high'])}",
        "standard deviation": _figure(loss["deviation"]),
        "mean deviation of a row's prediction": _figure(found["spread"]),
    }
    if found["flipped"] is not None:
        pairs["predicted classes that differ between two trainings"] = f"{100 * found['flipped']:.1f}%"
    yield Pairs(pairs)


def _cost(card: Card) -> Iterator[Section]:
    cost = card["cost"]
    if cost is None:
        yield Note("Not recorded: the model was trained by an earlier release.")
        return
    yield Pairs(
        {
            "time": f"{cost['wall_seconds']:.1f} s",
            "processor time": f"{cost['cpu_seconds']:.1f} CPU s",
            "largest memory of the process": f"{cost['peak_bytes'] / 1e6:,.0f} MB",
        }
    )


def _reproduce(card: Card) -> Iterator[Section]:
    model = card["model"]
    yield Pairs(
        {
            "model SHA-256": model["sha256"],
            "training run": model["run_id"],
            "verify the lineage": card["reproduce"][0],
            "rebuild byte for byte": card["reproduce"][1],
            "form": model["form"],
            "parameters": ", ".join(f"{name}={value}" for name, value in model["parameters"].items()),
            "libraries": ", ".join(f"{name} {value}" for name, value in model["versions"].items()),
        }
    )

"""The sections of a parameter search, for the terminal and for its page."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from truecourse.arrays import Array
from truecourse.evaluation.comparison_sections import estimate_text, interval_picture, percent
from truecourse.html import PALETTE, figure, number, svg
from truecourse.page_sections import Note, Pairs, Picture, Rows, Section
from truecourse.wording import counted

_MOST = 30
"""Most trials in the table; the pictures and --json have all."""
_PLAIN = "#8a9099"
_USED = "uses "
"""Before a feature group's name, on an axis."""


def tuning_sections(found: Mapping[str, Any], problem: str) -> Iterator[Section]:
    """The sections of the document that search_parameters() returns."""
    trials, loss, names = found["trials"], found["metric"], list(found["default"])
    complete = [one for one in trials if one["state"] == "complete"]
    pruned, seconds = len(trials) - len(complete), sum(one["seconds"] for one in trials)
    yield Pairs(
        {
            "trials": f"{len(trials)}, {pruned} of them pruned",
            f"best {loss}": f"{number(found['loss'], 5)} by cross-validation on training rows, trial {found['chosen']}",
            f"default {loss}": number(trials[0]["loss"], 5),
            "time of all trials": f"{seconds:,.1f} s",
        }
    )
    yield Rows(
        ("parameter", "default", "chosen"), [[name, found["default"][name], found["best"][name]] for name in names]
    )
    yield Note(_sentence(found["gain"], found["chosen"]))
    if found["chosen"]:
        yield Note(f"To train with the chosen parameters: truecourse run train --tune --problem {problem}")
    if found["proposed"]:
        yield Note(_proposal(found))
    yield Picture("Chosen parameters against the default, on validation rows", _gain_picture(found))
    yield Picture("History", _history(trials, loss))
    yield from _importance(found, complete, loss)
    if len(complete) > 1:
        yield Picture("Parallel coordinates", _parallel(found, complete, loss))
    ordered = sorted(complete, key=lambda one: (one["loss"], one["number"]))
    without = ["without"] if any(one["dropped"] for one in complete) else []
    shown = [
        [
            one["number"],
            one["loss"],
            *(one["parameters"][name] for name in names),
            *([", ".join(one["dropped"]) or "–"] if without else []),
            max(one["rounds"]),
            f"{one['seconds']:.1f}",
        ]
        for one in ordered[:_MOST]
    ]
    yield Note("The best trials:")
    yield Rows(("trial", loss, *names, *without, "rounds", "seconds"), shown, rest=len(ordered) - _MOST, noun="trial")


def _text(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)


def _measured_on(gain: Mapping[str, Any]) -> str:
    days = f" of {counted(gain['days'], 'day')}" if gain["days"] is not None else ""
    return f"{counted(gain['rows'], 'validation row')}{days}, which the search did not use"


def _sentence(gain: Mapping[str, Any], chosen: int) -> str:
    if not chosen:
        return "No trial was better than the default parameters."
    metric, difference = gain["metric"].replace("_", " "), gain["difference"]
    if difference["value"] is None or difference["low"] is None:
        return "The chosen parameters were not compared with the default: there are too few validation rows."
    conclusion = "not different from the default by more than noise"
    if difference["high"] < 0 or difference["low"] > 0:
        conclusion = "better than the default" if difference["high"] < 0 else "worse than the default"
    return (
        f"The chosen parameters are {conclusion}: the {metric} changes from {number(gain['default'], 4)} to "
        f"{number(gain['chosen'], 4)}, by {estimate_text(difference)} ({percent(gain['coverage'])} interval), on "
        f"{_measured_on(gain)}."
    )


def _proposal(found: Mapping[str, Any]) -> str:
    one = found["proposed"]
    return (
        f"Trial {one['number']} is better without the features of {', '.join(one['dropped'])}: {found['metric']} "
        f"{number(one['loss'], 5)} on training rows; on validation rows it changes by "
        f"{estimate_text(one['gain']['difference'])} against the default. To use it, remove them from problem.py."
    )


def _gain_picture(found: Mapping[str, Any]) -> Markup:
    bars = [("chosen", found["gain"]["difference"])]
    if found["proposed"]:
        bars.append(("fewer features", found["proposed"]["gain"]["difference"]))
    metric = found["gain"]["metric"].replace("_", " ")
    return interval_picture(bars, f"difference of the {metric} to the default: below 0 is better")


def _history(trials: Sequence[Mapping[str, Any]], loss: str) -> Markup:
    """Draw each trial's loss, and the least one so far."""
    drawn, axis = figure(6.6, 3.0)
    complete = [one for one in trials if one["state"] == "complete"]
    numbers, losses = [one["number"] for one in complete], [one["loss"] for one in complete]
    axis.plot(numbers, losses, "o", color=PALETTE[0], markersize=4, label="complete")
    pruned = [one["number"] for one in trials if one["state"] == "pruned"]
    if pruned:
        axis.plot(pruned, [max(losses)] * len(pruned), "x", color=_PLAIN, markersize=5, label="pruned (no loss)")
    axis.step(
        numbers, np.minimum.accumulate(losses), where="post", color=PALETTE[1], linewidth=1.5, label="best so far"
    )
    axis.set(xlabel="trial", ylabel=loss)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(labelcolor=_PLAIN, frameon=False)
    return svg(drawn, f"The {loss} of each trial, and the best so far")


def _importance(found: Mapping[str, Any], complete: Sequence[Mapping[str, Any]], loss: str) -> Iterator[Section]:
    """The share of the variance of the loss that each parameter explains (fANOVA: Hutter and others 2014)."""
    shares = found["importance"]
    if not shares:
        yield Note("There are too few different trials to say which parameters matter.")
        return
    drawn, axis = figure(6.6, 0.9 + 0.26 * len(shares))
    axis.barh(range(len(shares)), list(shares.values()), color=PALETTE[0], height=0.6)
    axis.set_yticks(range(len(shares)), list(shares))
    axis.invert_yaxis()
    axis.set_xlabel(f"share of the variance of the {loss} over {counted(len(complete), 'complete trial')}")
    yield Picture("Importance of the parameters", svg(drawn, "How much each parameter matters"))


def _parallel(found: Mapping[str, Any], complete: Sequence[Mapping[str, Any]], loss: str) -> Markup:
    """Draw each trial as a line over the parameters and the loss; the chosen one and the default stand out."""
    groups = sorted({group for one in complete for group in one["dropped"]})
    axes = {name: [one["parameters"][name] for one in complete] for name in found["default"]}
    axes |= {_USED + group: ["no" if group in one["dropped"] else "yes" for one in complete] for group in groups}
    axes[loss] = [one["loss"] for one in complete]
    log_scaled = {name for name, values in axes.items() if _is_wide(values)}
    places = np.array([_places(values, name in log_scaled) for name, values in axes.items()])
    drawn, axis = figure(max(6.6, 1.3 * len(axes)), 3.6)
    for column in np.argsort([-one["loss"] for one in complete], kind="stable"):
        axis.plot(places[:, column], color=_PLAIN, alpha=0.35, linewidth=1)
    marked = [(0, PALETTE[1], "default"), (found["chosen"], PALETTE[2], "chosen")]
    for trial, colour, label in marked:
        column = next(place for place, one in enumerate(complete) if one["number"] == trial)
        axis.plot(places[:, column], color=colour, linewidth=2.2, label=label)
    for place, (name, values) in enumerate(axes.items()):
        for height, value in _ticks(values, name in log_scaled):
            above = 8 if height > 0.99 else -8 if height < 0.01 else 0
            axis.annotate(value, (place, height), xytext=(4, above), textcoords="offset points", fontsize=7,
                          color=_PLAIN, va="center")  # fmt: skip
        axis.axvline(place, color=_PLAIN, linewidth=0.6)
    axis.set_xticks(range(len(axes)), [f"{name} (log)" if name in log_scaled else name for name in axes], rotation=20)
    axis.set_yticks([])
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=2, labelcolor=_PLAIN, frameon=False)
    return svg(drawn, "Each complete trial as a line over its parameters and its loss")


def _is_wide(values: Sequence[Any]) -> bool:
    numbers = [value for value in values if isinstance(value, int | float)]
    return len(numbers) == len(values) and min(numbers) > 0 and max(numbers) > 8 * min(numbers)


def _levels(values: Sequence[Any]) -> list[Any]:
    """The distinct values of an axis that has no numbers, in order."""
    return sorted(set(values), key=str)


def _scaled(values: Sequence[Any], wide: bool) -> Array:
    if not all(isinstance(value, int | float) for value in values):
        levels = _levels(values)
        return np.array([levels.index(value) for value in values], dtype=float)
    return np.log(values) if wide else np.array(values, dtype=float)


def _places(values: Sequence[Any], wide: bool) -> Array:
    """Scale an axis to 0 to 1."""
    scaled = _scaled(values, wide)
    span = scaled.max() - scaled.min()
    return np.asarray((scaled - scaled.min()) / span if span else np.full(len(scaled), 0.5))


def _ticks(values: Sequence[Any], wide: bool) -> list[tuple[float, str]]:
    """The heights and texts of an axis's ends, or of its few levels."""
    places, by_place = _places(values, wide), dict[float, str]()
    for place, value in zip(places, values, strict=True):
        by_place[float(place)] = _text(value)
    ends = sorted(by_place)
    return [(place, by_place[place]) for place in (ends if len(ends) <= 4 else [ends[0], ends[-1]])]

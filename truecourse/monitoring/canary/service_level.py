"""Whether a canary may go on: the challenger's answers held against the champion's, from the prediction log alone.

A request is one trial, however many rows it has: its rows fail, and are slow, together. A step is judged when the
challenger has had a tenth, three tenths and all of the requests that it needs, on those alone: asked as often as one
likes, the same requests give the same verdict. The chance of a false alarm is ALPHA for the whole canary, divided
evenly over its steps, these looks and the tests (Bonferroni). What labels say is asked apart: canaryquality.py.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array
from truecourse.monitoring.drift.histograms import Counts, learn_bins
from truecourse.monitoring.drift.permutation_test import permutation_test
from truecourse.problem import Problem
from truecourse.problem.promotion import Canary
from truecourse.references import Aliases, ModelVersion
from truecourse.wording import counted, counted_of

ALPHA = 0.05
LOOKS = (0.1, 0.3, 1.0)
"""Of a step's requests: when it is judged. It is widened at the last only."""
QUANTILES = (0.5, 0.95)
TESTS = 3 + len(QUANTILES)
"""Errors, the quantiles of latency, distribution, and quality (canaryquality.py)."""
LEEWAY = 0.05
"""So much larger than by definition may the share above a quantile be, which is itself only estimated."""
LEAST_SECONDS = 0.001
"""A delay below this is nobody's, whatever its ratio."""
FEWEST = 20
"""Requests of the champion with as many rows, below which it has no quantile to be held to."""
MAX_GROUPS = 400
"""Entities are put together into so many groups at most, which the permutations keep whole."""
GRACE = timedelta(seconds=60)
"""An endpoint has followed the aliases by then, and tried again what it refused."""


@dataclass(frozen=True)
class StepResult:
    """`cause`: what is wrong where it is withdrawn: errors, latency, distribution, refused, or quality."""

    action: Literal["widen", "withdraw", "wait"]
    sentence: str
    cause: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """The step that a canary is at. `moves`: when each of its steps began, this one last."""

    champion: ModelVersion
    challenger: ModelVersion
    share: float
    moves: tuple[datetime, ...]

    @property
    def began(self) -> datetime:
        """When the canary did."""
        return self.moves[0]

    @property
    def at(self) -> datetime:
        """When this step did."""
        return self.moves[-1]


def step_of(entries: list[Aliases]) -> Step | None:
    """From the history of the aliases, oldest first. None where no challenger takes a share of the traffic."""
    if not entries or entries[-1].champion is None or entries[-1].challenger is None or not entries[-1].share:
        return None
    now, moves = entries[-1], list[datetime]()
    for entry in reversed(entries):
        if (entry.champion, entry.challenger) != (now.champion, now.challenger) or not entry.share:
            break
        moves.append(entry.at)
    assert now.champion is not None
    assert now.challenger is not None
    return Step(now.champion, now.challenger, now.share, tuple(reversed(moves)))


def evaluate_step(problem: Problem, canary: Canary, step: Step, records: pa.Table) -> StepResult:
    """`records`: the prediction log from `step.began` on.

    The champion's side are its answers of the same step; where the challenger answers everything, those since the
    canary began, but for latency: a machine has busier hours, and those are not the challenger's fault. Those that
    failed are the challenger's, though the champion answered for them."""
    challenger, champion = _sides(step, records)
    given = np.unique(request_times(challenger))
    marks = [max(1, round(look * canary.requests)) for look in LOOKS]
    reached = max((mark for mark in marks if mark <= len(given)), default=0)
    told: dict[str, Any] = {"share": step.share, "requests": len(given), "wanted": canary.requests, "judged": reached}
    if not len(given) and (why := _refused(problem, step, records)):
        return StepResult("withdraw", why, "refused", told)
    waits = StepResult(
        "wait", f"{counted_of(len(given), canary.requests, 'request')} that this step needs", figures=told
    )
    if not reached:
        return waits
    alpha = ALPHA / (len(canary.steps) * len(LOOKS) * TESTS)
    until = given[reached - 1]
    seen, rival = (side.filter(pa.array(request_times(side) <= until)) for side in (challenger, champion))
    tests = {"errors": _errors, "latency": _latency, "distribution": _distribution}
    if step.share >= 1:
        del tests["latency"]
    for cause, test in tests.items():
        fault, figures = test(problem, canary, seen, rival, alpha)
        told |= {cause: figures}
        if fault:
            return StepResult("withdraw", fault, cause, told)
    if reached < canary.requests:
        return waits
    return StepResult(
        "widen", f"{counted(reached, 'request')} without more errors, delay or another distribution", figures=told
    )


def _sides(step: Step, records: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The challenger's records of the step, and the champion's that they are held against."""
    failed = pc.and_(pc.equal(records["role"], "shadow"), pc.is_valid(records["error"]))
    theirs = pc.and_(_of(records, step.challenger), pc.or_(pc.equal(records["role"], "challenger"), failed))
    ours = pc.and_(_of(records, step.champion), pc.equal(records["role"], "champion"))
    since = step.began if step.share >= 1 else step.at
    return _since(records.filter(theirs), step.at), _since(records.filter(ours), since)


def _of(records: pa.Table, version: ModelVersion) -> Any:
    return pc.equal(records["model_sha256"], version.model_sha256)


def _since(records: pa.Table, moment: datetime) -> pa.Table:
    return records.filter(pc.greater_equal(records["at"], pa.scalar(moment, records["at"].type)))


def request_times(records: pa.Table) -> Array:
    """Of each row's request: what tells requests apart, to the microsecond."""
    return np.asarray(records["at"].cast(pa.int64()).to_numpy())


def _requests(records: pa.Table) -> Array:
    """The place of the first row of each request."""
    return np.asarray(np.unique(request_times(records), return_index=True)[1])


def _refused(problem: Problem, step: Step, records: pa.Table) -> str:
    """Why it counts as refused: entities enough were answered since, of which the challenger should have had some."""
    asked = set(_entities(problem, _since(records, step.at + GRACE)))
    if not asked or (1 - step.share) ** len(asked) > ALPHA / TESTS:
        return ""
    return f"the endpoint answers without it ({len(asked)} entities, none of them by the challenger): it refuses it"


def _errors(
    problem: Problem, canary: Canary, seen: pa.Table, rival: pa.Table, alpha: float
) -> tuple[str, dict[str, Any]]:
    """The exact binomial test of its failures against the rate that is allowed."""
    first = seen.take(pa.array(_requests(seen)))
    failed, count = first["error"].drop_null(), len(first)
    p_value = _at_least(len(failed), count, canary.errors)
    figures = {"failed": len(failed), "requests": count, "p": p_value}
    if p_value > alpha:
        return "", figures
    kinds = ", ".join(sorted(failed.unique().to_pylist()))
    return (
        f"it failed on {counted_of(len(failed), count, 'request')} ({kinds}); {canary.errors:.2%} are allowed",
        figures,
    )


def _latency(
    problem: Problem, canary: Canary, seen: pa.Table, rival: pa.Table, alpha: float
) -> tuple[str, dict[str, Any]]:
    """Of requests of as many rows: are more of them above what is allowed than lie above the champion's quantile?"""
    sizes, times = _timed(seen)
    rival_sizes, rival_times = _timed(rival)
    known = [size for size in np.unique(sizes) if (rival_sizes == size).sum() >= FEWEST]
    figures: dict[str, Any] = {}
    for quantile in QUANTILES:
        above = count = 0
        for size in known:
            usual = float(np.quantile(rival_times[rival_sizes == size], quantile))
            here = times[sizes == size]
            above += int((here > max(canary.slower * usual, usual + LEAST_SECONDS)).sum())
            count += len(here)
        p_value = _at_least(above, count, 1 - quantile + LEEWAY)
        medians = [1e3 * float(np.median(s)) if len(s) else None for s in (times, rival_times)]
        figures[f"{quantile:g}"] = {"above": above, "requests": count, "p": p_value, "median_ms": medians}
        if p_value <= alpha:
            limit = f"{canary.slower:g} times the champion's {quantile:.0%} quantile"
            usual_ms = f"median {medians[0]:.1f} ms, the champion's {medians[1]:.1f} ms"
            return f"it is slower: {counted_of(above, count, 'request')} took more than {limit} ({usual_ms})", figures
    return "", figures


def _at_least(hits: int, trials: int, chance: float) -> float:
    """The chance of so many hits or more: the exact upper tail of the binomial distribution."""
    whole = math.lgamma(trials + 1)
    return min(
        1.0,
        math.fsum(
            math.exp(
                whole
                - math.lgamma(k + 1)
                - math.lgamma(trials - k + 1)
                + k * math.log(chance)
                + (trials - k) * math.log1p(-chance)
            )
            for k in range(hits, trials + 1)
        ),
    )


def _timed(records: pa.Table) -> tuple[Array, Array]:
    """(requests,) rows scored together, and the seconds that took, of the requests that were answered."""
    first = records.take(pa.array(_requests(records)))
    first = first.filter(pc.and_(pc.is_valid(first["seconds"]), pc.is_null(first["error"])))
    return np.asarray(first["batch"].to_numpy()), np.asarray(first["seconds"].to_numpy())


def _distribution(
    problem: Problem, canary: Canary, seen: pa.Table, rival: pa.Table, alpha: float
) -> tuple[str, dict[str, Any]]:
    """PSI of the scores (of the classes, where there are several), and its significance over permutations that keep an
    entity whole: who has a share of the entities has other scores for that alone."""
    column = "prediction" if problem.kind == "multiclass" else "score"
    sides = [side.filter(pc.is_valid(side[column])) for side in (rival, seen)]
    if min(len(side) for side in sides) < FEWEST:
        return "", {}
    bins = learn_bins(sides[0], [column])
    before, after = (Counts.of(bins, side, entity_groups(problem, side)) for side in sides)
    permutations = int(np.ceil(2 / alpha))
    value, p_value = permutation_test(before, after, np.array([0]), permutations)
    psi, p = float(value[0]), float(p_value[0])
    figures = {"psi": psi, "p": p, "entities": [len(before.matrix), len(after.matrix)]}
    if p > alpha or psi <= canary.psi:
        return "", figures
    return f"its {column}s are distributed otherwise: PSI {psi:.2f}, and {canary.psi:g} is allowed", figures


def entity_groups(problem: Problem, records: pa.Table) -> Array:
    """The group of each row, numbered from 0 without gaps; rows of an entity are of one group."""
    numbers = np.unique(_entities(problem, records), return_inverse=True)[1]
    return np.asarray(np.unique(numbers % MAX_GROUPS, return_inverse=True)[1])


def _entities(problem: Problem, records: pa.Table) -> list[str]:
    """Of each row: the keys of the problem's entities as the log has them, or the row's id, or all that was sent."""
    keys = {key for entity in problem.entities for key in entity.join_keys}
    found = []
    for text, given in zip(records["request"].to_pylist(), records["id"].to_pylist(), strict=True):
        request = json.loads(text) if text else {}
        known = {key: request[key] for key in sorted(keys & request.keys())}
        found.append(json.dumps(known) if known else str(given) if given is not None else text or "")
    return found

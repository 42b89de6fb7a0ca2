"""The canary's service level: the challenger's errors, latency and scores compared with the champion's.

All figures come from the prediction log. A request is one trial, however many rows it has, because its rows fail or are
slow together. A step is evaluated three times: at a tenth, three tenths and all of the requests that it needs. Each
evaluation uses exactly these requests, so repeating it gives the same result. The probability of a false alarm is ALPHA
for the whole canary, divided evenly over steps, evaluations and tests (Bonferroni). canary_quality.py uses labels.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array
from truecourse.monitoring.drift.histograms import Counts, learn_bins
from truecourse.monitoring.drift.permutation_test import permutation_test
from truecourse.monitoring.finding_causes import RollbackCause
from truecourse.problem import Problem
from truecourse.problem.promotion import Canary
from truecourse.references import Aliases, ModelVersion
from truecourse.wording import counted, counted_of

ALPHA = 0.05
LOOKS = (0.1, 0.3, 1.0)
"""Shares of a step's requests at which it is evaluated. Traffic is increased at the last one only."""
QUANTILES = (0.5, 0.95)
TESTS = 3 + len(QUANTILES)
"""Errors, the quantiles of latency, the distribution of scores, and quality (canary_quality.py)."""
LEEWAY = 0.05
"""Tolerance on the share of requests above a quantile, because the champion's quantile is only estimated."""
LEAST_SECONDS = 0.001
"""Differences of latency below this are ignored, whatever their ratio."""
FEWEST = 20
"""Requests of the champion with as many rows that a comparison needs."""
MAX_GROUPS = 400
"""Entities are combined into at most this many groups, which permutations do not split."""
GRACE = timedelta(seconds=60)
"""After this time every endpoint has read the new aliases, and has retried a version it refused."""

ServiceTest = Callable[[Problem, Canary, pa.Table, pa.Table, float], tuple[str, dict[str, Any]]]
"""Tests the challenger against the champion. Returns what failed, empty if it passed, and the figures."""


@dataclass(frozen=True)
class StepResult:
    """The result of evaluating a step: "widen" (increase traffic), "roll back" or "wait".

    `cause`: why it is rolled back; empty for another action."""

    action: Literal["widen", "roll back", "wait"]
    sentence: str
    cause: RollbackCause | Literal[""] = ""
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """The current step of a canary. `starts`: when each of its steps started, the current one last."""

    champion: ModelVersion
    challenger: ModelVersion
    share: float
    starts: tuple[datetime, ...]

    @property
    def canary_started(self) -> datetime:
        """When the canary started."""
        return self.starts[0]

    @property
    def started(self) -> datetime:
        """When this step started."""
        return self.starts[-1]


def step_of(entries: list[Aliases]) -> Step | None:
    """Return the current step from the alias history (oldest first); None if no challenger has a share of traffic."""
    if not entries or entries[-1].champion is None or entries[-1].challenger is None or not entries[-1].share:
        return None
    now, starts = entries[-1], list[datetime]()
    for entry in reversed(entries):
        if (entry.champion, entry.challenger) != (now.champion, now.challenger) or not entry.share:
            break
        starts.append(entry.at)
    assert now.champion is not None
    assert now.challenger is not None
    return Step(now.champion, now.challenger, now.share, tuple(reversed(starts)))


def evaluate_step(problem: Problem, canary: Canary, step: Step, records: pa.Table) -> StepResult:
    """Evaluate a step. `records`: the prediction log since `step.canary_started`.

    The challenger is compared with the champion's predictions of the same step. At a share of 100% the champion has
    none, so its predictions since the start of the canary are used, but not for latency, which varies with load over
    the day. Requests that failed count for the challenger, although the champion answered them instead."""
    challenger, champion = _sides(step, records)
    given = np.unique(request_times(challenger))
    marks = [max(1, round(look * canary.requests)) for look in LOOKS]
    reached = max((mark for mark in marks if mark <= len(given)), default=0)
    figures: dict[str, Any] = {"share": step.share, "requests": len(given)}
    figures |= {"wanted": canary.requests, "evaluated": reached}
    if not len(given) and (why := _refused(problem, step, records)):
        return StepResult("roll back", why, "refused", figures)
    progress = f"{counted_of(len(given), canary.requests, 'request')} that this step needs"
    wait = StepResult("wait", progress, figures=figures)
    if not reached:
        return wait
    alpha = ALPHA / (len(canary.steps) * len(LOOKS) * TESTS)
    until = given[reached - 1]
    challenger, champion = (side.filter(pa.array(request_times(side) <= until)) for side in (challenger, champion))
    tests: dict[RollbackCause, ServiceTest] = {
        "errors": _errors,
        "latency": _latency,
        "distribution": _distribution,
    }
    if step.share >= 1:
        del tests["latency"]
    for cause, test in tests.items():
        failure, test_figures = test(problem, canary, challenger, champion, alpha)
        figures |= {cause: test_figures}
        if failure:
            return StepResult("roll back", failure, cause, figures)
    if reached < canary.requests:
        return wait
    success = f"{counted(reached, 'request')} without more errors, higher latency or a different score distribution"
    return StepResult("widen", success, figures=figures)


def _sides(step: Step, records: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Return the challenger's records of the step, and the champion's records to compare them with."""
    failed = pc.and_(pc.equal(records["role"], "shadow"), pc.is_valid(records["error"]))
    challenger = pc.and_(_of(records, step.challenger), pc.or_(pc.equal(records["role"], "challenger"), failed))
    champion = pc.and_(_of(records, step.champion), pc.equal(records["role"], "champion"))
    since = step.canary_started if step.share >= 1 else step.started
    return _since(records.filter(challenger), step.started), _since(records.filter(champion), since)


def _of(records: pa.Table, version: ModelVersion) -> Any:
    return pc.equal(records["model_sha256"], version.model_sha256)


def _since(records: pa.Table, moment: datetime) -> pa.Table:
    return records.filter(pc.greater_equal(records["at"], pa.scalar(moment, records["at"].type)))


def request_times(records: pa.Table) -> Array:
    """Return the time of each row's request in microseconds; it identifies the request."""
    return np.asarray(records["at"].cast(pa.int64()).to_numpy())


def _first_rows(records: pa.Table) -> Array:
    """Return the index of the first row of each request."""
    return np.asarray(np.unique(request_times(records), return_index=True)[1])


def _refused(problem: Problem, step: Step, records: pa.Table) -> str:
    """Return why the endpoint seems to refuse the challenger; empty if it does not.

    It does if so many entities got predictions that the challenger should have answered some of them."""
    entities = set(_entities(problem, _since(records, step.started + GRACE)))
    if not entities or (1 - step.share) ** len(entities) > ALPHA / TESTS:
        return ""
    return f"the endpoint refuses it: {len(entities)} entities got predictions, none from the challenger"


def _errors(
    problem: Problem, canary: Canary, challenger: pa.Table, champion: pa.Table, alpha: float
) -> tuple[str, dict[str, Any]]:
    """Test the challenger's failures against the allowed rate (exact binomial test)."""
    first = challenger.take(pa.array(_first_rows(challenger)))
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
    problem: Problem, canary: Canary, challenger: pa.Table, champion: pa.Table, alpha: float
) -> tuple[str, dict[str, Any]]:
    """Test whether too many requests are slower than the champion's quantile, for requests with as many rows."""
    sizes, times = _batch_times(challenger)
    champion_sizes, champion_times = _batch_times(champion)
    comparable = [size for size in np.unique(sizes) if (champion_sizes == size).sum() >= FEWEST]
    figures: dict[str, Any] = {}
    for quantile in QUANTILES:
        above = count = 0
        for size in comparable:
            usual = float(np.quantile(champion_times[champion_sizes == size], quantile))
            here = times[sizes == size]
            above += int((here > max(canary.slower * usual, usual + LEAST_SECONDS)).sum())
            count += len(here)
        p_value = _at_least(above, count, 1 - quantile + LEEWAY)
        medians = [1e3 * float(np.median(s)) if len(s) else None for s in (times, champion_times)]
        figures[f"{quantile:g}"] = {"above": above, "requests": count, "p": p_value, "median_ms": medians}
        if p_value <= alpha:
            limit = f"{canary.slower:g} times the champion's {quantile:.0%} quantile"
            usual_ms = f"median {medians[0]:.1f} ms, the champion's {medians[1]:.1f} ms"
            return f"it is slower: {counted_of(above, count, 'request')} took more than {limit} ({usual_ms})", figures
    return "", figures


def _at_least(hits: int, trials: int, chance: float) -> float:
    """Return the probability of so many hits or more: the exact upper tail of the binomial distribution."""
    log_factorial = math.lgamma(trials + 1)
    return min(
        1.0,
        math.fsum(
            math.exp(
                log_factorial
                - math.lgamma(k + 1)
                - math.lgamma(trials - k + 1)
                + k * math.log(chance)
                + (trials - k) * math.log1p(-chance)
            )
            for k in range(hits, trials + 1)
        ),
    )


def _batch_times(records: pa.Table) -> tuple[Array, Array]:
    """Return the number of rows and the seconds of each answered request; both (requests,)."""
    first = records.take(pa.array(_first_rows(records)))
    first = first.filter(pc.and_(pc.is_valid(first["seconds"]), pc.is_null(first["error"])))
    return np.asarray(first["batch"].to_numpy()), np.asarray(first["seconds"].to_numpy())


def _distribution(
    problem: Problem, canary: Canary, challenger: pa.Table, champion: pa.Table, alpha: float
) -> tuple[str, dict[str, Any]]:
    """Test the PSI of the scores (for several classes, of the predicted class) by a permutation test.

    Permutations do not split entities, because two sets of entities have different scores by chance."""
    column = "prediction" if problem.kind == "multiclass" else "score"
    sides = [side.filter(pc.is_valid(side[column])) for side in (champion, challenger)]
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
    return f"the distribution of its {column}s differs: PSI {psi:.2f}, {canary.psi:g} is allowed", figures


def entity_groups(problem: Problem, records: pa.Table) -> Array:
    """Return the group of each row, numbered from 0 without gaps; rows of an entity are in one group."""
    numbers = np.unique(_entities(problem, records), return_inverse=True)[1]
    return np.asarray(np.unique(numbers % MAX_GROUPS, return_inverse=True)[1])


def _entities(problem: Problem, records: pa.Table) -> list[str]:
    """Return each row's entity: its join keys in the logged request, else the row's id, else the whole request."""
    keys = {*problem.entity_keys}
    entities = []
    for text, given in zip(records["request"].to_pylist(), records["id"].to_pylist(), strict=True):
        request = json.loads(text) if text else {}
        known = {key: request[key] for key in sorted(keys & request.keys())}
        entities.append(json.dumps(known) if known else str(given) if given is not None else text or "")
    return entities

"""Every cause of a finding, by check: what it means, what it concerns, and when it is critical.

A check passes one of these names to its findings. The reference page of checks is generated from this module.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from truecourse.monitoring.findings import BROKEN, Check, State

Cause = Literal[
    "backlog", "budget spent", "check broken", "concept drift", "contribution drift", "crashed", "damaged", "dead feed",
    "deleted", "down", "drift", "dropped", "empty", "failed", "fast burn", "file lost", "foreign", "full",
    "label rule", "labels late", "labels missing", "late", "artifacts", "asked afterwards", "code", "late data",
    "metrics unreadable", "misses", "missing", "missing values", "moved", "new category", "new class", "no answer",
    "no worker", "not computed", "not loaded", "overdue", "overload", "prediction drift", "purged", "quarantine",
    "refused delivery", "relation drift", "renamed", "rolled back", "selective labels", "silence", "silent", "slow",
    "slow burn", "stale value", "stuck", "tags", "threshold drift", "unit change", "validation", "volume",
    "waits for a slot",
]  # fmt: skip
"""The cause of a finding."""
RollbackCause = Literal["errors", "latency", "distribution", "refused", "quality", "gates", "unlogged"]
"""Why a canary was rolled back."""


@dataclass(frozen=True)
class CauseInfo:
    """What a cause means. `subject`: what the finding concerns. `critical`: when it is critical, ALWAYS or NEVER."""

    subject: str
    meaning: str
    critical: str


ALWAYS, NEVER = "always", "never"
STATES: Mapping[State, str] = {
    "critical": "A finding is critical: people are notified.",
    "warning": "There are findings, and none is critical.",
    "ok": "The check ran on enough data and found nothing.",
    "unknown": "The check could not run, or had too little data. It never counts as `ok`.",
}
"""What each state of a check means."""
SUBJECTS: Mapping[Check, str] = {
    "drift": "Distributions of features and scores, and broken input data, against the champion's training rows.",
    "quality": "The champion's closed cohorts, whose labels are complete, against its baseline.",
    "skew": "Served feature values and scores, against values that are computed again from the tables.",
    "pipelines": "Freshness of tables, features and the online store; scheduled flows, platform and prediction log.",
    "endpoint": "The endpoint's metrics, against the service level objectives of the problem.",
    "machine": "Load, memory and disk of the machine that runs the check.",
    "registry": "Files of the models in use, and whether MLflow shows what the registry records.",
    "canary": "A canary: whether it is rolled back, or has no requests to evaluate.",
}
"""What each check examines."""
CAUSES: Mapping[Check, Mapping[Cause, CauseInfo]] = {
    "drift": {
        "dead feed": CauseInfo(
            "a column or view",
            "Less than a quarter of the usual values are present, and less than half of what almost all days had.",
            ALWAYS,
        ),
        "missing values": CauseInfo(
            "a column or view",
            "At least 10 percentage points more values are missing than on almost all days, significantly.",
            "from 20 percentage points",
        ),
        "new category": CauseInfo(
            "a column", "A category that training did not have is in at least 0.2% of rows.", "from 1% of rows"
        ),
        "unit change": CauseInfo(
            "a column", "Values absent from training become training values when a unit is converted back.", ALWAYS
        ),
        "volume": CauseInfo(
            "the problem", "A day has less than half or more than twice the usual number of predictions.", ALWAYS
        ),
        "silence": CauseInfo(
            "the problem", "No prediction came for 1.5 times the longest past gap, and for at least a day.", ALWAYS
        ),
        "drift": CauseInfo(
            "a column",
            "A feature's distribution changed faster than it ever did, beyond its seasonal range.",
            "if it is twice as far as any change up to four weeks before, with a PSI above `Monitoring.psi`",
        ),
        "prediction drift": CauseInfo(
            "a score column",
            "The distribution of the scores changed faster than it ever did, beyond its seasonal range.",
            "if it is twice as far as any change up to four weeks before, with a PSI above `Monitoring.psi`",
        ),
        "relation drift": CauseInfo(
            "a column", "A column has the usual values, but its relation to the other columns changed.", NEVER
        ),
        "contribution drift": CauseInfo(
            "a column", "A feature's share in the SHAP contributions, or its mean contribution, changed.", NEVER
        ),
    },
    "quality": {
        "labels missing": CauseInfo(
            "labels",
            "The newest closed cohort has less than `QualityWatch.coverage` of the usual share of labels.",
            "below half of that",
        ),
        "labels late": CauseInfo(
            "labels", "Labels of the newest closed cohort took 1.5 times as long as usual, or longer.", NEVER
        ),
        "selective labels": CauseInfo(
            "labels",
            "Whether a decision gets a label depends on its score otherwise than before.",
            ALWAYS,
        ),
        "label rule": CauseInfo(
            "label", "Labels contradict the label model: they seem to be defined by another rule.", ALWAYS
        ),
        "concept drift": CauseInfo(
            "the metric",
            "Outcomes are above or below the predictions, or the loss is higher than expected, significantly.",
            ALWAYS,
        ),
        "threshold drift": CauseInfo(
            "the threshold", "Another threshold would have cost less on the closed cohorts, beyond noise.", NEVER
        ),
        "new class": CauseInfo("label", "Labels are of classes that training did not have.", ALWAYS),
    },
    "skew": {
        "code": CauseInfo(
            "a feature, score or model",
            "The same inputs give another value offline, or the logged model is not in the registry.",
            ALWAYS,
        ),
        "missing": CauseInfo("a view", "Only one of the online store and the tables has a value.", ALWAYS),
        "stale value": CauseInfo(
            "a view",
            "The online store served a value that had been replaced or had expired.",
            "if more than `audit_share` of the rows are older than `audit_lag`",
        ),
        "late data": CauseInfo(
            "a view", "The differing value was recorded after the decision; the value known then agrees.", NEVER
        ),
        "asked afterwards": CauseInfo(
            "a view", "The request came after its decision time, when the store already held newer values.", NEVER
        ),
    },
    "pipelines": {
        "dead feed": CauseInfo(
            "a table",
            "A table has had no new rows for longer than declared, than ever before, or than a view's `ttl`.",
            "always with a declared limit or a `ttl`; else from 2.5 times the longest gap",
        ),
        "volume": CauseInfo("a table", "A delivery has far fewer or far more rows than all before.", NEVER),
        "quarantine": CauseInfo("a table", "A delivery has a larger share of quarantined rows than any before.", NEVER),
        "refused delivery": CauseInfo("a table", "A delivery was refused and has not been replaced since.", ALWAYS),
        "validation": CauseInfo("a table", "In a replay, a delivery broke a critical expectation.", ALWAYS),
        "not computed": CauseInfo(
            "features of a view", "A view's features have been behind their tables for more than a day.", NEVER
        ),
        "not loaded": CauseInfo(
            "a view online",
            "The online store is behind the feature table by more than a day.",
            "if its values have expired (`ttl`)",
        ),
        "no answer": CauseInfo("the online store", "The online store does not answer.", ALWAYS),
        "overdue": CauseInfo("a flow", "A scheduled run did not start.", ALWAYS),
        "no worker": CauseInfo("a flow", "A scheduled run did not start, because there is no worker.", ALWAYS),
        "failed": CauseInfo(
            "a flow",
            "The last run failed.",
            "always, unless the flow runs at least hourly and failed once",
        ),
        "crashed": CauseInfo(
            "a flow",
            "The process of the last run died.",
            "always, unless the flow runs at least hourly and crashed once",
        ),
        "slow": CauseInfo("a flow", "A run takes far longer than usual.", NEVER),
        "stuck": CauseInfo("a flow", "A run is pending, cancelling or running for too long.", ALWAYS),
        "late": CauseInfo("a flow", "A run should have started, and no worker takes it.", ALWAYS),
        "waits for a slot": CauseInfo("a flow", "A run waits too long for a concurrency slot.", ALWAYS),
        "down": CauseInfo("a part of the platform", "A process of `truecourse up` died.", ALWAYS),
        "silent": CauseInfo("a part of the platform", "A process of `truecourse up` does not answer.", ALWAYS),
        "backlog": CauseInfo(
            "the prediction log",
            "Logged predictions wait for long to be shipped, or take half of the disk space for them.",
            "from half of the disk space (`TRUECOURSE_LOG_DISK`)",
        ),
        "damaged": CauseInfo("the prediction log", "Segments of the log were damaged and set aside.", NEVER),
    },
    "endpoint": {
        "no answer": CauseInfo(
            "reachability, a view or a dependency",
            "The endpoint does not answer, or it cannot reach its online store or another dependency.",
            "if the endpoint does not answer",
        ),
        "metrics unreadable": CauseInfo("metrics", "The endpoint answers, but its metrics cannot be read.", NEVER),
        "fast burn": CauseInfo(
            "availability or latency",
            "The error budget burns so fast that it is spent within days.",
            ALWAYS,
        ),
        "slow burn": CauseInfo(
            "availability or latency", "The error budget burns faster than it should, over three days.", NEVER
        ),
        "budget spent": CauseInfo(
            "availability or latency", "The objective was missed: the window's error budget is spent.", NEVER
        ),
        "overload": CauseInfo("saturation", "More than 1% of the last hour's requests were refused.", NEVER),
        "misses": CauseInfo(
            "features of a view",
            "The share of keys without a fresh value rose by more than 10 percentage points.",
            NEVER,
        ),
        "dropped": CauseInfo("the log", "The endpoint dropped records of the prediction log.", ALWAYS),
    },
    "machine": {
        "overload": CauseInfo(
            "processors", "The 5-minute load per processor is above `TRUECOURSE_MACHINE_CPU`.", NEVER
        ),
        "full": CauseInfo(
            "memory or a disk",
            "More is used than `TRUECOURSE_MACHINE_MEMORY` or `TRUECOURSE_MACHINE_DISK`.",
            "if half of the rest is used too",
        ),
    },
    "registry": {
        "file lost": CauseInfo("a version", "A file that a model in use needs is missing in storage.", ALWAYS),
        "no answer": CauseInfo("MLflow", "MLflow does not answer, so it was not compared.", NEVER),
        "empty": CauseInfo("MLflow", "MLflow's database is missing.", NEVER),
        "deleted": CauseInfo(
            "an experiment, runs, versions or an alias", "It was deleted in MLflow; the registry has it.", NEVER
        ),
        "renamed": CauseInfo("an experiment or registered model", "It was renamed in MLflow.", NEVER),
        "purged": CauseInfo("runs", "MLflow runs were removed from its database.", NEVER),
        "tags": CauseInfo("runs or versions", "Tags in MLflow differ from the registry.", NEVER),
        "artifacts": CauseInfo("runs", "Artifacts of MLflow runs are missing.", NEVER),
        "foreign": CauseInfo("a version", "MLflow has a version that the registry does not have.", NEVER),
        "moved": CauseInfo("an alias", "MLflow's alias names another version than the registry.", NEVER),
    },
    "canary": {
        "rolled back": CauseInfo("a version", "The canary was rolled back; the sentence says why.", ALWAYS),
        "silent": CauseInfo("a version", "Nothing was logged for an hour, so the canary cannot be evaluated.", ALWAYS),
    },
}
"""The causes of each check's findings."""
BROKEN_INFO = CauseInfo("the check", "The check itself failed with an error; its result is unknown.", ALWAYS)
"""The cause that every check may have."""
ROLLBACKS: Mapping[RollbackCause, str] = {
    "errors": "More of the challenger's requests failed than `Canary.errors`.",
    "latency": "The challenger's latency is above `Canary.slower` times the champion's.",
    "distribution": "The challenger's scores differ from the champion's by more than `Canary.psi`.",
    "refused": "An endpoint cannot load the challenger.",
    "quality": "The challenger's loss on labelled requests is significantly above the champion's.",
    "gates": "A gate failed when it was evaluated again before the promotion.",
    "unlogged": "The prediction log is off, so the canary could not be evaluated.",
}
"""Why a canary is rolled back, as its report records it."""


def describe_cause(check: Check, cause: str) -> CauseInfo | None:
    """Look up a cause; None for one that only older reports have."""
    found = {str(name): info for name, info in CAUSES[check].items()} | {BROKEN: BROKEN_INFO}
    return found.get(cause)

"""Which model versions read a feature, by which definition, and its mean absolute SHAP value in each."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from truecourse.catalogue.declared_features import LABEL
from truecourse.catalogue.records import Use
from truecourse.errors import NotFound
from truecourse.features.definition_digests import feature_definitions, label_definition
from truecourse.modeling.encoding import Vocabulary
from truecourse.problem import Problem
from truecourse.references import ModelVersion
from truecourse.registry import aliases
from truecourse.registry import versions as registry
from truecourse.serving.contract import Contract

MOST_VERSIONS = 20
"""The number of newest versions that are read, besides champion and challenger."""
Definition = Literal["same", "earlier", "unknown"]


@dataclass(frozen=True)
class Definitions:
    """Today's digests of a problem's features and label, each in all forms that releases have recorded."""

    features: tuple[dict[str, str], ...]
    label: tuple[str, ...]

    @classmethod
    def of(cls, problem: Problem) -> "Definitions":
        forms = (False, True)
        return cls(
            features=tuple(feature_definitions(problem, former=former) for former in forms),
            label=tuple(label_definition(problem, former=former) for former in forms),
        )

    def compare(self, contract: Contract, name: str) -> Definition:
        """Compare a feature's definition with that in a model's contract. `name`: LABEL is the label."""
        recorded = contract.label_definition if name == LABEL else contract.definitions.get(name, "")
        if not recorded:
            return "unknown"
        now = self.label if name == LABEL else tuple(form.get(name) for form in self.features)
        return "same" if recorded in now else "earlier"


@dataclass(frozen=True)
class ModelUse:
    """The uses of each feature, newest version first; of LABEL, those of the label. Versions as in Catalogue."""

    uses: dict[str, list[Use]]
    versions: int
    listed: tuple[int, ...]
    unread: tuple[int, ...]


def model_use(problem: Problem, definitions: Definitions) -> ModelUse:
    """Read the newest versions of a problem, its champion and its challenger."""
    every, now = registry.versions(problem.name), aliases.current(problem.name)
    roles = {version.version: role for role, version in (("challenger", now.challenger), ("champion", now.champion))
             if version is not None}  # fmt: skip
    newest = {version.version for version in every[-MOST_VERSIONS:]}
    listed = [version for version in reversed(every) if version.version in newest | roles.keys()]
    uses: dict[str, list[Use]] = {}
    unread = []
    for version in listed:
        try:
            found = list(_uses(version, definitions, roles.get(version.version, ""), problem.contribution_unit))
        except NotFound:
            unread.append(version.version)
            continue
        for name, use in found:
            uses.setdefault(name, []).append(use)
    return ModelUse(uses, len(every), tuple(version.version for version in listed), tuple(unread))


def _uses(version: ModelVersion, definitions: Definitions, role: str, unit: str) -> Iterator[tuple[str, Use]]:
    """The use of each input of a version, and of the label. Raises NotFound if its files are gone."""
    contract = Contract.from_json(registry.artifact(version.run_id, "model/contract.json"))
    inputs = Vocabulary.from_json(registry.artifact(version.run_id, "model/vocabulary.json")).features
    contributions = _contributions(version)
    common = {
        "problem": version.problem,
        "version": version.version,
        "role": role,
        "features": len(inputs),
        "unit": unit,
    }
    for name in inputs:
        own = contributions.get(name)
        rank = None if own is None else 1 + sum(other > own for other in contributions.values())
        yield name, Use(**common, definition=definitions.compare(contract, name), rank=rank, contribution=own)
    yield LABEL, Use(**common, definition=definitions.compare(contract, LABEL))


def _contributions(version: ModelVersion) -> dict[str, float]:
    """The mean absolute SHAP value of each input; empty for versions that were evaluated before it was recorded."""
    try:
        report = json.loads(registry.artifact(version.run_id, "report.json"))
    except NotFound:
        return {}
    found: dict[str, float] = report.get("contributions", {})
    return found

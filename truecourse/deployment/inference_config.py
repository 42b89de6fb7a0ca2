"""The inference configuration: everything that scoring needs, in one typed document next to the model.

It is `model/inference.json` in a Bento and `inference/<problem>/<version>.json` in object storage; its SHA-256 is a tag
of the model version. services/model/scoring_script.py scores by it.
"""

import sys
from collections.abc import Mapping
from typing import Any

from truecourse.errors import ModelError
from truecourse.hashing import sha256
from truecourse.modeling.encoding import FeatureKind, Vocabulary
from truecourse.problem import Problem
from truecourse.problem.definition import Kind
from truecourse.problem.loader import problem_digest
from truecourse.references import ArtifactRef, ModelVersion, Reference, StoredRecord
from truecourse.registry import runs
from truecourse.registry import versions as registry
from truecourse.registry.run_archive import requirements
from truecourse.storage.object_store import ObjectStore, put_artifact
from truecourse.storage.redactions import get_artifact

INFERENCE_SHA256, INFERENCE_FILE = "truecourse.inference_sha256", "inference.json"
MODEL_FILES = ("model.ubj", "vocabulary.json", "contract.json", "problem.json")
SCRIPT = "services/model/scoring_script.py"


class FeatureSource(Reference):
    """The source of a model input: `request`, `request function`, or `view NAME` of the online store.

    `ttl`: the maximum age of a view's value in seconds, 0 for unlimited."""

    kind: FeatureKind
    source: str
    ttl: float | None = None


class Environment(Reference):
    """The environment of packaging: Python version and SHA-256 of the locked requirements."""

    python: str
    requirements_sha256: str


class InferenceConfig(StoredRecord):
    """The inference configuration of a model version.

    `form`: the model's form, in words. `features`: in the order of the model's inputs. `files`: of the model, with
    their SHA-256. `script`: the Bento's scoring script, with init() to load the model and run() to score."""

    problem: str
    kind: Kind
    version: int
    run_id: str
    model_sha256: str
    snapshot: str | None
    problem_digest: str
    form: str
    features: dict[str, FeatureSource]
    environment: Environment
    script: str = SCRIPT
    files: dict[str, str]

    def to_document(self) -> dict[str, Any]:
        """Return the configuration as an endpoint shows it, without the number of the stored format."""
        return self.model_dump(mode="json", exclude={"format"})

    def to_json(self) -> bytes:
        return self.model_dump_json(indent=1).encode()


def model_files(version: ModelVersion) -> dict[str, bytes]:
    """Read the model's files from its training run, by name."""
    return {name: registry.artifact(version.run_id, f"model/{name}") for name in MODEL_FILES}


def inference_config(problem: Problem, version: ModelVersion, files: Mapping[str, bytes]) -> InferenceConfig:
    """Build the configuration of a registered version. `files`: model_files().

    Raises ModelError for a run of an older Truecourse."""
    entry = runs.load_record(problem.name, version.run_id)
    if runs.FORM not in entry.tags:
        where, hint = f"version {version.version} of {problem.name}", "train and register it again"
        raise ModelError(f"was trained by an older Truecourse: its run has no {runs.FORM}", where=where, hint=hint)
    return InferenceConfig(
        problem=problem.name,
        kind=problem.kind,
        version=version.version,
        run_id=version.run_id,
        model_sha256=version.model_sha256,
        snapshot=entry.run.snapshot.sha256,
        problem_digest=problem_digest(problem),
        form=entry.tags[runs.FORM],
        features=feature_sources(problem, Vocabulary.from_json(files["vocabulary.json"])),
        environment=Environment(
            python=f"{sys.version_info.major}.{sys.version_info.minor}", requirements_sha256=sha256(requirements())
        ),
        files={name: sha256(data) for name, data in files.items()},
    )


def feature_sources(problem: Problem, vocabulary: Vocabulary) -> dict[str, FeatureSource]:
    views = {name: view for view in problem.views for name in view.features}
    sources, computed = {}, problem.request_features.features if problem.request_features else {}
    for name in vocabulary.features:
        view, part = views.get(name), problem.time_features.get(name)
        place = f"view {view.name}" if view else "request function" if name in computed else "request"
        place = f"part of {part.field}" if part else place
        ttl = view.ttl.total_seconds() if view else None
        sources[name] = FeatureSource(kind=vocabulary.kinds[name], source=place, ttl=ttl)
    return sources


def document_key(version: ModelVersion) -> str:
    """Return the key of a version's configuration in object storage."""
    return f"inference/{version.problem}/{version.version}.json"


def save_inference_config(store: ObjectStore, version: ModelVersion, document: bytes) -> ArtifactRef:
    """Store a version's configuration in object storage, and its digest in the version's tags."""
    reference = put_artifact(store, document_key(version), document)
    registry.set_tags(version, {INFERENCE_SHA256: reference.sha256})
    return reference


def load_inference_config(store: ObjectStore, version: ModelVersion) -> InferenceConfig | None:
    """Load a version's configuration; None if there is none. Raises IntegrityError if it was changed."""
    digest = registry.tags(version).get(INFERENCE_SHA256)
    if digest is None:
        return None
    reference = ArtifactRef(key=document_key(version), sha256=digest, bytes=0)
    return InferenceConfig.model_validate_json(get_artifact(store, reference))

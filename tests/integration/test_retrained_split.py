"""A model with a moved split is evaluated on the newest days, traced, and rebuilt byte for byte."""

from datetime import datetime

import pyarrow.compute as pc

from tests.integration.conftest import Trained


def test_a_moved_split_is_recorded_and_reproduced(trained: Trained) -> None:
    from tasks.training.build_snapshot import take_snapshot
    from tasks.training.reproduce import reproduce
    from tasks.training.trace import trace_model
    from tasks.training.train import train_model
    from truecourse.modeling.snapshot import load_frame, load_manifest
    from truecourse.problem import TimeSplit
    from truecourse.registry import versions as registry
    from truecourse.storage.object_store import open_store

    at = datetime(2024, 2, 25)
    snapshot = take_snapshot.fn("deliveries", at, at)
    manifest, frame = load_manifest(open_store(), snapshot), load_frame(open_store(), snapshot)
    assert isinstance(manifest.split, TimeSplit)
    newest = pc.max(frame["decision_time"]).as_py().replace(tzinfo=None)
    assert datetime(2024, 2, 23) < newest < datetime(2024, 2, 24)
    assert pc.max(frame["known_at"]).as_py().replace(tzinfo=None) <= at

    run = train_model.fn("deliveries", snapshot)
    assert train_model.fn("deliveries", snapshot).run_id == run.run_id
    version = registry.create_version(run)
    assert version != trained.version
    assert trace_model("deliveries", version.version)["verified"]
    assert reproduce("deliveries", version.version)["identical"]
    assert reproduce("deliveries", trained.version.version)["identical"]

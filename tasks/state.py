"""The state that a lifecycle run can change, to detect whether it changed anything."""

from typing import Any

from feature_repo.online_location import loaded_marks
from truecourse.deployment.bento import load_package
from truecourse.features.definition_digests import feature_table
from truecourse.problem import Problem
from truecourse.registry import aliases, runs
from truecourse.registry import versions as registry
from truecourse.serving.batch_scoring import predictions_table
from truecourse.storage.delta_tables import Tables, clean_table, quarantine_table, raw_table


def current_state(problem: Problem) -> dict[str, Any]:
    """Table versions, training runs, model versions with their packages, aliases, and the last online loads."""
    tables, name = Tables(), problem.name
    names = [
        kind(owner.name, table.name)
        for owner in problem.namespaces
        for table in owner.tables
        for kind in (raw_table, clean_table, quarantine_table)
    ]
    names += [*(feature_table(problem, view.name) for view in problem.views), predictions_table(name)]
    return {
        "tables": [str(tables.version(table)) for table in names],
        "runs": sorted(runs.run_ids(name)),
        "versions": [(version.version, load_package(name, version.version)) for version in registry.versions(name)],
        "aliases": aliases.current(name),
        "online": loaded_marks(problem),
    }

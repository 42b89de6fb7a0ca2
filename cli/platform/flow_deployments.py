"""Deploy the flows of prefect.yaml to a Prefect server, and keep changes that people make there.

A file in the home stores each deployment's settings: as the repository declared them, and as the server then showed
them. So a change is attributed: a setting that changed only in the repository is applied; one that a person changed in
Prefect stays, even if the repository changed too, until `truecourse schedules reset`.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tasks.release.prefect_deployments import Api, Settings, setting_text
from truecourse.errors import TruecourseError
from truecourse.settings import REPOSITORY, get_settings

FILE = REPOSITORY / "prefect.yaml"
POOL = "truecourse"
"""The work pool that prefect.yaml deploys to."""
_POOL_SETTINGS: Settings = {"paused": False, "concurrency limit": None}
RESET = "truecourse schedules reset"


@dataclass(frozen=True)
class DeclaredDeployment:
    """A deployment of prefect.yaml: its settings by name, its triggers as written, and the flow's entry point."""

    name: str
    flow: str
    entrypoint: str
    settings: Settings
    triggers: Sequence[Mapping[str, Any]] = ()

    @property
    def title(self) -> str:
        return f"{self.flow}/{self.name}"


@dataclass
class KnownDeployment:
    """The stored record of a deployment. `declared`: by the repository; `stored`: as the server then showed it; `code`:
    digest of the flow's source."""

    id: str
    declared: Settings
    stored: Settings
    code: str


@dataclass
class DeploymentState:
    """The record of all deployments to one server; `pool`: the id of its work pool, which differs between servers."""

    pool: str = ""
    pool_settings: Settings = field(default_factory=dict)
    deployments: dict[str, KnownDeployment] = field(default_factory=dict)


def state_file() -> Path:
    return get_settings().home / "flow-deployments.json"


def load_state() -> DeploymentState:
    try:
        found = json.loads(state_file().read_text())
        deployed = {title: KnownDeployment(**one) for title, one in found["deployments"].items()}
        return DeploymentState(found["pool"], found["pool_settings"], deployed)
    except (OSError, ValueError, KeyError, TypeError):
        return DeploymentState()


def _save_state(state: DeploymentState) -> None:
    aside = state_file().with_suffix(".new")
    aside.write_text(json.dumps(asdict(state), indent=1, default=str))
    aside.replace(state_file())


def load_declared(file: Path = FILE) -> list[DeclaredDeployment]:
    """The deployments of prefect.yaml."""
    found = []
    for one in yaml.safe_load(file.read_text())["deployments"]:
        pool = one.get("work_pool", {})
        settings: Settings = {
            "paused": bool(one.get("paused", False)),
            "description": one.get("description"),
            "tags": sorted(one.get("tags", [])),
            "parameters": one.get("parameters", {}),
            "concurrency limit": one.get("concurrency_limit"),
            "work pool": pool.get("name"),
            "work queue": pool.get("work_queue_name"),
            "job variables": pool.get("job_variables", {}),
        }
        for schedule in one.get("schedules", []):
            when = {name: schedule[name] for name in ("cron", "interval", "rrule", "timezone") if name in schedule}
            settings[f"schedule {schedule['slug']}"] = when
            settings[f"schedule {schedule['slug']} active"] = schedule.get("active", True)
        for trigger in one.get("triggers", []):
            settings[f"automation {trigger['name']}"] = {n: v for n, v in trigger.items() if n != "enabled"}
            settings[f"automation {trigger['name']} enabled"] = trigger.get("enabled", True)
        flow = one["entrypoint"].rpartition(".")[2]
        found.append(DeclaredDeployment(one["name"], flow, one["entrypoint"], settings, one.get("triggers", [])))
    return found


def _code_digest(one: DeclaredDeployment) -> str:
    """Digest of the flow's source and entry point, from which Prefect builds its form."""
    module = REPOSITORY.joinpath(*one.entrypoint.split(".")[:-1]).with_suffix(".py")
    return hashlib.sha256(module.read_bytes() + one.entrypoint.encode()).hexdigest()


def deploy(api: Api, file: Path = FILE) -> list[str]:
    """Apply changes of the repository; a sentence for each setting that people changed in Prefect."""
    state, pool = load_state(), api.pool(POOL)
    if pool is None:
        pool = api.create_pool(POOL)
    fresh = state.pool != pool["id"]
    if fresh:
        state = DeploymentState(pool["id"], dict(_POOL_SETTINGS))
    wanted, on_server = load_declared(file), api.deployments()
    for title in [title for title in state.deployments if title not in {one.title for one in wanted}]:
        if title in on_server:
            api.delete(on_server[title]["id"])
        del state.deployments[title]
    sentences = _pool_differences(state, pool)
    for one in wanted:
        sentences += _deploy_one(api, state, one, on_server.get(one.title))
        _save_state(state)
    _save_state(state)
    return sentences


def _deploy_one(
    api: Api, state: DeploymentState, one: DeclaredDeployment, on_server: dict[str, Any] | None
) -> list[str]:
    record = state.deployments.get(one.title)
    if on_server is None:
        if record is not None:
            return [_deleted(one.title)]
        _create(api, state, one)
        return []
    if record is None:  # deployed by hand: differences count as a person's changes
        shown = api.settings(on_server)
        stored = {name: _adopted(name, value, shown) for name, value in one.settings.items()}
        record = state.deployments[one.title] = KnownDeployment(on_server["id"], dict(one.settings), stored, "")
    return _merge(api, record, one, on_server)


def _adopted(name: str, value: Any, shown: Settings) -> Any:
    """The server's form of a declared setting. Automations have another form there, and count as declared."""
    return shown.get(name) if name.startswith("automation ") and not name.endswith(" enabled") else value


def _merge(api: Api, record: KnownDeployment, one: DeclaredDeployment, on_server: dict[str, Any]) -> list[str]:
    shown, changed, sentences = api.settings(on_server), dict[str, Any](), []
    for name, value in one.settings.items():
        if shown.get(name) == value:  # applied already, by a killed run of this or by a person
            record.stored[name] = value
            record.declared[name] = value
    for name in {**record.declared, **one.settings}:
        if one.settings.get(name) == record.declared.get(name):
            continue
        if shown.get(name) == record.stored.get(name):
            changed[name] = one.settings.get(name)
        else:
            new = setting_text(one.settings.get(name))
            change = f"{name} also changed in the repository, to {new}; Prefect's value stays"
            sentences.append(f"deployment {one.title}: {change}")
    code = _code_digest(one)
    if changed or code != record.code:
        api.apply(on_server, one, changed, schema=code != record.code)
        again = api.settings(api.read(on_server["id"]))
        record.stored |= {name: again.get(name) for name in changed}
    record.declared, record.code, record.id = dict(one.settings), code, on_server["id"]
    now = api.read(on_server["id"]) if changed else on_server
    return sentences + _differences(one.title, record, now, api.settings(now))


def _create(api: Api, state: DeploymentState, one: DeclaredDeployment) -> None:
    identifier = api.create(one)
    stored = api.settings(api.read(identifier))
    state.deployments[one.title] = KnownDeployment(identifier, dict(one.settings), stored, _code_digest(one))


def differences(api: Api) -> list[str]:
    """A sentence for each setting in Prefect that differs from the last deployment; empty if there was none."""
    state, pool = load_state(), api.pool(POOL)
    if pool is None or state.pool != pool["id"]:
        return []
    on_server, sentences = api.deployments(), _pool_differences(state, pool)
    for title, record in state.deployments.items():
        if title not in on_server:
            sentences.append(_deleted(title))
        else:
            sentences += _differences(title, record, on_server[title], api.settings(on_server[title]))
    return sentences


def _deleted(title: str) -> str:
    return f"deployment {title}: deleted in Prefect; `{RESET} {title.partition('/')[0]}` deploys it again"


def _differences(title: str, record: KnownDeployment, on_server: Mapping[str, Any], shown: Settings) -> list[str]:
    schedules = [name for name in shown if name.startswith("schedule ")]
    names = list(dict.fromkeys([*record.stored, *schedules]))  # other automations are not ours
    apply = f"`{RESET} {title.partition('/')[0]}`"
    return [
        f"deployment {title}: {_describe(name, shown.get(name), record.stored.get(name), record.declared.get(name))}"
        f" (last changed {_changed_at(name, on_server)} UTC); {apply} applies the repository's"
        for name in names
        if shown.get(name) != record.stored.get(name) and not _part_of_absent(name, names, shown, record.stored)
    ]


def _changed_at(name: str, on_server: Mapping[str, Any]) -> str:
    """When the setting's schedule, automation or deployment last changed in Prefect, to the minute."""
    parts = [*on_server["schedules"], *on_server["automations"]]
    group = name.removesuffix(" active").removesuffix(" enabled").partition(" ")[2]
    owners = (part for part in parts if group and group in (part.get("slug"), part.get("name"), part["id"][:8]))
    owner = next(owners, on_server)
    return str(owner["updated"])[:16].replace("T", " ")


def _part_of_absent(name: str, names: Iterable[str], shown: Settings, stored: Settings) -> bool:
    """Whether the setting belongs to a schedule or automation that is reported as missing as a whole."""
    group = name.removesuffix(" active").removesuffix(" enabled")
    return group != name and group in names and (shown.get(group) is None) != (stored.get(group) is None)


def _describe(name: str, now: Any, stored: Any, repository: Any) -> str:
    if name == "paused":
        return f"{'paused' if now else 'not paused'} in Prefect, {'paused' if stored else 'active'} in the repository"
    if name.endswith((" active", " enabled")):
        group, _, word = name.rpartition(" ")
        states = {True: word, False: f"in{word}" if word == "active" else "disabled", None: "absent"}
        return f"{group} is {states[now]} in Prefect, {states[stored]} in the repository"
    if name.startswith(("schedule ", "automation ")):
        if now is None:
            return f"{name} was deleted in Prefect"
        if stored is None:
            return f"{name} ({setting_text(now)}) was added in Prefect, the repository has none"
        if name.startswith("automation "):
            return f"{name} was edited in Prefect"
    return f"{name} is {setting_text(now)} in Prefect, {setting_text(repository)} in the repository"


def _pool_differences(state: DeploymentState, pool: Mapping[str, Any]) -> list[str]:
    shown = {"paused": pool["is_paused"], "concurrency limit": pool["concurrency_limit"]}
    return [
        f"work pool {POOL}: {_describe(name, shown[name], value, value)}; `{RESET}` applies the repository's"
        for name, value in state.pool_settings.items()
        if shown[name] != value
    ]


def reset(api: Api, flows: Sequence[str] = (), file: Path = FILE) -> Iterator[str]:
    """Apply prefect.yaml to the deployments of these flows, by default all and the work pool; the titles done.

    Schedules that people added are removed."""
    state, pool = load_state(), api.pool(POOL) or api.create_pool(POOL)
    if state.pool != pool["id"]:
        state = DeploymentState(pool["id"], dict(_POOL_SETTINGS))
    if not flows:
        api.reset_pool(POOL)
        state.pool_settings = dict(_POOL_SETTINGS)
    on_server = api.deployments()
    for one in load_declared(file):
        if flows and one.flow not in flows:
            continue
        if one.title in on_server:
            api.replace(on_server[one.title], one)
            stored = api.settings(api.read(on_server[one.title]["id"]))
            record = KnownDeployment(on_server[one.title]["id"], dict(one.settings), stored, _code_digest(one))
            state.deployments[one.title] = record
        else:
            _create(api, state, one)
        _save_state(state)
        yield one.title


def main(url: str) -> None:
    """Run deploy() as a process, which imports flows and Prefect; prints a JSON list of differences."""
    sys.stdout.write(json.dumps(deploy(Api(url))))


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except TruecourseError as error:
        sys.exit(str(error))

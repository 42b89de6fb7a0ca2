"""The deployments of prefect.yaml on a Prefect server, where people change them too.

What was deployed is kept in the home, by settings: as the repository declared each, and as the server then showed it.
So a change tells whose it is. A setting that changed in the repository alone is applied; one that a person changed in
Prefect stays, though the repository changed it too, until `truecourse schedules reset`.
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
    """A deployment of prefect.yaml: its settings by name, its triggers as they are written, and what Prefect needs to
    run the flow."""

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
    """What is known of a deployment that we made: `declared` as the repository had it, `stored` as the server showed
    it afterwards, `code` the digest of the flow's source and triggers."""

    id: str
    declared: Settings
    stored: Settings
    code: str


@dataclass
class DeploymentState:
    """What we deployed to which server; `pool` is the id of its work pool, another server's is another."""

    pool: str = ""
    pool_settings: Settings = field(default_factory=dict)
    deployments: dict[str, KnownDeployment] = field(default_factory=dict)


def _place() -> Path:
    return get_settings().home / "flow-deployments.json"


def load_state() -> DeploymentState:
    try:
        found = json.loads(_place().read_text())
        deployed = {title: KnownDeployment(**one) for title, one in found["deployments"].items()}
        return DeploymentState(found["pool"], found["pool_settings"], deployed)
    except (OSError, ValueError, KeyError, TypeError):
        return DeploymentState()


def _remember(memory: DeploymentState) -> None:
    aside = _place().with_suffix(".new")
    aside.write_text(json.dumps(asdict(memory), indent=1, default=str))
    aside.replace(_place())


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


def _code(one: DeclaredDeployment) -> str:
    """Of what a flow's form in Prefect is made from."""
    module = REPOSITORY.joinpath(*one.entrypoint.split(".")[:-1]).with_suffix(".py")
    return hashlib.sha256(module.read_bytes() + one.entrypoint.encode()).hexdigest()


def deploy(api: Api, file: Path = FILE) -> list[str]:
    """Apply what changed in the repository since the last time; what people set otherwise in Prefect, in sentences."""
    memory, pool = load_state(), api.pool(POOL)
    if pool is None:
        pool = api.create_pool(POOL)
    fresh = memory.pool != pool["id"]
    if fresh:
        memory = DeploymentState(pool["id"], dict(_POOL_SETTINGS))
    wanted, there = load_declared(file), api.deployments()
    for title in [title for title in memory.deployments if title not in {one.title for one in wanted}]:
        if title in there:
            api.delete(there[title]["id"])
        del memory.deployments[title]
    said = _pool_differences(memory, pool)
    for one in wanted:
        said += _deploy_one(api, memory, one, there.get(one.title))
        _remember(memory)
    _remember(memory)
    return said


def _deploy_one(api: Api, memory: DeploymentState, one: DeclaredDeployment, there: dict[str, Any] | None) -> list[str]:
    known = memory.deployments.get(one.title)
    if there is None:
        if known is not None:
            return [_deleted(one.title)]
        _create(api, memory, one)
        return []
    if known is None:  # deployed by hand: what differs counts as set by a person
        shown = api.settings(there)
        stored = {name: _adopted(name, value, shown) for name, value in one.settings.items()}
        known = memory.deployments[one.title] = KnownDeployment(there["id"], dict(one.settings), stored, "")
    return _merge(api, known, one, there)


def _adopted(name: str, value: Any, shown: Settings) -> Any:
    """How the server would show a declared setting; triggers it shows in another form, and these count as declared."""
    return shown.get(name) if name.startswith("automation ") and not name.endswith(" enabled") else value


def _merge(api: Api, known: KnownDeployment, one: DeclaredDeployment, there: dict[str, Any]) -> list[str]:
    shown, changed, said = api.settings(there), dict[str, Any](), []
    for name, value in one.settings.items():
        if shown.get(name) == value:  # applied already, by one who was killed before it was kept here, or by a person
            known.stored[name] = value
            known.declared[name] = value
    for name in {**known.declared, **one.settings}:
        if one.settings.get(name) == known.declared.get(name):
            continue
        if shown.get(name) == known.stored.get(name):
            changed[name] = one.settings.get(name)
        else:
            new = setting_text(one.settings.get(name))
            said.append(f"deployment {one.title}: {name} was changed in the repository too, to {new}; Prefect's stays")
    code = _code(one)
    if changed or code != known.code:
        api.apply(there, one, changed, schema=code != known.code)
        again = api.settings(api.read(there["id"]))
        known.stored |= {name: again.get(name) for name in changed}
    known.declared, known.code, known.id = dict(one.settings), code, there["id"]
    now = api.read(there["id"]) if changed else there
    return said + _differences(one.title, known, now, api.settings(now))


def _create(api: Api, memory: DeploymentState, one: DeclaredDeployment) -> None:
    made = api.create(one)
    stored = api.settings(api.read(made))
    memory.deployments[one.title] = KnownDeployment(made, dict(one.settings), stored, _code(one))


def differences(api: Api) -> list[str]:
    """What Prefect has otherwise than we deployed it, in sentences; none where we deployed nothing to this server."""
    memory, pool = load_state(), api.pool(POOL)
    if pool is None or memory.pool != pool["id"]:
        return []
    there, said = api.deployments(), _pool_differences(memory, pool)
    for title, known in memory.deployments.items():
        if title not in there:
            said.append(_deleted(title))
        else:
            said += _differences(title, known, there[title], api.settings(there[title]))
    return said


def _deleted(title: str) -> str:
    return f"deployment {title}: deleted in Prefect; `{RESET} {title.partition('/')[0]}` deploys it again"


def _differences(title: str, known: KnownDeployment, there: Mapping[str, Any], shown: Settings) -> list[str]:
    schedules = [name for name in shown if name.startswith("schedule ")]
    names = list(dict.fromkeys([*known.stored, *schedules]))  # other automations are people's own
    apply = f"`{RESET} {title.partition('/')[0]}`"
    return [
        f"deployment {title}: {_said(name, shown.get(name), known.stored.get(name), known.declared.get(name))}"
        f" (last changed {_changed(name, there)} UTC); {apply} applies the repository's"
        for name in names
        if shown.get(name) != known.stored.get(name) and not _part_of_absent(name, names, shown, known.stored)
    ]


def _changed(name: str, there: Mapping[str, Any]) -> str:
    """When what the setting belongs to was last written in Prefect, to the minute."""
    parts = [*there["schedules"], *there["automations"]]
    whole = name.removesuffix(" active").removesuffix(" enabled").partition(" ")[2]
    of = next((one for one in parts if whole and whole in (one.get("slug"), one.get("name"), one["id"][:8])), there)
    return str(of["updated"])[:16].replace("T", " ")


def _part_of_absent(name: str, names: Iterable[str], shown: Settings, stored: Settings) -> bool:
    """Whether a schedule or automation that is only in one place, which is said once, is what it belongs to."""
    whole = name.removesuffix(" active").removesuffix(" enabled")
    return whole != name and whole in names and (shown.get(whole) is None) != (stored.get(whole) is None)


def _said(name: str, now: Any, stored: Any, repository: Any) -> str:
    if name == "paused":
        return f"{'paused' if now else 'not paused'} in Prefect, repository says {'paused' if stored else 'active'}"
    if name.endswith((" active", " enabled")):
        whole, _, word = name.rpartition(" ")
        states = {True: word, False: f"in{word}" if word == "active" else "disabled", None: "absent"}
        return f"{whole} is {states[now]} in Prefect, repository says {states[stored]}"
    if name.startswith(("schedule ", "automation ")):
        if now is None:
            return f"{name} was deleted in Prefect"
        if stored is None:
            return f"{name} ({setting_text(now)}) was added in Prefect, the repository has none"
        if name.startswith("automation "):
            return f"{name} was edited in Prefect"
    return f"{name} is {setting_text(now)} in Prefect, repository says {setting_text(repository)}"


def _pool_differences(memory: DeploymentState, pool: Mapping[str, Any]) -> list[str]:
    shown = {"paused": pool["is_paused"], "concurrency limit": pool["concurrency_limit"]}
    return [
        f"work pool {POOL}: {_said(name, shown[name], value, value)}; `{RESET}` applies the repository's"
        for name, value in memory.pool_settings.items()
        if shown[name] != value
    ]


def reset(api: Api, flows: Sequence[str] = (), file: Path = FILE) -> Iterator[str]:
    """Apply the repository's settings on purpose, to the deployments of these flows, or to all and the work pool; what
    was done. Schedules that people added to them go."""
    memory, pool = load_state(), api.pool(POOL) or api.create_pool(POOL)
    if memory.pool != pool["id"]:
        memory = DeploymentState(pool["id"], dict(_POOL_SETTINGS))
    if not flows:
        api.reset_pool(POOL)
        memory.pool_settings = dict(_POOL_SETTINGS)
    there = api.deployments()
    for one in load_declared(file):
        if flows and one.flow not in flows:
            continue
        if one.title in there:
            api.replace(there[one.title], one)
            stored = api.settings(api.read(there[one.title]["id"]))
            known = KnownDeployment(there[one.title]["id"], dict(one.settings), stored, _code(one))
            memory.deployments[one.title] = known
        else:
            _create(api, memory, one)
        _remember(memory)
        yield one.title


def main(url: str) -> None:
    """deploy() in a process of its own, which may import flows and Prefect; a JSON list of what differs on stdout."""
    sys.stdout.write(json.dumps(deploy(Api(url))))


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except TruecourseError as error:
        sys.exit(str(error))

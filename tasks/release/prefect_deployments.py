"""Read and write deployments of a Prefect server over its REST API; reading does not import Prefect."""

import importlib
import json
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

from services.process.prefect_client import PrefectClient
from tasks.compat import prefect_deploy
from truecourse.settings import prefect_environment

Settings: TypeAlias = dict[str, Any]
"""A deployment's settings by name. A schedule has two: `schedule SLUG` (its times) and `schedule SLUG active`.
An automation has two: `automation NAME` and `automation NAME enabled`. None means absent."""
_FIELDS = {
    "paused": "paused", "description": "description", "tags": "tags", "parameters": "parameters",
    "concurrency limit": "concurrency_limit", "work pool": "work_pool_name", "work queue": "work_queue_name",
    "job variables": "job_variables",
}  # fmt: skip
"""Settings and their fields in Prefect's deployments."""
_WHEN = ("cron", "interval", "rrule", "timezone")


class DeclaredDeployment(Protocol):
    """A deployment as the repository declares it."""

    @property
    def name(self) -> str: ...
    @property
    def flow(self) -> str: ...
    @property
    def entrypoint(self) -> str: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def triggers(self) -> Any: ...


class Api:
    """Client of a Prefect server; `url` ends with /api. Methods raise PlatformError if a request fails."""

    def __init__(self, url: str, seconds: float = 30) -> None:
        client = PrefectClient(url, seconds)
        self._ask, self._all = client.request, client.all

    def pool(self, name: str) -> dict[str, Any] | None:
        pool: dict[str, Any] | None = self._ask("GET", f"/work_pools/{name}", absent=True)
        return pool

    def create_pool(self, name: str) -> dict[str, Any]:
        """Create a work pool of type `process`; its worker adds the job template."""
        pool: dict[str, Any] = self._ask("POST", "/work_pools/", {"name": name, "type": "process"})
        return pool

    def reset_pool(self, name: str) -> None:
        self._ask("PATCH", f"/work_pools/{name}", {"is_paused": False, "concurrency_limit": None})

    def deployments(self) -> dict[str, dict[str, Any]]:
        """All deployments by `<flow>/<name>`, each with its automations."""
        flows = {flow["id"]: flow["name"] for flow in self._all("/flows/filter")}
        automations = self._all("/automations/filter")
        return {
            f"{flows.get(one['flow_id'])}/{one['name']}": one | {"automations": _automations_of(one["id"], automations)}
            for one in self._all("/deployments/filter")
        }

    def read(self, id: str) -> dict[str, Any]:
        one = self._ask("GET", f"/deployments/{id}")
        return {**one, "automations": _automations_of(id, self._all("/automations/filter"))}

    def settings(self, one: Mapping[str, Any]) -> Settings:
        """The settings of a deployment, given as returned by deployments() or read()."""
        settings: Settings = {name: one.get(key) for name, key in _FIELDS.items()}
        settings["tags"] = sorted(settings["tags"] or [])
        limit = one.get("global_concurrency_limit") or {}
        settings["concurrency limit"] = limit.get("limit", settings["concurrency limit"])
        for schedule in one["schedules"]:
            name = f"schedule {_slug(schedule)}"
            settings[name] = {
                key: schedule["schedule"][key] for key in _WHEN if schedule["schedule"].get(key) is not None
            }
            settings[f"{name} active"] = schedule["active"]
        for automation in one["automations"]:
            name = f"automation {automation['name']}"
            settings[name] = {"trigger": _without_ids(automation["trigger"]), "actions": automation["actions"]}
            settings[f"{name} enabled"] = automation["enabled"]
        return settings

    def create(self, one: DeclaredDeployment) -> str:
        """Create a deployment; returns its id."""
        flow = self._ask("POST", "/flows/", {"name": one.flow})
        body = {key: one.settings[name] for name, key in _FIELDS.items()}
        body |= {"name": one.name, "flow_id": flow["id"], "entrypoint": one.entrypoint, "pull_steps": []}
        body |= {"parameter_openapi_schema": _schema(one.entrypoint), "enforce_parameter_schema": True}
        created = self._ask("POST", "/deployments/", body)
        self.apply(self.read(created["id"]), one, one.settings, schema=False)
        return str(created["id"])

    def apply(self, current: Mapping[str, Any], one: DeclaredDeployment, changed: Settings, *, schema: bool) -> None:
        """Change only these settings of a deployment (as returned by read()); with `schema`, also the flow's form."""
        id, body = current["id"], {key: changed[name] for name, key in _FIELDS.items() if name in changed}
        if schema:
            body |= {"entrypoint": one.entrypoint, "parameter_openapi_schema": _schema(one.entrypoint)}
        if body:
            self._ask("PATCH", f"/deployments/{id}", body)
        target = self.settings(current) | changed
        for name in _names_of_kind("schedule", changed):
            self._schedule(current, name, target)
        for name in _names_of_kind("automation", changed):
            self._automate(current, one, name, target)

    def _schedule(self, current: Mapping[str, Any], name: str, target: Settings) -> None:
        place, slug = f"/deployments/{current['id']}/schedules", name.removeprefix("schedule ")
        existing = next((item["id"] for item in current["schedules"] if _slug(item) == slug), None)
        declared = {"slug": slug, "schedule": target.get(name), "active": target.get(f"{name} active")}
        if target.get(name) is None:
            if existing is not None:
                self._ask("DELETE", f"{place}/{existing}")
        elif existing is not None:
            self._ask("PATCH", f"{place}/{existing}", declared)
        else:
            self._ask("POST", place, [declared])

    def _automate(self, current: Mapping[str, Any], one: DeclaredDeployment, name: str, target: Settings) -> None:
        """Replace the existing automation of this name by the declared trigger."""
        prefect_environment()
        title = name.removeprefix("automation ")
        for existing in current["automations"]:
            if existing["name"] == title:
                self._ask("DELETE", f"/automations/{existing['id']}")
        for declared in one.triggers:
            if declared["name"] == title:
                enabled = target.get(f"{name} enabled", True)
                trigger = {**declared, "enabled": enabled}
                self._ask("POST", "/automations/", prefect_deploy.automation(trigger, current["id"]))

    def replace(self, current: Mapping[str, Any], one: DeclaredDeployment) -> None:
        """Set everything as the repository declares it, and remove other schedules. Other automations stay."""
        shown = self.settings(current)
        others = {name: None for name in shown if name.startswith("schedule ") and name not in one.settings}
        self.apply(current, one, others | one.settings, schema=True)

    def stop(self, current: Mapping[str, Any], *, paused: bool, schedules: bool) -> None:
        """Pause a deployment, or switch its schedules off."""
        if paused:
            self._ask("PATCH", f"/deployments/{current['id']}", {"paused": True})
        for schedule in current["schedules"] if schedules else ():
            self._ask("PATCH", f"/deployments/{current['id']}/schedules/{schedule['id']}", {"active": False})

    def delete(self, id: str) -> None:
        """Delete a deployment and the automations that it owns."""
        self._ask("DELETE", f"/automations/owned-by/prefect.deployment.{id}")
        self._ask("DELETE", f"/deployments/{id}", absent=True)


def _names_of_kind(kind: str, changed: Settings) -> list[str]:
    """Names of the schedules or automations among the settings."""
    names = [n.removesuffix(" active").removesuffix(" enabled") for n in changed if n.startswith(f"{kind} ")]
    return list(dict.fromkeys(names))


def _slug(schedule: Mapping[str, Any]) -> str:
    return str(schedule.get("slug") or schedule["id"][:8])


def _automations_of(id: str, automations: list[Any]) -> list[Any]:
    """The automations that start a deployment."""
    return [one for one in automations if any(action.get("deployment_id") == id for action in one["actions"])]


def _without_ids(trigger: Any) -> Any:
    """A trigger without its ids, which the server changes on every write."""
    if isinstance(trigger, dict):
        return {name: _without_ids(value) for name, value in trigger.items() if name != "id"}
    return [_without_ids(item) for item in trigger] if isinstance(trigger, list) else trigger


def _schema(entrypoint: str) -> Any:
    """The JSON schema of a flow's parameters, for Prefect's form."""
    prefect_environment()
    module, _, name = entrypoint.rpartition(".")
    return prefect_deploy.parameter_schema(getattr(importlib.import_module(module), name))


def setting_text(value: Any) -> str:
    """Format a setting's value for a person."""
    if isinstance(value, dict):
        return " ".join(str(part) for part in value.values()) if set(value) <= set(_WHEN) else json.dumps(value)
    return "none" if value is None else json.dumps(value) if isinstance(value, list | str) else str(value)

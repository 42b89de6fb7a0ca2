"""`deploy`, and the deployments and inference configuration in `status`."""

import json as jsonlib
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from cli.commands.run import run_flow
from cli.terminal.output import Answer, Json, ProblemName, command
from cli.terminal.progress import Progress
from cli.terminal.tables import pairs, table
from truecourse.deployment import deployment_history as deployments
from truecourse.deployment import inference_config
from truecourse.deployment.config import schema
from truecourse.deployment.config_loader import environment_names, load_deployment
from truecourse.errors import DeploymentError
from truecourse.references import ModelVersion
from truecourse.storage.object_store import open_store

Document = dict[str, Any]


@command
def deploy(
    env: Annotated[str, typer.Option(help="A file of deployments/, without its ending.")] = "dev",
    problem: ProblemName = None,
    version: Annotated[int | None, typer.Option(help="A model version; the champion if not given.")] = None,
    reason: Annotated[str, typer.Option(help="Kept in the record.")] = "deployed by hand",
    stop: Annotated[bool, typer.Option("--stop", help="Stop the deployed server.")] = False,
    print_schema: Annotated[bool, typer.Option("--print-schema", help="The JSON schema of a configuration.")] = False,
    json: Json = False,
) -> Answer:
    """Deploy a packaged version with deployments/<ENV>.yaml. If a step fails, the version before it stays."""
    if print_schema:
        return Answer(schema(), jsonlib.dumps(schema(), indent=1))
    load_deployment(env)  # fail before a server is started
    parameters = {"environment": env, "problem": problem, "version": version, "reason": reason, "stop": stop}
    with Progress(["deploy"]) as progress:
        entry = run_flow("deploy", parameters, progress)
    shown = {"environment": env, "version": entry.version.version, "outcome": entry.outcome, "detail": entry.detail}
    return Answer(entry.model_dump(mode="json"), pairs(shown | {"before": _number(entry.previous)}))


def _number(version: ModelVersion | None) -> str:
    return f"version {version.version}" if version else "none"


def list_deployments(problem: str) -> list[Document]:
    """The deployments of a problem, one an environment: last record, configuration, and state of a local server."""
    documents = []
    for environment in environment_names():
        newest = deployments.ledger(environment, problem).newest()
        if newest is not None:
            state = _server_state(environment, problem) if newest.target == "process" else {}
            documents.append({**newest.model_dump(mode="json"), **state, "configuration": _configuration(environment)})
    return documents


def _configuration(environment: str) -> Document | None:
    try:
        return load_deployment(environment).model_dump(mode="json")
    except DeploymentError:
        return None


def _server_state(environment: str, problem: str) -> Document:
    from services.process import supervisor_client

    now = deployments.running_server(environment)
    if now is None or now.version.problem != problem:
        return {"server": None}
    supervisor = supervisor_client.find(deployments.server_folder(environment, now.host, now.port))
    servers = supervisor.servers() if supervisor else {}
    server = servers.get(now.server, {"alive": False, "pid": None, "restarts": 0})
    about = {name: server[name] for name in ("alive", "pid", "restarts")}
    return {"server": {"url": now.url, "version": now.version.version, "since": now.since, **about}}


def deployments_view(found: Sequence[Document]) -> RenderableType:
    rows = [
        [item["environment"], item["target"], item["version"]["version"], _outcome(item), item["author"],
         str(item["at"])[:16].replace("T", " "), _server(item)]
        for item in found
    ]  # fmt: skip
    return table("environment", "target", "version", "last deployment", "by", "at (UTC)", "server", rows=rows)


def _outcome(item: Document) -> str:
    if item["outcome"] == "began":
        return "in progress or interrupted: deploy again"
    return f"{item['outcome']}: {item['detail']}" if item["outcome"] == "rolled back" else str(item["outcome"])


def _server(item: Document) -> str:
    server = item.get("server")
    if server is None:
        return "–"
    return f"{server['url']}, version {server['version']}" if server["alive"] else "not running: deploy again"


def inference_config_of(version: ModelVersion | None) -> Document | None:
    """The inference configuration of a packaged version; None if there is none."""
    found = inference_config.load_inference_config(open_store(), version) if version else None
    return found.model_dump(mode="json") if found else None


def inference_view(config: Document) -> RenderableType:
    sources: dict[str, int] = {}
    for feature in config["features"].values():
        sources[feature["source"]] = sources.get(feature["source"], 0) + 1
    shown = {
        "model": config["model_sha256"],
        "features": ", ".join(f"{count} of {source}" for source, count in sources.items()),
        "environment": f"Python {config['environment']['python']}, {config['environment']['requirements_sha256'][:12]}",
        "script": config["script"],
    }
    return pairs(shown)

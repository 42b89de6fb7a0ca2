"""`deploy`, and what `status` says of inference and of what is deployed."""

import json as jsonlib
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from cli.commands.run import run_flow
from cli.terminal.output import Answer, Json, ProblemName, command
from cli.terminal.progress import Progress
from cli.terminal.tables import pairs, table
from truecourse.deployment import history as deployments
from truecourse.deployment import inference_config
from truecourse.deployment.config import schema
from truecourse.deployment.loader import environment_names, load_deployment
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
    stop: Annotated[bool, typer.Option("--stop", help="Take what is deployed out of work.")] = False,
    print_schema: Annotated[bool, typer.Option("--print-schema", help="The JSON schema of a configuration.")] = False,
    json: Json = False,
) -> Answer:
    """Put a packaged version to work as deployments/<ENV>.yaml says; whatever goes wrong, the one before it stays."""
    if print_schema:
        return Answer(schema(), jsonlib.dumps(schema(), indent=1))
    load_deployment(env)  # before a server is started for nothing
    parameters = {"environment": env, "problem": problem, "version": version, "reason": reason, "stop": stop}
    with Progress(["deploy"]) as progress:
        entry = run_flow("deploy", parameters, progress)
    shown = {"environment": env, "version": entry.version.version, "outcome": entry.outcome, "detail": entry.detail}
    return Answer(entry.model_dump(mode="json"), pairs(shown | {"before": _number(entry.previous)}))


def _number(version: ModelVersion | None) -> str:
    return f"version {version.version}" if version else "none"


def list_deployments(problem: str) -> list[Document]:
    """Of every environment where the problem was ever deployed: its last record, its configuration, and of a server
    on this machine whether it lives."""
    found = []
    for environment in environment_names():
        newest = deployments.ledger(environment, problem).newest()
        if newest is not None:
            state = _state(environment, problem) if newest.target == "process" else {}
            found.append({**newest.model_dump(mode="json"), **state, "configuration": _configuration(environment)})
    return found


def _configuration(environment: str) -> Document | None:
    try:
        return load_deployment(environment).model_dump(mode="json")
    except DeploymentError:
        return None


def _state(environment: str, problem: str) -> Document:
    from services.process import supervisor_client

    now = deployments.running_server(environment)
    if now is None or now.version.problem != problem:
        return {"server": None}
    keeper = supervisor_client.find(deployments.server_folder(environment, now.host, now.port))
    servers = keeper.servers() if keeper else {}
    here = servers.get(now.server, {"alive": False, "pid": None, "restarts": 0})
    about = {name: here[name] for name in ("alive", "pid", "restarts")}
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
        return "under way, or cut short: deploy again"
    return f"{item['outcome']}: {item['detail']}" if item["outcome"] == "rolled back" else str(item["outcome"])


def _server(item: Document) -> str:
    server = item.get("server")
    if server is None:
        return "–"
    return f"{server['url']}, version {server['version']}" if server["alive"] else "gone: deploy again"


def inference_config_of(version: ModelVersion | None) -> Document | None:
    """The inference configuration of a version that was packaged."""
    found = inference_config.load_inference_config(open_store(), version) if version else None
    return found.model_dump(mode="json") if found else None


def inference_view(config: Document) -> RenderableType:
    sources: dict[str, int] = {}
    for feature in config["features"].values():
        sources[feature["source"]] = sources.get(feature["source"], 0) + 1
    told = {
        "model": config["model_sha256"],
        "features": ", ".join(f"{count} of {source}" for source, count in sources.items()),
        "environment": f"Python {config['environment']['python']}, {config['environment']['requirements_sha256'][:12]}",
        "script": config["script"],
    }
    return pairs(told)

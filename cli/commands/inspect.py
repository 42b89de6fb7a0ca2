"""`status`, `summary`, `init`, `trace` and `reproduce`: state, checks and lineage of a problem."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from cli.commands.deploy import deployments_view, inference_config_of, inference_view, list_deployments
from cli.commands.mirror import mirror_differences
from cli.commands.openlineage import delivery_state, describe_delivery
from cli.commands.schedules import schedule_differences
from cli.commands.status_report import history_view, pages, quality, refusals, table_states, write_page
from cli.platform.endpoint import endpoint_url, is_ours, served_model
from cli.terminal.origins import origins_view
from cli.terminal.output import Answer, Json, ProblemName, command, command_without_storage
from cli.terminal.tables import links_view, pairs, rebuilt_view, table
from services.process import platform_state
from truecourse.errors import ProblemError, RequestError, SettingsError
from truecourse.html import remove_page_links, render
from truecourse.monitoring import report_store
from truecourse.monitoring.health import health_page as healthpage
from truecourse.problem.loader import load_problem, problem_names
from truecourse.registry import aliases
from truecourse.registry import versions as registry
from truecourse.registry.scorecard import version_summary
from truecourse.settings import get_settings, prefect_environment
from truecourse.storage.format import read_format
from truecourse.storage.object_store import open_store
from truecourse.wording import counted, counted_of, nearest

Version = Annotated[int, typer.Argument(help="A version in the model registry.")]


@command
def status(problem: ProblemName = None, json: Json = False) -> Answer:
    """Show tables, champion and challenger, promotion history, endpoint, deployments, checks and report pages."""
    spec = load_problem(problem)
    about = _endpoint(spec.name)
    document: dict[str, Any] = {
        "problem": spec.name,
        "problems": _problems(),
        "home": str(get_settings().home),
        "storage": get_settings().storage_root,
        "format": read_format(open_store()).model_dump(),
        "tables": table_states(spec),
        "refused": refusals(spec),
        "champion": version_summary(registry.champion(spec.name)),
        "challenger": version_summary(registry.challenger(spec.name)),
        "history": [entry.model_dump() for entry in aliases.history(spec.name)],
        "endpoint": {"url": endpoint_url(), **about} if about and not about.get("foreign") else None,
        "foreign_endpoint": {"url": endpoint_url(), **about} if about and about.get("foreign") else None,
        "inference": inference_config_of(registry.champion(spec.name)),
        "deployments": list_deployments(spec.name),
        "health": _health(spec.name),
        "canary": _canary(spec.name),
        "mirror": mirror_differences(spec.name),
        "schedules": schedule_differences(),
        "lineage_events": delivery_state(),
        "platform": platform_state.state(),
        "pages": [str(path) for path in pages(spec.name)],
    }
    return Answer(document, _status_view(document))


def _health(problem: str) -> dict[str, Any]:
    """The newest results of the pipeline, endpoint and machine checks, and a summary sentence."""
    found = healthpage.newest(open_store(), problem)
    sentences: dict[str, str] = {check: report.sentence for check, report in found.items()}
    newest = max((report.at for report in found.values()), default=None)
    return {"sentence": healthpage.sentence(found), **sentences, "at": newest}


def _canary(problem: str) -> dict[str, Any] | None:
    """The last result of the canary check; None if it never ran."""
    report = report_store.latest(open_store(), problem, "canary")
    return {"sentence": report.sentence, "at": report.at, **report.figures} if report else None


def _problems() -> list[dict[str, Any]]:
    """The problems, each with its champion's version."""
    found = [(name, aliases.current(name).champion) for name in problem_names()]
    return [{"problem": name, "champion": version.version if version else None} for name, version in found]


def _endpoint(problem: str) -> dict[str, Any] | None:
    """The model that the endpoint's address serves; `foreign` if it is none of this home."""
    try:
        served = served_model(endpoint_url())
    except RequestError as error:
        return {"refused": error.what}
    if served is None:
        return None
    if served.problem in problem_names() and is_ours(served.problem, served):
        return served.to_document()
    return {"foreign": True, "problem": served.problem, "version": served.version}


def _describe_endpoint(document: dict[str, Any]) -> str:
    endpoint, foreign = document["endpoint"], document["foreign_endpoint"]
    if endpoint and "refused" in endpoint:
        return f"{endpoint['url']}, which refuses the key: {endpoint['refused']}"
    if endpoint:
        return f"{endpoint['url']}, {endpoint['problem']} version {endpoint['version']}"
    there = f"; {foreign['url']} serves {foreign['problem']} from another TRUECOURSE_HOME" if foreign else ""
    return f"not running: truecourse serve{there}"


def _describe_format(found: dict[str, int]) -> str:
    if found["oldest"] >= found["format"]:
        return str(found["format"])
    return f"{found['format']}, with objects of format {found['oldest']}: truecourse migrate"


def _describe_mirror(found: list[dict[str, Any]] | str) -> str:
    if isinstance(found, str):
        return f"{found}; serving and gates do not need it"
    return f"{counted(len(found), 'difference')} from the registry, listed below" if found else "matches the registry"


def _describe_champion(version: int | None) -> str:
    return f"champion: version {version}" if version else "no champion"


def _describe_problems(found: list[dict[str, Any]]) -> str:
    each = [f"{p['problem']} ({_describe_champion(p['champion'])})" for p in found]
    return ", ".join(each) or "none: truecourse init NAME --data FILE --label COLUMN"


def _status_view(document: dict[str, Any]) -> RenderableType:
    tables = [[item["table"], item["version"], item["rows"]] for item in document["tables"]]
    champion = document["champion"]
    parts: list[RenderableType] = [
        pairs(
            {
                "problem": document["problem"],
                "problems": _describe_problems(document["problems"]),
                "storage": document["storage"],
                "format": _describe_format(document["format"]),
                "champion": _short(champion),
                "challenger": _short(document["challenger"]),
                "endpoint": _describe_endpoint(document),
                "health": _describe_check(document["health"], "health"),
                "canary": _describe_check(document["canary"], "guard"),
                "MLflow": _describe_mirror(document["mirror"]),
                **_describe_events(document["lineage_events"]),
                "platform": _describe_platform(document["platform"]),
            }
        ),
        *_platform_warnings(document["platform"]),
        table("table", "version", "rows", rows=tables) if tables else Text("\nno data yet: truecourse run ingest"),
    ]
    parts += [Text(sentence, style="red") for sentence in document["refused"]]
    if document["mirror"] and not isinstance(document["mirror"], str):
        parts += [Text(f"{one['sentence']}\n  → {one['hint']}", style="yellow") for one in document["mirror"]]
    parts += [Text(sentence, style="yellow") for sentence in document["schedules"]]
    if document["history"]:
        parts.append(history_view(document["history"]))
    if document["inference"]:
        parts.append(inference_view(document["inference"]))
    if document["deployments"]:
        parts.append(deployments_view(document["deployments"]))
    if champion and champion["metrics"]:
        parts.append(quality(champion["metrics"], load_problem(document["problem"]).label_unit))
    return Group(*parts, *(Text(page, style="dim") for page in document["pages"]))


def _describe_events(found: dict[str, Any]) -> dict[str, str]:
    """The line of lineage events, if they are sent."""
    return {} if found["receiver"] == "off" else {"lineage events": describe_delivery(found)}


def _describe_platform(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not running: truecourse up"
    if not found["alive"]:
        left = f"; still running: {', '.join(found['left'])}" if found["left"] else ""
        return f"killed{left}: restart it with truecourse up"
    up = sum(part["standing"] == "up" for part in found["parts"])
    return f"{found['prefect']}, {counted_of(up, len(found['parts']), 'part')} up"


def _platform_warnings(found: dict[str, Any] | None) -> list[RenderableType]:
    """A sentence for each part that is down or was restarted, and for each stuck run."""
    if found is None or not found["alive"]:
        return []
    now = datetime.now(UTC)
    shown = [part for part in found["parts"] if part["standing"] != "up" or part["restarts"]]
    lines: list[RenderableType] = [
        Text(platform_state.sentence(part, now), style="" if part["standing"] in ("up", "waiting") else "red")
        for part in shown
    ]
    lines += [Text(f"{one['sentence']} Free it: {one['command']}", style="red") for one in found["stuck"]]
    if found["stuck_unknown"]:
        lines.append(Text(f"Stuck flow runs are unknown: {found['stuck_unknown']}", style="red"))
    return lines


def _describe_check(check: dict[str, Any] | None, flow: str) -> str:
    if check is None or check["at"] is None:
        return f"not checked yet: truecourse run {flow}"
    return f"{check['sentence']} ({check['at']:%Y-%m-%d %H:%M} UTC)"


def _short(version: dict[str, Any] | None) -> str:
    if version is None:
        return "none"
    passed = sum(gate["passed"] for gate in version["gates"])
    return f"version {version['version']}, {counted_of(passed, len(version['gates']), 'gate')} passed"


@command
def summary(
    version: Annotated[int | None, typer.Argument(help="A model version; the challenger if not given.")] = None,
    output: Annotated[Path | None, typer.Option(help="A file for the Markdown; stdout if not given.")] = None,
    problem: ProblemName = None,
    json: Json = False,
) -> Answer:
    """Summarize a version in Markdown: metrics beside the champion's, gates, drift. Exits 1 if a gate failed."""
    from truecourse.monitoring.dashboard.version_summary import markdown, summarize

    spec = load_problem(problem)
    found = summarize(spec, version)
    text = markdown(found, spec.label_unit)
    if output is not None:
        _write(output, text)
    return Answer(found, f"written: {output}" if output else Text(text), ok=found["passed"])


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        what = f"cannot be written: {error.strerror}"
        raise SettingsError(what, where=str(path), hint="set --output to a writable file") from None


@command_without_storage
def init(
    name: Annotated[str, typer.Argument(help="The new problem: lower-case letters, digits and underscores.")],
    data: Annotated[
        list[str],
        typer.Option(
            help="A CSV, JSON lines or Parquet file, or a glob in quotes: 'sales-*.csv'. Once for each table."
        ),
    ],
    label: Annotated[str, typer.Option(help="The column to predict.")],
    key: Annotated[
        list[str] | None,
        typer.Option(help="A column that identifies rows and relates tables, instead of guessed ones: customer_id."),
    ] = None,
    time: Annotated[
        list[str] | None, typer.Option(help="A column with the time of its table's rows, instead of a guessed one.")
    ] = None,
    json: Json = False,
) -> Answer:
    """Write a first problem from data files. Comments mark every guess; observations about the data are listed."""
    from truecourse.authoring.scaffold.create import scaffold

    draft = scaffold(name, data, label, key or (), time or ())
    commands = [f"truecourse check --problem {name} --data", f"truecourse run lifecycle --problem {name}"]
    document = {"problem": name, "folder": draft.folder, "next": commands, **draft.to_document()}
    shown = {
        "written": str(draft.folder),
        "predicts": f"{label} ({draft.guesses.kind}) from {draft.inputs}, {counted(draft.file.rows, 'row')}",
        "read": f"{draft.folder / 'problem.py'}: every guess has a comment",
        "then": commands[1],
    }
    noticed = Text("\n" + "\n".join(f"• {line}" for line in draft.noticed))
    return Answer(document, Group(pairs(shown), noticed))


@command
def trace_model(version: Version, problem: ProblemName = None, json: Json = False) -> Answer:
    """Show the lineage of a model version back to the source bytes, and verify every link."""
    from tasks.training import trace

    traced = trace.trace_model(_recorded_problem(problem), version)
    return Answer(traced, links_view(traced), ok=traced["verified"])


@command
def trace_prediction(
    prediction: Annotated[str, typer.Argument(metavar="ID", help="A prediction_id, or the id of a scored row.")],
    problem: ProblemName = None,
    page: Annotated[bool, typer.Option("--page", help="Also write the trace as a page.")] = False,
    json: Json = False,
) -> Answer:
    """Show the lineage of a prediction: its record, computed again; its features' source rows; its model's lineage."""
    from tasks.training import trace

    name = _recorded_problem(problem)
    traced = trace.trace_prediction(name, prediction)
    shown = {name: value for name, value in traced["prediction"].items() if value is not None}
    view = Group(pairs(shown), origins_view(traced), links_view(traced))
    if page:
        html = remove_page_links(render("trace.html", traced=traced, problem=name, id=prediction))
        path = write_page(name, "traces", prediction, html)
        traced, view = traced | {"page": str(path)}, Group(view, Text(str(path), style="dim"))
    return Answer(traced, view, ok=traced["verified"])


@command
def reproduce(
    version: Version,
    start: Annotated[
        str,
        typer.Option(
            "--from", help="Where to start: source (rebuild everything), clean (from the clean tables), features."
        ),
    ] = "features",
    problem: ProblemName = None,
    json: Json = False,
) -> Answer:
    """Verify a version's inputs, rebuild it from its archived problem, and compare the bytes."""
    prefect_environment()
    from tasks.training import reproduce as reproducing

    if start not in ("source", "clean", "features"):
        raise SettingsError(
            f"unknown start {start!r}", where="--from", hint=nearest(start, ["source", "clean", "features"])
        )
    rebuilt = reproducing.reproduce(_recorded_problem(problem), version, start)  # type: ignore[arg-type]
    same, state = bool(rebuilt["identical"]), rebuilt["state"]
    result = rebuilt_view(rebuilt)
    shown = {"recorded": rebuilt["recorded_sha256"], "rebuilt": rebuilt["rebuilt_sha256"] or "not rebuilt"}
    shown |= {name: f"{then} then, {now} now" for name, (then, now) in rebuilt["environment"].items()}
    parts: list[RenderableType] = [result, pairs(shown)]
    if state != "verified":
        parts.append(links_view({**rebuilt, "links": [link for link in rebuilt["links"] if not link["verified"]]}))
    return Answer(rebuilt, Group(*parts), ok=same and state == "verified")


def _recorded_problem(name: str | None) -> str:
    """The problem's name, even if its folder is invalid or was deleted after its models were trained."""
    try:
        return load_problem(name).name
    except ProblemError:
        known = name or get_settings().problem
        if registry.ledger(known).numbers():
            return known
        raise

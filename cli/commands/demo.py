"""`demo`: the whole lifecycle once, from raw files to a served and explained prediction."""

import time
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.rule import Rule
from rich.text import Text

from cli.commands.run import STEPS, run_flow
from cli.commands.status_report import pages, quality, table_states
from cli.platform.endpoint import batch_score, endpoint_url, example_rows, request_predictions, start_endpoint
from cli.terminal.flow_results import seconds
from cli.terminal.output import Answer, Json, ProblemName, command, stderr
from cli.terminal.progress import Progress
from cli.terminal.tables import contributions, pairs, prediction_view, request_view
from services.process import endpoint_process
from truecourse.addresses import free_port
from truecourse.errors import GateFailed
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.processes import supervised
from truecourse.references import ModelVersion
from truecourse.registry.scorecard import version_summary
from truecourse.settings import get_settings, prefect_environment
from truecourse.wording import counted

SAME = 1e-6
ENDPOINT_STEPS = ["serve", "predict", "explain", "trace"]
Document = dict[str, Any]


@command
def demo(problem: ProblemName = None, json: Json = False) -> Answer:
    """Run the lifecycle once: train, serve, predict, explain and trace. Nothing is left running."""
    started, spec = time.monotonic(), load_problem(problem)
    stderr().print(Panel.fit(f"[bold]{spec.name}[/]\n{spec.description}".strip(), border_style="cyan"))
    with Progress([*STEPS, *ENDPOINT_STEPS]) as progress:
        run_flow("lifecycle", {"problem": spec.name}, progress)
        champion = _champion(spec.name)
        document = _serve_once(champion, progress)
    document |= {
        "problem": spec.name,
        "tables": table_states(spec),
        "champion": version_summary(champion),
        "pages": [str(path) for path in pages(spec.name)],
        "next": _next_commands(spec.name, champion.version),
        "seconds": round(time.monotonic() - started, 1),
    }
    return Answer(document, _view(document, spec))


def _champion(problem: str) -> ModelVersion:
    from truecourse.registry import versions as registry

    champion = registry.champion(problem)
    if champion is None:
        hint = "see the gates on the model's page or in `truecourse status`"
        raise GateFailed("no champion to serve: the model failed a gate", where=problem, hint=hint)
    return champion


def _serve_once(champion: ModelVersion, progress: Progress) -> Document:
    """Start the endpoint, send it one example, trace the model, and stop the endpoint."""
    prefect_environment()
    from tasks.training.trace import trace_model

    port, problem = free_port(get_settings().host), champion.problem
    url, rows = endpoint_url(port), example_rows(champion, 1)
    with supervised() as children:
        with progress.step("serve") as set_result:
            folder = endpoint_process.prepare(problem, champion.version)
            children.append(start_endpoint(folder, port, pinned=True))
            endpoint_process.wait_ready(children[0], port)
            set_result(f"{url}, version {champion.version}")
        answers = {}
        for path in ("predict", "explain"):
            with progress.step(path) as set_result:
                started = time.perf_counter()
                answers[path] = request_predictions(problem, path, rows, url)
                set_result(f"POST {url}/{path}, answered in {1000 * (time.perf_counter() - started):.0f} ms")
    with progress.step("trace") as set_result:
        traced = trace_model(problem, champion.version)
        verified = sum(link["verified"] for link in traced["links"])
        set_result(f"{verified} of {counted(len(traced['links']), 'link')} verified, back to the source files")
    return {"endpoint": url, "asked": rows[0], **answers, "batch": batch_score(champion, rows[0]), "trace": traced}


def _next_commands(problem: str, version: int) -> list[str]:
    return [
        f"truecourse explain --problem {problem} --example 2",
        f"truecourse reproduce {version} --problem {problem}",
        "truecourse up",
    ]


def _compare_scores(document: Document) -> str:
    batch, online = document["batch"], document["predict"]["predictions"][0].get("score")
    if batch is None or online is None:
        return "not compared: the row was not scored in batch"
    same = "the same" if abs(batch - online) < SAME else "NOT the same"
    return f"{same} score, {batch:.6f} and {online:.6f}"


def _view(document: Document, problem: Problem) -> RenderableType:
    rows = {item["table"]: item["rows"] for item in document["tables"]}
    clean = {name: count for name, count in rows.items() if "/clean/" in name}
    data = f"{counted(sum(clean.values()), 'row')} in {counted(len(clean), 'clean table')}"
    quarantined = sum(count for name, count in rows.items() if "/quarantine/" in name)
    champion = document["champion"]
    summary = {
        "data": f"{data}, {counted(quarantined, 'row')} in quarantine",
        "champion": f"version {champion['version']}, model {champion['model_sha256'][:12]}",
        "gates": f"{sum(g['passed'] for g in champion['gates'])} of {len(champion['gates'])} passed",
        "endpoint": f"answered at {document['endpoint']}, then stopped",
        "batch and online": _compare_scores(document),
        "lineage": f"{counted(len(document['trace']['links']), 'link')} back to the source bytes, each verified",
        "took": seconds(document["seconds"]),
    }
    explained = document["explain"]["predictions"][0]
    return Group(
        Rule("One prediction, and why", style="cyan"), request_view(document["asked"]), Text(),
        prediction_view(document["predict"], problem.label_unit), Text(), contributions(explained, 8, problem), Text(),
        Rule("The model", style="cyan"), quality(champion["metrics"], problem.label_unit),
        Rule("Summary", style="cyan"), pairs(summary), Text(),
        Text("pages to open", style="dim"), *(Text(f"  {page}") for page in document["pages"]), Text(),
        Text("try next", style="dim"), *(Text(f"  {line}", style="bold") for line in document["next"]),
    )  # fmt: skip

"""Reference of the Prometheus metrics of an endpoint: name, type, labels, buckets and meaning."""

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from docs.hooks import markdown_text as markdown
from docs.hooks.markdown_text import code, sentence
from services.telemetry.prometheus_metrics import LABELS, REASONS, Metrics

INTRO = """The endpoint serves these metrics at `GET /metrics` in Prometheus' text format, for all its workers
together. Where keys are required, the key needs the scope `admin`. `TRUECOURSE_METRICS=false` switches them off. Every
label has few values: an unknown path is `other`."""
_SUFFIXES = {"counter": "_total", "histogram": "", "gauge": ""}


@dataclass(frozen=True)
class MetricDoc:
    """A metric. `name`: as it is scraped. `buckets`: upper bounds of a histogram, else empty."""

    name: str
    type: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...]
    meaning: str


def page() -> str:
    """The Markdown of the page."""
    rows = [
        [code(each.name), each.type, ", ".join(map(code, each.labels)), sentence(each.meaning)] for each in metrics()
    ]
    table = markdown.table(["metric", "type", "labels", "meaning"], rows)
    labels = markdown.table(["label", "meaning"], [[code(name), sentence(text)] for name, text in LABELS.items()])
    buckets = "\n".join(
        f"- {code(each.name)}: {', '.join(f'{bound:,}' for bound in each.buckets)}"
        for each in metrics()
        if each.buckets
    )
    reasons = markdown.table(["reason", "meaning"], [[code(name), sentence(text)] for name, text in REASONS.items()])
    return markdown.page(
        "Prometheus metrics", INTRO, f"## Metrics\n\n{table}", f"## Labels\n\n{labels}",
        f"## Reasons\n\n{reasons}",
        f"## Buckets\n\nUpper bounds of the histograms, in seconds:\n\n{buckets}\n",
    )  # fmt: skip


def metrics() -> Iterator[MetricDoc]:
    """Every metric of an endpoint, in the order of their declaration."""
    for metric in vars(Metrics([], CollectorRegistry())).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            description = next(iter(metric.describe()))
            bounds = tuple(bound for bound in getattr(metric, "_upper_bounds", ()) if bound != float("inf"))
            yield MetricDoc(
                f"{description.name}{_SUFFIXES[description.type]}",
                description.type,
                tuple(metric._labelnames),
                bounds,
                description.documentation,
            )

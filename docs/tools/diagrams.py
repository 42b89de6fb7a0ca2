"""Draw the diagrams of the architecture page: `python -m docs.tools.diagrams` writes them into docs/images.

The packages and their layers are read from the import contracts in pyproject.toml. The sequences are lists below; a
test compares the packages and flows that they name with those that exist."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from docs.tools.svg import LINE_HEIGHT, Drawing, wrap

REPOSITORY = Path(__file__).resolve().parents[2]
IMAGES = REPOSITORY / "docs" / "images"
ROW, GAP, HEADER, PADDING = 30, 6, 46, 10
Layers = list[list[str]]
"""Names by layer, the highest first: a layer imports only from those below it."""
ABOUT = {
    "flows": "tables of contents of steps",
    "benchmarks": "every published figure",
    "cli": "the truecourse command",
    "tasks": "one step each",
    "services": "the endpoint and its processes",
    "feature_repo": "Feast: definitions, stores",
    "truecourse": "the library, without orchestration",
    "truecourse.monitoring": "a closer look",
}


def read_layers() -> dict[str, Layers]:
    """Read the layers of each package from the import contracts; those of the whole tree have the key ""."""
    document = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    contracts = [one for one in document["tool"]["importlinter"]["contracts"] if one["type"] == "layers"]
    return {
        one.get("containers", [""])[0]: [re.split(r"\s*[|:]\s*", layer) for layer in one["layers"]] for one in contracts
    }


def draw_packages() -> str:
    """Draw the packages of the tree, each with its layers."""
    drawing = Drawing(
        "The packages of Truecourse and their layers",
        "A package imports only from packages below it. Flows, benchmarks and the command line use tasks; tasks use "
        "services; services use the feature repository; all of them use the library truecourse.",
        1120,
    )
    layers, left, width = read_layers(), 20, 400
    tops, *chain = [layer for layer in layers[""] if layer != ["truecourse"]]
    y = 20.0
    wide = [name for name in tops if name in layers]
    side = [name for name in tops if name not in layers]
    for name in wide:
        end = _panel(drawing, name, layers[name], left, y, width - 150)
    for place, name in enumerate(side):
        _single(drawing, name, left + width - 138, y + place * 70, 138)
    y = end
    for (name,) in chain:
        drawing.arrow(f"M{left + width / 2:g} {y + 2:g}v18")
        if name in layers:
            y = _panel(drawing, name, layers[name], left, y + 22, width)
        else:
            y = _single(drawing, name, left, y + 22, width)
    library = left + width + 32
    end = _panel(drawing, "truecourse", layers["truecourse"], library, 20, 330)
    drawing.arrow(f"M{left + width + 2:g} {y - 30:g}H{library + 165:g}V{end + 4:g}")
    below = _panel(drawing, "truecourse.monitoring", layers["truecourse.monitoring"], 804, 20, 296)
    legend = [
        "An import goes only downwards:",
        "from a row to the rows below it,",
        "along an arrow to the next package.",
        "Every package may import truecourse.",
        "Heavy frame: a package.",
        "Light frame: a single module.",
    ]
    drawing.text(804, below + 34, legend, "soft", "start")
    return drawing.render()


def _panel(drawing: Drawing, name: str, layers: Layers, x: float, y: float, width: float) -> float:
    """Draw a package with its layers; returns its lower edge."""
    height = HEADER + len(layers) * (ROW + GAP) + PADDING - GAP
    drawing.box(x, y, width, height, "panel", 8)
    drawing.text(x + PADDING, y + 20, [name], "name", "start", 15)
    drawing.text(x + PADDING, y + 37, [ABOUT[name]], "soft", "start", 13)
    folder = REPOSITORY.joinpath(*name.split("."))
    for row, names in enumerate(layers):
        part = (width - 2 * PADDING - GAP * (len(names) - 1)) / len(names)
        for place, each in enumerate(names):
            left, top = x + PADDING + place * (part + GAP), y + HEADER + row * (ROW + GAP)
            is_package = (folder / each).is_dir()
            drawing.box(left, top, part, ROW, "box" if is_package else "module")
            size = min(14, int((part - 6) / (0.63 * len(each))))
            drawing.text(left + part / 2, top + 20, [each], "name" if is_package else "soft", size=size)
    return y + height


def _single(drawing: Drawing, name: str, x: float, y: float, width: float) -> float:
    """Draw a package without layers; returns its lower edge."""
    drawing.box(x, y, width, 60, "panel", 8)
    drawing.text(x + PADDING, y + 20, [name], "name", "start", 15)
    drawing.text(x + PADDING, y + 37, wrap(ABOUT[name], max(16, int(width / 7))), "soft", "start", 13)
    return y + 60


@dataclass(frozen=True)
class Lifeline:
    """A participant of a sequence. `package`: where its code is; empty for what is not ours."""

    title: str
    package: str = ""


@dataclass(frozen=True)
class Message:
    """An arrow between two lifelines, by number; dashed if it is a `reply`. `flow`: the flow that sends it."""

    sender: int
    receiver: int
    text: str
    reply: bool = False
    flow: str = ""


@dataclass(frozen=True)
class Note:
    """A remark over the lifelines from `first` to `last`."""

    first: int
    last: int
    text: str


Step = Message | Note
REQUEST_LIFELINES = (
    Lifeline("client"),
    Lifeline("connection", "services.http"),
    Lifeline("guard", "services.http"),
    Lifeline("queue", "services.http"),
    Lifeline("model", "services.model"),
    Lifeline("online store", "feature_repo"),
    Lifeline("prediction log", "services.log"),
)
REQUEST: tuple[Step, ...] = (
    Note(1, 3, "rollout gate: a new server answers only the smoke test, on a loopback port, until the gate opens"),
    Message(0, 1, "connect"),
    Note(1, 1, "connections: in all, by address; TLS"),
    Message(0, 1, "header"),
    Message(1, 0, "414, 431: too long; 408: too slow", reply=True),
    Note(1, 2, "fast path: POST /predict, /explain. All others: ASGI application, with CORS"),
    Message(1, 2, "header"),
    Note(2, 2, "API key and scope, rate, expected wait"),
    Message(2, 0, "401, 403, 429, 503: before the body is read", reply=True),
    Message(0, 1, "body"),
    Message(1, 3, "request"),
    Note(3, 3, "fair between callers"),
    Note(3, 4, "micro-batch: the small requests that wait are read, checked by the contract and scored together"),
    Message(3, 0, "400: not JSON; 422: breaks the contract", reply=True),
    Message(3, 4, "valid rows"),
    Note(4, 4, "champion or challenger, by a hash of the entity"),
    Message(4, 5, "keys of each view"),
    Message(5, 4, "newest values", reply=True),
    Note(4, 4, "expired or later than the decision: missing"),
    Note(4, 4, "encode, trees; for /explain SHAP values"),
    Message(4, 3, "predictions", reply=True),
    Message(3, 0, "200, with a prediction id for each row", reply=True),
    Message(4, 6, "entry, after the answer was sent"),
    Note(5, 6, "private values masked; synced to disk; shipped to object storage by another process"),
)
LIFECYCLE_LIFELINES = (
    Lifeline("flow", "flows"),
    Lifeline("tables", "truecourse.data"),
    Lifeline("features", "truecourse.features"),
    Lifeline("training", "truecourse.modeling"),
    Lifeline("registry", "truecourse.registry"),
    Lifeline("package", "truecourse.deployment"),
    Lifeline("endpoint", "services"),
)
LIFECYCLE: tuple[Step, ...] = (
    Message(0, 1, "ingest", flow="ingest"),
    Note(1, 1, "new deliveries, with digest and place"),
    Message(0, 1, "validate", flow="validate"),
    Note(1, 2, "valid rows: clean tables; the others: quarantine, with reasons"),
    Message(0, 2, "materialize", flow="materialize"),
    Note(2, 2, "SQL on new, late and corrected rows; online store"),
    Message(0, 3, "train", flow="train"),
    Message(3, 2, "features as of each decision"),
    Note(3, 4, "look-ahead proof; snapshot by SHA-256; model; archive of the problem"),
    Message(0, 4, "register", flow="register"),
    Note(3, 4, "evaluate: metrics, slices and gates on test rows"),
    Note(4, 4, "challenger; champion if every gate passed"),
    Message(0, 5, "package", flow="package"),
    Note(5, 5, "Bento of the champion, by SHA-256"),
    Message(0, 2, "score", flow="score"),
    Message(0, 4, "monitor", flow="monitor"),
    Note(0, 6, "lifecycle ends here. The following flows run on their own"),
    Message(0, 5, "deploy", flow="deploy"),
    Message(5, 6, "verified Bento"),
    Note(6, 6, "smoke test, then traffic"),
    Message(0, 4, "promote", flow="promote"),
    Note(4, 4, "gates again, on present data; approval; canary"),
    Message(6, 4, "read the aliases, four times a second"),
    Message(4, 6, "new champion or challenger", reply=True),
)
TITLES = {
    "request": "A request to the endpoint, from the connection to the prediction log",
    "lifecycle": "A lifecycle: from deliveries to a deployed champion",
}
MARGIN, SPACING, TOP = 70, 156, 74


def draw_sequence(title: str, lifelines: tuple[Lifeline, ...], steps: tuple[Step, ...]) -> str:
    """Draw a sequence diagram: lifelines from left to right, steps downwards."""
    spoken = [one.text for one in steps]
    drawing = Drawing(title, ". ".join(spoken) + ".", 2 * MARGIN + SPACING * (len(lifelines) - 1) + 20)
    places = [MARGIN + 10 + SPACING * number for number in range(len(lifelines))]
    for x, one in zip(places, lifelines, strict=True):
        drawing.box(x - 72, 16, 144, 44, "box")
        drawing.text(x, 34 if one.package else 43, [one.title], "name", size=15)
        if one.package:
            drawing.text(x, 51, [one.package], "soft", size=11)
    y = float(TOP)
    for step in steps:
        y = _note(drawing, step, places, y) if isinstance(step, Note) else _message(drawing, step, places, y)
    for x in places:
        drawing.rule(x, 60, y + 6)
    return drawing.render()


def _message(drawing: Drawing, step: Message, places: list[int], y: float) -> float:
    start, end = places[step.sender], places[step.receiver]
    lines = wrap(step.text, max(20, int(abs(end - start) / 7)))
    below = y + 10 + LINE_HEIGHT * len(lines)
    for number, line in enumerate(lines):
        # A patch behind the text keeps it readable where it crosses a lifeline.
        drawing.box((start + end) / 2 - 3.6 * len(line), y + 5 + LINE_HEIGHT * number, 7.2 * len(line), 16, "page", 2)
    drawing.text((start + end) / 2, y + 17, lines, "name" if step.flow else "text")
    gap = 3 if end > start else -3
    drawing.arrow(f"M{start} {below:g}H{end - gap}", step.reply)
    return below + 6


def _note(drawing: Drawing, step: Note, places: list[int], y: float) -> float:
    left, right = places[step.first] - 68, places[step.last] + 68
    lines = wrap(step.text, int((right - left - 12) / 6.6))
    height = 12 + LINE_HEIGHT * len(lines)
    drawing.box(left, y + 6, right - left, height, "note", 4)
    drawing.text((left + right) / 2, y + 23, lines, "text", size=13)
    return y + height + 8


def draw_all() -> dict[str, str]:
    """Draw every diagram, by file name."""
    return {
        "packages.svg": draw_packages(),
        "request.svg": draw_sequence(TITLES["request"], REQUEST_LIFELINES, REQUEST),
        "lifecycle.svg": draw_sequence(TITLES["lifecycle"], LIFECYCLE_LIFELINES, LIFECYCLE),
    }


def main() -> None:
    for name, drawing in draw_all().items():
        (IMAGES / name).write_text(drawing)


if __name__ == "__main__":
    main()

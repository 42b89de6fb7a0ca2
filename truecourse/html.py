"""Render HTML pages in one style, with no external resources. Templates in truecourse/templates/ extend base.html."""

import io
import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from truecourse.wording import counted, counted_of


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("truecourse"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "count": count, "share": share, "pretty": pretty}
    environment.filters |= {"marked": marked, "counted": counted, "counted_of": counted_of}
    return environment


def render(template: str, **context: Any) -> str:
    """Render a self-contained HTML page. `template`: a file of truecourse/templates/."""
    return _environment().get_template(template).render(**context)


def remove_page_links(html: str) -> str:
    """Remove the breadcrumbs and the links to sibling pages, for a copy that is stored without them."""
    html = re.sub(r'<nav class="crumb".*?</nav>', "", html, count=1, flags=re.S)
    return re.sub(r'<a href="\.\./features\.html[^"]*">(.*?)</a>', r"\1", html, flags=re.S)


def embedded(page: str, height: int = 640) -> str:
    """Embed a whole page in another one, such as a notebook. `height`: in pixels."""
    frame = Markup('<iframe srcdoc="{}" width="100%" height="{}" style="border: 1px solid #8884"></iframe>')
    return str(frame.format(page, height))


def feature_anchor(problem: str, group: str = "", feature: str = "") -> str:
    """The place of a problem, group or feature in the catalogue page: an id without spaces, `late.weather.temp`."""
    return re.sub(r"\s+", "_", ".".join(part for part in (problem, group, feature) if part))


def number(value: float | None, digits: int = 4) -> str:
    """Format a number with thousands separators and at most `digits` decimals; a dash for None and NaN."""
    if value is None or value != value:
        return "–"
    if float(value).is_integer() and abs(value) >= 1:
        return f"{int(value):,}"
    return f"{value:,.{digits}f}" if abs(value) >= 10**-digits else f"{value:.2g}"


def count(value: int) -> str:
    return f"{value:,}"


def share(value: float | None) -> str:
    """Format a share as a percentage with one decimal; "<0.1%" for a positive share that rounds to 0.0%."""
    if value is None or value != value:
        return "–"
    return "<0.1%" if 0 < value < 0.0005 else f"{100 * value:.1f}%"


def marked(text: str) -> Markup:
    """Escape a sentence and mark its `backquoted parts` as code."""
    parts = text.split("`")
    marked_parts = (
        Markup("<code>{}</code>").format(part) if number % 2 else escape(part) for number, part in enumerate(parts)
    )
    return Markup("").join(marked_parts)


def pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


PALETTE = ("#2f6fde", "#e07a1f", "#2b9a66", "#b5469b", "#8a6fdf", "#7a7f87")
_INK = "#8a9099"  # readable on light and dark backgrounds


def figure(width: float = 6.0, height: float = 3.4, columns: int = 1) -> Any:
    """Create a matplotlib Figure and its axes (an array if `columns` > 1), styled for svg(). No global pyplot state."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style = {
        "font.size": 9,
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "axes.edgecolor": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#8a909933",
        "legend.frameon": False,
    }
    with rc_context(style):
        canvas = Figure(figsize=(width, height), layout="constrained")
        axes = canvas.subplots(1, columns)
    canvas.patch.set_alpha(0)
    for axis in axes if columns > 1 else [axes]:
        axis.patch.set_alpha(0)
        axis.set_prop_cycle(color=PALETTE)
    return canvas, axes


@contextmanager
def any_script() -> Iterator[None]:
    """Measure text of any script. matplotlib warns of characters that its own font lacks; readers' fonts have them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        yield


def svg(figure: Any, title: str) -> Markup:
    """Draw a figure as a transparent inline SVG that scales with the page. `title`: its text for screen readers."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with any_script(), rc_context({"svg.fonttype": "none", "svg.hashsalt": "truecourse", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :].replace("<svg ", '<svg role="img" class="plot" ', 1)
    start = drawing.index(">") + 1
    return Markup(drawing[:start]) + Markup("<title>{}</title>").format(title) + Markup(drawing[start:])  # noqa: S704

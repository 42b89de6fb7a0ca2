"""A small writer of SVG drawings: boxes, arrows and text in the style of the documentation.

A drawing has its own background and refers to nothing outside it. A media query selects its dark colours."""

from collections.abc import Iterable
from html import escape
from typing import Literal

STYLE = """
.page{fill:#fbfdfe}.panel{fill:#eef5f8;stroke:#9db8c4}.box{fill:#ffffff;stroke:#2f6f8f;stroke-width:1.5}
.module{fill:#f6fafb;stroke:#b9cdd6}.note{fill:#fdf6e3;stroke:#d8c48a}.life{stroke:#b9cdd6;stroke-dasharray:3 4}
.line{stroke:#55717d;stroke-width:1.5;fill:none;marker-end:url(#a)}.back{stroke-dasharray:6 4}.tip{fill:#55717d}
.name{fill:#15394a;font-weight:600}.text{fill:#15394a}.soft{fill:#4b616c}
@media (prefers-color-scheme: dark){.page{fill:#10191e}.panel{fill:#17252c;stroke:#43606d}
.box{fill:#1d323d;stroke:#6fb3d2}.module{fill:#17252c;stroke:#43606d}.note{fill:#332d1a;stroke:#7d6d3a}
.life{stroke:#43606d}.line{stroke:#9db8c4}.tip{fill:#9db8c4}.name,.text{fill:#e3f1f7}.soft{fill:#b4c6ce}}
"""
ARROW = (
    '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path class="tip" d="M0 0 8 4 0 8z"/></marker></defs>'
)
Anchor = Literal["start", "middle", "end"]
LINE_HEIGHT = 17


class Drawing:
    """An SVG drawing of a given width; the height is that of its lowest part."""

    def __init__(self, title: str, description: str, width: int) -> None:
        self._title, self._description, self._width = title, description, width
        self._parts: list[str] = []
        self.bottom = 0.0

    def box(self, x: float, y: float, width: float, height: float, style: str, radius: int = 6) -> None:
        self._parts.append(
            f'<rect class="{style}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius}"/>'
        )
        self.bottom = max(self.bottom, y + height)

    def text(self, x: float, y: float, lines: Iterable[str], style: str = "text", anchor: Anchor = "middle",
             size: int = 14) -> None:  # fmt: skip
        """Write lines below each other; `y` is the baseline of the first."""
        for number, line in enumerate(lines):
            place = f'x="{x:g}" y="{y + number * LINE_HEIGHT:g}" text-anchor="{anchor}" font-size="{size}"'
            self._parts.append(f'<text class="{style}" {place}>{escape(line)}</text>')
            self.bottom = max(self.bottom, y + number * LINE_HEIGHT + 4)

    def arrow(self, path: str, back: bool = False) -> None:
        """Draw an arrow along an SVG path; dashed if it goes `back`."""
        self._parts.append(f'<path class="line{" back" if back else ""}" d="{path}"/>')

    def rule(self, x: float, top: float, bottom: float) -> None:
        """Draw a dashed vertical line, below everything that was drawn before."""
        self._parts.insert(0, f'<path class="life" d="M{x:g} {top:g}V{bottom:g}"/>')

    def render(self) -> str:
        height = round(self.bottom + 16)
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self._width} {height}" role="img" '
            'font-family="system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif" '
            'aria-labelledby="title description">'
        )
        about = f'<title id="title">{escape(self._title)}</title>'
        about += f'<desc id="description">{escape(self._description)}</desc>'
        page = f'<rect class="page" width="{self._width}" height="{height}" rx="8"/>'
        return "\n".join([head, about, f"<style>{STYLE}</style>", ARROW, page, *self._parts, "</svg>", ""])


def wrap(text: str, most: int) -> list[str]:
    """Break a text into lines of at most `most` characters, at spaces."""
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + len(word) < most:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines

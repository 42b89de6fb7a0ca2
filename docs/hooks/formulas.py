"""Formulas of the documentation: fenced blocks named `math` hold LaTeX, which becomes MathML.

Browsers render MathML by themselves, so a page loads no script. GitHub renders the same blocks."""

from typing import Any

from latex2mathml.converter import convert


def format_formula(source: str, language: str, css_class: str, options: dict[str, Any], md: Any, **_: Any) -> str:
    """Convert a block of LaTeX to MathML; the signature is that of pymdownx.superfences."""
    return f'<div class="formula">{convert(source, display="block")}</div>'

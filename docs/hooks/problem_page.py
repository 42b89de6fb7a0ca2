"""Reference of `truecourse.problem`: every exported name, and each field with type, default, meaning and example.

Meanings and examples are the docstrings of the fields in the code. A field's docstring ends with
"Example: `name=value`.", and tests build the class with that value.
"""

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, get_type_hints

import truecourse.problem as problem_api
from docs.hooks import markdown_text as markdown
from docs.hooks.annotations import describe_type, python
from docs.hooks.markdown_text import code
from truecourse.problem.aggregations import Aggregate, AnyAggregate, OfValues
from truecourse.problem.promotion import Gate
from truecourse.problem.schema import AnyColumn, Column, Source

INTRO = """A problem is one Python object, `PROBLEM` in `problems/<name>/problem.py`. Everything here is imported from
`truecourse.problem`. All classes are frozen and strict: an unknown field or a value of another type is an error. A list
may also be written as a tuple."""
GROUPS: Mapping[str, tuple[str, ...]] = {
    "The problem": ("Problem",),
    "Tables and sources": ("Table", "Files", "PackageData", "Objects", "Sql", "Csv"),
    "Columns": ("Column", "Text", "Ngrams", "Integer", "Float", "Boolean", "Time", "Since"),
    "Label and features": ("Label", "Entity", "View", "Aggregations", "RequestFeatures"),
    "Feature areas": ("FeatureArea",),
    "Aggregate functions": (
        "Aggregate", "OfValues", "Count", "Sum", "Mean", "StandardDeviation", "Min", "Max", "First", "Last",
        "CountDistinct", "Share", "Age",
    ),
    "Training": ("TimeSplit", "RandomSplit", "XGBoost", "Linear", "Range", "Choice", "Weights"),
    "Decisions": ("Decision", "Interval"),
    "Gates and promotion": (
        "BeatsBaseline", "BeatsChampion", "EveryClass", "MetricGate", "NotWorseThanLinear", "SliceFloor", "Promotion",
        "Canary",
    ),
    "Serving and objectives": ("Serving", "Objectives"),
    "Model card": ("Card",),
    "Checks, alerts and retraining": ("Monitoring", "QualityWatch", "Alerts", "Retraining"),
    "Durations": ("days", "hours", "minutes", "seconds"),
}  # fmt: skip
"""The sections of the page, and the names in each."""
BASES: Mapping[type, str] = {
    Column: "all columns", Aggregate: "all aggregate functions", OfValues: "functions of values",
}  # fmt: skip
"""Classes that are not exported, and of what their fields are."""
_KNOWN: Mapping[Any, str] = {
    AnyAggregate: "[aggregate function](#aggregate-functions)",
    AnyColumn: "[column](#columns)",
    Gate: "[gate](#gates-and-promotion)",
    Source: "[source](#tables-and-sources)",
    timedelta: "[duration](#durations)",
    **{getattr(problem_api, name): f"[{name}](#{name.lower()})" for name in problem_api.__all__},
}
"""The words for the types of problems, with links."""
_EXAMPLE = re.compile(r"\s*Example:\s+`(.+)`\.\s*$", re.DOTALL)


@dataclass(frozen=True)
class FieldDoc:
    """The reference of one field. `example`: a keyword argument, as in `ttl=days(7)`."""

    name: str
    type: str
    default: str
    meaning: str
    example: str
    positional: bool


def page() -> str:
    """The Markdown of the page."""
    sections = []
    for group, names in GROUPS.items():
        sections.append(f"## {group}\n")
        sections += [_section(name) for name in names]
    return markdown.page("Problem", INTRO, *sections)


def member(name: str) -> Any:
    """An exported class or function, or one of BASES."""
    return {base.__name__: base for base in BASES}.get(name) or getattr(problem_api, name)


def _section(name: str) -> str:
    found = member(name)
    if not inspect.isclass(found):
        text, example = split_example(markdown.prose(found.__doc__))
        return f"### {name}\n\n{text} Example: {code(example)}.\n"
    parts = [f"### {name}\n", f"{markdown.prose(found.__doc__)}\n"]
    bases = [base for base in found.__bases__ if base in BASES]
    parts += [f"It also takes the fields of [{BASES[base]}](#{base.__name__.lower()}).\n" for base in bases]
    fields = field_docs(found)
    if not fields:
        return "\n".join([*parts, "It has no fields of its own.\n"])
    if positional := [code(each.name) for each in fields if each.positional]:
        parts.append(f"By position: {', '.join(positional)}.\n")
    rows = [[code(f.name), f.type, f.default, f"{f.meaning}<br>{code(f.example)}"] for f in fields]
    return "\n".join([*parts, markdown.table(["field", "type", "default", "meaning and example"], rows)])


def field_docs(owner: type) -> list[FieldDoc]:
    """The fields that a class declares itself, in order. The meaning and example of a field may be empty."""
    hints, texts = get_type_hints(owner, include_extras=True), docstrings(owner)
    declared = {each.name: each for each in dataclasses.fields(owner)}  # type: ignore[arg-type]
    documented = []
    for name, text in texts.items():
        if name not in declared:  # a constant of the class
            continue
        meaning, example = split_example(text)
        each = declared[name]
        documented.append(
            FieldDoc(
                name, describe_type(hints[name], _KNOWN), describe_default(each), meaning, example, not each.kw_only
            )
        )
    return documented


def docstrings(owner: type) -> dict[str, str]:
    """The docstring of each field in the body of a class; empty where a field has none."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    assert isinstance(node, ast.ClassDef)
    found: dict[str, str] = {}
    for part, after in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(part, ast.AnnAssign) or not isinstance(part.target, ast.Name) or part.target.id == "_":
            continue
        value = after.value if isinstance(after, ast.Expr) else None
        text = value.value if isinstance(value, ast.Constant) else ""
        found[part.target.id] = " ".join(str(text).split())
    return found


def split_example(text: str) -> tuple[str, str]:
    """The meaning and the example of a docstring; either may be empty."""
    match = _EXAMPLE.search(text)
    return (text[: match.start()].strip(), match[1].strip()) if match else (text.strip(), "")


def describe_default(declared: "dataclasses.Field[Any]") -> str:
    """The default in Python; "required" if there is none."""
    if declared.default_factory is not dataclasses.MISSING:
        return code(python(declared.default_factory()))
    return "required" if declared.default is dataclasses.MISSING else code(python(declared.default))

"""Reference of the settings: every environment variable with type, default and meaning."""

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from docs.hooks import markdown_text as markdown
from docs.hooks.annotations import describe_limits, describe_type
from docs.hooks.markdown_text import any_of, code, sentence
from truecourse.settings import PREFIX, REPOSITORY, Settings

INTRO = f"""Settings are environment variables, or lines of a `.env` file in the folder where the command runs. A
variable takes precedence over the file. An unknown variable with the prefix `{PREFIX}` is an error that suggests the
nearest name.

`{PREFIX}CONNECTIONS` is a JSON object, or one variable for each connection:
`{PREFIX}CONNECTIONS__WAREHOUSE=postgresql://...`. Secrets are never logged or stored with data or models."""
_KNOWN = {bool: "`true` or `false`"}


def page() -> str:
    """The Markdown of the page."""
    rows = [[code(variable(name)), describe(field), default(field), meaning(field)] for name, field in fields().items()]
    return markdown.page("Settings", INTRO, markdown.table(["variable", "type", "default", "meaning"], rows))


def fields() -> dict[str, FieldInfo]:
    """Every setting by its name in the code."""
    return Settings.model_fields


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"{PREFIX}{name.upper()}"


def describe(field: FieldInfo) -> str:
    """The type of a setting in words."""
    limits = [each for each in field.metadata if not hasattr(each, "func")]
    unset = " or unset" if type(None) in getattr(field.annotation, "__args__", ()) else ""
    annotation = _without_none(field.annotation)
    alternatives = [code(each) for each in get_args(annotation)] if get_origin(annotation) is Literal else []
    shown = any_of(alternatives) or describe_type(annotation, _KNOWN)
    return ", ".join([f"{shown}{unset}", *describe_limits(limits)])


def _without_none(annotation: Any) -> Any:
    arguments = getattr(annotation, "__args__", ())
    return next(each for each in arguments if each is not type(None)) if type(None) in arguments else annotation


def default(field: FieldInfo) -> str:
    """The default of a setting, as it is written in a variable; empty for an empty one."""
    value = field.default
    if value is PydanticUndefined:
        return "number of processors"
    if isinstance(value, Path) and value.is_relative_to(REPOSITORY):
        return f"the repository's {code(value.relative_to(REPOSITORY))}"
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if text is None or text in ("", {}):
        return ""
    return code(str(text).lower() if isinstance(text, bool) else text)


def meaning(field: FieldInfo) -> str:
    """What a setting is for."""
    return sentence((field.description or "").replace("<", "&lt;").replace(">", "&gt;"))

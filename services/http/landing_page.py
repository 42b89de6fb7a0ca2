"""The endpoint's front page: how to call it, and a row's fields. BentoML's own page loads styles from the network."""

from typing import Any

from truecourse.data.times import TIME_PATTERN
from truecourse.html import render
from truecourse.serving import openapi
from truecourse.serving.contract import INTEGERS, LARGEST_FLOAT, Contract
from truecourse.serving.openapi import UNICODE
from truecourse.wording import counted

WIDEST = (INTEGERS[0], INTEGERS[-1], -LARGEST_FLOAT, LARGEST_FLOAT)
"""Limits of the types themselves, which are not shown for a field."""


def page(contract: Contract, about: dict[str, Any], address: str) -> str:
    row = openapi.document(contract, "")["components"]["schemas"]["Row"]
    return render(
        "endpoint.html",
        contract=contract,
        about=about,
        address=address,
        example={"rows": list(contract.examples[:1])},
        fields=[_field(name, schema, name not in row["required"]) for name, schema in row["properties"].items()],
    )


def _field(name: str, schema: dict[str, Any], optional: bool) -> dict[str, Any]:
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    least, most = schema.get("minimum"), schema.get("maximum")
    limits = [f"at least {least}"] if least not in (None, *WIDEST) else []
    limits += [f"at most {most}"] if most not in (None, *WIDEST) else []
    limits += [f"at most {counted(schema['maxLength'], 'character')}"] if "maxLength" in schema else []
    limits += [schema["pattern"]] if schema.get("pattern") not in (None, UNICODE, TIME_PATTERN) else []
    limits += [", ".join(map(str, schema["enum"][:20]))] if "enum" in schema else []
    return {
        "name": name,
        "type": " or ".join("time" if schema.get("pattern") == TIME_PATTERN and k == "string" else k for k in kinds),
        "limits": ", ".join(limits),
        "description": schema.get("description", ""),
        "optional": optional,
    }

"""`openlineage show` and `openlineage send`: lineage events that wait, and sending them now."""

from dataclasses import asdict
from typing import Any

from rich.text import Text

from cli.terminal.output import Answer, Json, command
from truecourse.errors import SettingsError
from truecourse.openlineage import delivery
from truecourse.settings import get_settings
from truecourse.wording import counted


@command
def show(json: Json = False) -> Answer:
    """Show where lineage events go, and which wait or were refused. Exits 1 if the receiver accepts none."""
    return _answer({})


@command
def send(json: Json = False) -> Answer:
    """Send the lineage events that wait. Exits 1 if the receiver accepts none."""
    if get_settings().openlineage == "off":
        hint = "set TRUECOURSE_OPENLINEAGE, such as http://localhost:5000"
        raise SettingsError("lineage events are off", where="TRUECOURSE_OPENLINEAGE", hint=hint)
    return _answer({"sent": delivery.send_pending()})


def _answer(sent: dict[str, int]) -> Answer:
    document = delivery_state() | sent
    return Answer(document, Text(_view(document)), ok=document["outage"] is None)


def delivery_state() -> dict[str, Any]:
    """The receiver, the number of events that wait, the files of refused ones, and the outage, if there is one."""
    known = delivery.outage()
    return {
        "receiver": get_settings().openlineage,
        "waiting": len(delivery.pending()),
        "refused": [str(file) for file in delivery.refused()],
        "outage": None if known is None else asdict(known),
    }


def describe_delivery(document: dict[str, Any]) -> str:
    """One line for `status`."""
    if document["receiver"] == "off":
        return "off"
    outage = document["outage"]
    waiting = f"to {document['receiver']}, {counted(document['waiting'], 'event')} waiting"
    return f"{waiting}: not delivered since {outage['since']}, {outage['reason']}" if outage else waiting


def _view(document: dict[str, Any]) -> str:
    lines = [f"lineage events: {describe_delivery(document)}"]
    if "sent" in document:
        lines.append(f"{counted(document['sent'], 'event')} delivered")
    outage = document["outage"]
    if outage is not None and outage["removed"]:
        lines.append(f"{counted(outage['removed'], 'event')} removed, because too many waited")
    lines += [f"refused by the server: {file}" for file in document["refused"]]
    return "\n".join(lines)

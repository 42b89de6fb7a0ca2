"""Report pages as artifacts of the flow run that wrote them."""

from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.context import FlowRunContext

from truecourse.settings import get_settings


def show_page(page: str, key: str, problem: str, text: str) -> None:
    """Show a page (its key in storage) with the flow run: as a link where reports are served over HTTP, else by its
    place, as text: browsers follow no link from Prefect's UI to a file. Outside a flow run nothing is shown.

    `key`: of the artifact, without the problem. `text`: what the page is."""
    if FlowRunContext.get() is None:
        return
    name, url = artifact_key(key, problem), report_url(page)
    if url:
        create_link_artifact(url, link_text=text, key=name, description=f"[{text}]({url})")
        return
    place = f"{get_settings().storage_root}/{page}"
    create_markdown_artifact(f"{text}: `{place}`\n\n`truecourse up` serves it over HTTP.", key=name, description=text)


def report_url(page: str) -> str:
    """The URL of a page by its key in storage; empty where no server of reports is known."""
    root = get_settings().reports_url.rstrip("/")
    return f"{root}/{page.removeprefix('reports/')}" if root else ""


def artifact_key(key: str, problem: str) -> str:
    """Prefect takes lower-case letters, digits and dashes."""
    return f"{key}-{problem}".replace("_", "-").lower()

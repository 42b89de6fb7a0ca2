"""Report pages as artifacts of the flow run that wrote them."""

from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.context import FlowRunContext

from truecourse.settings import get_settings


def show_page(page: str, key: str, problem: str, text: str) -> None:
    """Attach a report page to the current flow run as a Prefect artifact; do nothing outside a flow run.

    The artifact is a link if reports are served over HTTP, else the file's location as text: browsers do not follow
    links from Prefect's UI to files. `page`: its key in storage. `key`: of the artifact, without the problem. `text`:
    the title of the page."""
    if FlowRunContext.get() is None:
        return
    name, url = artifact_key(key, problem), report_url(page)
    if url:
        create_link_artifact(url, link_text=text, key=name, description=f"[{text}]({url})")
        return
    place = f"{get_settings().storage_root}/{page}"
    create_markdown_artifact(f"{text}: `{place}`\n\n`truecourse up` serves it over HTTP.", key=name, description=text)


def report_url(page: str) -> str:
    """The URL of a page, given its key in storage; empty if no report server is configured."""
    root = get_settings().reports_url.rstrip("/")
    return f"{root}/{page.removeprefix('reports/')}" if root else ""


def artifact_key(key: str, problem: str) -> str:
    """The artifact key of a problem, in the characters Prefect allows: lower-case letters, digits and dashes."""
    return f"{key}-{problem}".replace("_", "-").lower()

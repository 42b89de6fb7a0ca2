"""Take the pictures of the documentation: `make screenshots`, or `python -m docs.tools.screenshots [NAME...]`.

Headless Chromium opens the report pages of a home, by default the one of `make demo`, and writes docs/images/NAME.png.
The whole page is laid out before it is measured. A picture ends at the end of a section, so that nothing is cut."""

import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from docs.tools.browser import Browser, find_browser
from truecourse.errors import NotFound, PlatformError, TruecourseError
from truecourse.problem.loader import load_problem
from truecourse.registry import versions as registry
from truecourse.settings import get_settings
from truecourse.storage.object_store import open_store

IMAGES = Path(__file__).resolve().parents[1] / "images"
WIDTH, MARGIN = 1080, 16
MEASURE = """(() => {
  const root = document.documentElement, [part, title] = [%s, %s];
  const end = [...document.querySelectorAll("h2")].find((one) => one.textContent.trim() === title);
  const page = {left: 0, top: 0, right: %d, bottom: root.scrollHeight};
  const box = part ? document.querySelector(part)?.getBoundingClientRect() : page;
  if (!box || title && !end) return null;
  const bottom = end ? end.getBoundingClientRect().top - %d : box.bottom;
  return {left: box.left, top: box.top, width: box.right - box.left, height: bottom - box.top, wide: root.scrollWidth};
})()"""


@dataclass(frozen=True)
class Picture:
    """A picture of a page. `read`: returns the page of a problem, as HTML. `part`: the selector of the only element
    that is shown, by default all. `end`: the title of the section before which the picture ends."""

    read: Callable[[str], bytes]
    part: str = ""
    end: str = ""


def _report(name: str) -> Callable[[str], bytes]:
    def read(problem: str) -> bytes:
        return open_store().get(f"reports/{problem}/{name}.html")

    return read


def _model(problem: str) -> bytes:
    champion = registry.champion(problem)
    if champion is None:
        raise NotFound("there is no champion", where=f"model {problem}")
    return open_store().get(f"reports/{problem}/model-{champion.run_id}.html")


def _replay(problem: str) -> bytes:
    page = get_settings().home / "replay" / problem / "replay.html"
    if not page.is_file():
        raise NotFound("there is no replay", where=str(page))
    return page.read_bytes()


PICTURES = {
    "control": Picture(_report("control"), end="Open alarms"),
    "model": Picture(_model, end="Slices"),
    "validation": Picture(_report("validation")),
    "drift": Picture(_report("drift")),
    "quality": Picture(_report("quality"), end="Slices"),
    "replay": Picture(_replay, part="svg.plot"),
}
HINTS = {"replay": "truecourse replay --from 2013-04-01 --to 2013-12-31"}


def take(browser: Browser, picture: Picture, problem: str) -> bytes:
    """Take one picture. Raises NotFound if the home lacks the page, PlatformError if it is wider than the picture."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_bytes(picture.read(problem))
        browser.open(page)
        part, end = json.dumps(picture.part), json.dumps(picture.end)
        found = browser.evaluate(MEASURE % (part, end, browser.width, MARGIN))
        if found is None:
            raise PlatformError(
                f"the page has no {picture.part or picture.end}", hint="correct docs/tools/screenshots.py"
            )
        if found["wide"] > browser.width:
            what = f"the page is {found['wide']} pixels wide, the picture {browser.width}"
            raise PlatformError(what, hint="let the page's wide parts scroll, or widen the picture")
        return _compress(browser.picture(found["top"], found["left"], found["width"], found["height"]))


def _compress(png: bytes) -> bytes:
    """Reduce a PNG to a palette of 256 colours: a third of the bytes, and no visible difference on these pages."""
    out = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(out, "png", optimize=True)
    return out.getvalue()


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"of {', '.join(PICTURES)}; by default all")] = None,
    problem: Annotated[str | None, typer.Option(help="whose pages to show; the default problem if empty")] = None,
    browser: Annotated[str | None, typer.Option(help="path of Chromium")] = None,
) -> None:
    """Take pictures of the report pages of a home (TRUECOURSE_HOME)."""
    missing: list[str] = []
    try:
        chosen = {name: PICTURES[name] for name in names or PICTURES if name in PICTURES}
        if unknown := sorted(set(names or ()) - set(PICTURES)):
            raise PlatformError(f"no picture {unknown[0]!r}", hint=f"choose from {', '.join(PICTURES)}")
        program, spec = find_browser(browser), load_problem(problem)
        with Browser(program, WIDTH) as opened:
            for name, picture in chosen.items():
                try:
                    data = take(opened, picture, spec.name)
                except NotFound as error:
                    missing.append(f"{name}: {error.what}; run `{HINTS.get(name, 'make demo')}` first")
                    continue
                (IMAGES / f"{name}.png").write_bytes(data)
                typer.echo(f"docs/images/{name}.png  {len(data) / 1000:.0f} kB")
    except TruecourseError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    for line in missing:
        typer.echo(f"{line} (home: {get_settings().home})", err=True)
    if missing:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)

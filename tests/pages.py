"""Documentation pages as programs: the fenced blocks of a page, their commands, and a run that compares outputs.

A `console` block holds commands after `$ `, continued by a final backslash, each followed by its output. A block with
`title="FILE"` holds a file. `python -m tests.pages FOLDER PORT PAGE...` runs pages in a folder, and writes the outputs
into the pages.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

_FENCE = re.compile(r"^```(?P<language>\w+)(?P<options>[^\n]*)\n(?P<text>.*?)^```$", re.M | re.S)
_TITLE = re.compile(r'title="([^"]+)"')
PROMPT = "$ "
FOLDER = "/home/ada/shop"
"""The folder of a reader, as pages show it."""

MASKS = [
    (re.compile(r"^([✓✗] \S+) +(?:\d+ min )?[\d.]+ s(?=  |$)", re.M), r"\1 <seconds>"),
    (re.compile(r"\b\d+(?:\.\d+)? (?:ms|seconds?)\b"), "<seconds>"),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "<id>"),
    (re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{12,64}\b"), "<id>"),
    (re.compile(r"\b20(?:2[6-9]|[3-9]\d)-\d\d-\d\d(?:[ T]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|\+00:00| UTC)?)?"), "<now>"),
    (re.compile(r"\b\d+(?:\.\d+)? [kM]B\b"), "<size>"),
    (re.compile(r"\b\d+% (full|of its processors)"), r"<share> \1"),
    (re.compile(r"\bPython 3\.\d+"), "Python 3"),
    (re.compile(r" +$", re.M), ""),
]
"""What differs between two runs: durations, ids and digests, today's date (the data end in 2025), sizes of
archives, the machine's load, the version of Python."""

BUSY_MACHINE = {
    "TRUECOURSE_MACHINE_CPU": "1000",
    "TRUECOURSE_MACHINE_MEMORY": "0.999",
    "TRUECOURSE_MACHINE_DISK": "0.999",
    "TRUECOURSE_MAX_DELAY": "0",
}
"""Settings under which the load of the machine is no finding, and rejects no request."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page. `line`: that of its first line of text, from 1. `title`: the file that it holds."""

    page: Path
    line: int
    language: str
    title: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command of a console block, and the output that the page shows. `line`: that of its prompt."""

    page: Path
    line: int
    text: str
    output: str


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        title = _TITLE.search(match["options"])
        line = text.count("\n", 0, match.start("text")) + 1
        found.append(Block(page, line, match["language"], title[1] if title else "", match["text"]))
    return found


def commands(block: Block) -> list[Command]:
    """The commands of a console block, in order."""
    found: list[Command] = []
    lines = iter(enumerate(block.text.splitlines(), start=block.line))
    for number, line in lines:
        if line.startswith(PROMPT):
            parts = [line.removeprefix(PROMPT)]
            while parts[-1].endswith("\\"):
                parts.append(next(lines)[1])
            found.append(Command(block.page, number, "\n".join(parts), ""))
        else:
            assert found, f"{block.page.name}:{number}: a console block starts with a command"
            last = found.pop()
            found.append(Command(last.page, last.line, last.text, f"{last.output}{line}\n"))
    return found


def mask(output: str) -> list[str]:
    """The lines of an output, without what differs between two runs."""
    for pattern, replacement in MASKS:
        output = pattern.sub(replacement, output)
    return output.rstrip("\n").split("\n")


@dataclass(frozen=True)
class Session:
    """A folder in which the blocks of pages are run. `stands_for`: what pages show, by what this run has instead."""

    folder: Path
    environment: Mapping[str, str]
    stands_for: Mapping[str, str]

    def write(self, block: Block) -> None:
        """Write the file that a block holds."""
        path = self.folder / block.title
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._localized(block.text), encoding="utf-8")

    def run(self, command: Command) -> str:
        """Run a command; its output and errors, as the page would show them."""
        done = subprocess.run(
            ["bash", "-c", self._localized(command.text)],
            cwd=self.folder, env=dict(self.environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            stdin=subprocess.DEVNULL, timeout=300,
        )  # fmt: skip
        shown = done.stdout
        for ours, shown_instead in self.stands_for.items():
            shown = shown.replace(ours, shown_instead)
        # On a terminal the running step is redrawn; elsewhere it is a line every few seconds.
        lines = [line.rstrip() for line in shown.splitlines() if not line.startswith("… ")]
        return "".join(f"{line}\n" for line in lines).rstrip("\n") + "\n" if any(lines) else ""

    def _localized(self, text: str) -> str:
        for ours, shown in self.stands_for.items():
            text = text.replace(shown, ours)
        return text


def differences(session: Session, page: Path) -> Iterator[str]:
    """Write the files of a page and run its commands, in order; a description of each command's first line that
    differs from the page."""
    for block in blocks(page):
        if block.title:
            session.write(block)
        elif block.language == "console":
            for command in commands(block):
                yield from _compare(command, session.run(command))


def _compare(command: Command, output: str) -> Iterator[str]:
    for number, (shown, found) in enumerate(zip_longest(mask(command.output), mask(output)), start=1):
        if shown != found:
            place = f"{command.page.name}:{command.line + command.text.count(chr(10)) + number}"
            yield f"{place}: after `{command.text}`\n  the page: {shown!r}\n  the run:  {found!r}\n\n{output}"
            return


def rewrite(session: Session, page: Path) -> None:
    """Run a page, and write the outputs into it."""
    text, shift = page.read_text(encoding="utf-8").splitlines(), 0
    for block in blocks(page):
        if block.title:
            session.write(block)
        elif block.language == "console":
            shown = []
            for command in commands(block):
                sys.stderr.write(f"{page.name}:{command.line}: {command.text}\n")
                shown += [*f"{PROMPT}{command.text}".splitlines(), *session.run(command).splitlines()]
            start, length = block.line - 1 + shift, len(block.text.splitlines())
            text[start : start + length] = shown
            shift += len(shown) - length
            page.write_text("\n".join(text) + "\n", encoding="utf-8")


def open_session(folder: Path, port: int, **variables: str) -> Session:
    """A session without other settings than those of the pages and `variables`, with an output of 110 columns.

    `port`: that of the deployed endpoint, instead of the 3100 that pages show."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TRUECOURSE_", "AWS_"))}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    fixed = {"PATH": path, "COLUMNS": "110", "NO_COLOR": "1", "LC_ALL": "C.UTF-8"}
    stands_for = {f":{port}": ":3100", f"port: {port}": "port: 3100", str(folder): FOLDER}
    return Session(folder, kept | fixed | BUSY_MACHINE | variables, stands_for)


def main(folder: str, port: str, *names: str) -> None:
    """Run pages in a folder, and write the outputs into them."""
    session = open_session(Path(folder).resolve(), int(port))
    for name in names:
        rewrite(session, Path(name).resolve())


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Progress of a run's steps on the terminal: finished steps with time and result, and the running step."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any, Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from cli.terminal.flow_results import describe, seconds
from cli.terminal.output import stderr
from truecourse.log_files import rotate
from truecourse.repeats import Repeats
from truecourse.settings import get_settings


@dataclass
class Step:
    name: str
    started: float | None = None
    took: float | None = None
    failed: bool = False
    result: str = ""


class Progress(logging.Handler):
    """A live list of steps on a terminal; elsewhere a line for each finished step, and one every few seconds for the
    step that is running."""

    EVERY = 5.0
    """Seconds between two lines of a running step."""

    def __init__(self, names: list[str], *, quiet: bool = False) -> None:
        super().__init__(logging.INFO)
        self.steps = {name: Step(name) for name in names}
        self._console = stderr()
        self._quiet = quiet
        self._now = ""
        self._share: float | None = None
        self._over = Event()
        self._spinner = Spinner("dots", style="cyan")
        shown = self._console.is_terminal and not quiet
        self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=8) if shown else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        elif not self._quiet:
            self._over.clear()
            self._printer = Thread(target=self._print_running, name="progress", daemon=True)
            self._printer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._now = ""
        self._over.set()
        if self._live:
            self._live.stop()
        elif not self._quiet:
            self._printer.join()

    def _print_running(self) -> None:
        while not self._over.wait(self.EVERY):
            for step in list(self.steps.values()):
                if step.started is not None and step.took is None:
                    passed = time.monotonic() - step.started
                    if passed >= self.EVERY:
                        line = f"… {step.name:<12} {seconds(passed):>10}  {escape(self._now)}".rstrip()
                        self._console.print(line, soft_wrap=True)

    def emit(self, record: logging.LogRecord) -> None:
        self._now = record.getMessage().splitlines()[0][:160]
        self._share = getattr(record, "share", self._share)  # of the running step, where its lines tell

    def begin(self, name: str) -> None:
        self.steps.setdefault(name, Step(name)).started = time.monotonic()

    def end(self, name: str, result: str = "", *, failed: bool = False) -> None:
        step = self.steps[name]
        step.took, step.result, step.failed = time.monotonic() - (step.started or time.monotonic()), result, failed
        self._now, self._share = "", None
        if self._live is None and not self._quiet:
            mark = "✗" if failed else "✓"
            self._console.print(f"{mark} {name:<12} {seconds(step.took):>10}  {escape(result)}", soft_wrap=True)

    @contextmanager
    def step(self, name: str) -> Iterator[Callable[[str], None]]:
        """Run the block as a step; the block calls what it gets with the step's result."""
        results: list[str] = []
        self.begin(name)
        try:
            yield results.append
        except BaseException:
            self.end(name, failed=True)
            raise
        self.end(name, results[-1] if results else "")

    def _render(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        table.add_column(width=2)
        table.add_column(min_width=12)
        table.add_column(justify="right", min_width=9)
        table.add_column(overflow="fold")
        for step in self.steps.values():
            table.add_row(*self._row(step))
        now = Text(f"    {self._now}", style="dim", no_wrap=True, overflow="ellipsis")
        if self._share is None:
            return Group(table, now)
        bar = ProgressBar(total=1.0, completed=self._share, width=40)
        return Group(table, Padding(bar, (0, 0, 0, 4)), now)

    def _row(self, step: Step) -> tuple[RenderableType, ...]:
        if step.took is not None:
            mark = Text(" ✗", style="bold red") if step.failed else Text(" ✓", style="bold green")
            return mark, Text(step.name), Text(seconds(step.took), style="dim"), Text(step.result)
        if step.started is not None:
            passed = seconds(time.monotonic() - step.started)
            return self._spinner, Text(step.name, style="bold"), Text(passed, style="cyan"), Text("")
        return Text(" ·", style="dim"), Text(step.name, style="dim"), Text(""), Text("")


@contextmanager
def report_runs(progress: Progress, flows: list[Any]) -> Iterator[None]:
    """Show runs of these flows in the progress, and log to it and to a file, while the block lasts."""
    with ExitStack() as stack:
        for flow in flows:
            stack.enter_context(_flow_hooks(progress, flow))
        stack.enter_context(log_to(progress))
        yield


@contextmanager
def _flow_hooks(progress: Progress, flow: Any) -> Iterator[None]:
    def started(flow: Any, run: Any, state: Any) -> None:
        progress.begin(flow.name)

    def completed(flow: Any, run: Any, state: Any) -> None:
        result = state.result(raise_on_failure=False)
        progress.end(flow.name, describe(flow.name, result), failed=bool(getattr(result, "rejected", 0)))

    def failed(flow: Any, run: Any, state: Any) -> None:
        progress.end(flow.name, failed=True)

    hooks = [
        (flow.on_running_hooks, started),
        (flow.on_completion_hooks, completed),
        (flow.on_failure_hooks, failed),
        (flow.on_crashed_hooks, failed),
    ]
    for registered, hook in hooks:
        registered.append(hook)
    try:
        yield
    finally:
        for registered, hook in hooks:
            registered.remove(hook)


@contextmanager
def log_to(progress: logging.Handler) -> Iterator[None]:
    """Send our log lines to the handler, and all log lines to a file instead of the terminal, while the block lasts."""
    path = get_settings().home / "logs" / "truecourse.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    rotate(path)
    file = logging.FileHandler(path)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    file.addFilter(Repeats())
    root, logger = logging.getLogger(), logging.getLogger("truecourse")
    before, level = root.handlers[:], logger.level
    root.handlers[:] = [file]
    logger.addHandler(progress)
    logger.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.handlers[:] = before
        logger.removeHandler(progress)
        logger.setLevel(level)
        file.close()

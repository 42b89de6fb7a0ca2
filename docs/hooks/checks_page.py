"""Reference of the checks: their states, what each examines and needs, and the causes of its findings."""

from typing import get_args

from docs.hooks import markdown_text as markdown
from docs.hooks.markdown_text import code
from truecourse.monitoring.finding_causes import BROKEN_INFO, CAUSES, ROLLBACKS, STATES, SUBJECTS, CauseInfo
from truecourse.monitoring.findings import BROKEN, PREREQUISITES, Check, State
from truecourse.problem import Retraining

INTRO = """Each check writes a report: its state, one sentence, and findings. A finding has a subject, a cause, a
severity and a sentence. The cause is one of the names below; alerts, events and `Retraining` refer to it. The methods
are explained in docs/explanation/monitoring.md."""


def page() -> str:
    """The Markdown of the page."""
    states = markdown.table(["state", "meaning"], [[code(state), STATES[state]] for state in get_args(State)])
    every = markdown.table(_HEADERS, [_row(BROKEN, BROKEN_INFO)])
    sections = [
        f"## States\n\n{states}\nA finding is `critical`, which notifies people at once, or a `warning`.\n",
        f"## Any check\n\n{every}",
        *(_section(check) for check in get_args(Check)),
        f"## Why a canary is rolled back\n\n{_rollbacks()}",
        f"## Causes and retraining\n\n{_retraining()}",
    ]
    return markdown.page("Checks", INTRO, *sections)


_HEADERS = ["cause", "subject", "meaning", "critical"]


def _row(cause: str, info: CauseInfo) -> list[str]:
    return [code(cause), info.subject, info.meaning, info.critical]


def _section(check: Check) -> str:
    rows = [_row(cause, info) for cause, info in CAUSES[check].items()]
    needs = f"What makes its state known: {PREREQUISITES[check]}."
    return f"## {check.capitalize()}\n\n{SUBJECTS[check]} {needs}\n\n{markdown.table(_HEADERS, rows)}"


def _rollbacks() -> str:
    intro = "The report's figure `cause` says which test failed:\n\n"
    return intro + markdown.table(["cause", "meaning"], [[code(cause), text] for cause, text in ROLLBACKS.items()])


def _retraining() -> str:
    policy = Retraining()
    triggers, blockers = (", ".join(map(code, causes)) for causes in (policy.causes, policy.blockers))
    return (
        f"Unless a problem declares others, these causes trigger a retraining: {triggers}. "
        f"These block it while such a finding is open: {blockers}.\n"
    )

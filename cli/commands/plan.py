"""`plan`: the expected time, memory, storage and money of every stage of a problem."""

from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Group, RenderableType
from rich.text import Text

from cli.terminal.output import Answer, Json, ProblemName, command, stderr
from cli.terminal.tables import table
from truecourse.errors import SettingsError
from truecourse.wording import counted, format_duration, nearest

LIMITS = 3
"""Limits in the terminal; the document has all."""


@command
def plan(
    problem: ProblemName = None,
    rows: Annotated[
        list[str] | None,
        typer.Option(help="Rows of a table, instead of those stored.", metavar="TABLE=N"),
    ] = None,
    decisions: Annotated[int | None, typer.Option(min=0, help="Rows of the training frame.")] = None,
    times: Annotated[float, typer.Option(min=0, help="Growth of the tables with a time.")] = 1.0,
    memory: Annotated[float | None, typer.Option(min=0.1, help="Memory of the machine, in GB.")] = None,
    disk: Annotated[float | None, typer.Option(min=0.1, help="Disk of the machine, in GB.")] = None,
    hours: Annotated[float, typer.Option(min=0.01, help="Most hours of one core for a stage.")] = 24.0,
    price: Annotated[
        list[str] | None, typer.Option(help="A price: core_hour or storage_gb_month.", metavar="NAME=PRICE")
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="First measure the stages on this machine: some minutes.")
    ] = False,
    json: Json = False,
) -> Answer:
    """Plan what a problem costs: expected CPU time, peak memory, storage and money of every stage, the profile that
    holds it, and which limit is reached first.

    Starts no server and reads no rows."""
    from truecourse.planning.curves import load_calibration, save_calibration
    from truecourse.planning.estimate import Machine, Prices, make_plan, this_machine
    from truecourse.planning.workload import read_workload
    from truecourse.problem.loader import load_problem
    from truecourse.storage.delta_tables import Tables

    spec, given = load_problem(problem), _numbers("--rows", rows)
    declared = _numbers("--price", price)
    for name in declared:
        if name not in Prices.model_fields:
            raise SettingsError("no such price", where=name, hint=nearest(name, list(Prices.model_fields)))
    try:
        prices = Prices.model_validate(declared)
    except ValidationError as error:
        raise SettingsError("a price is not a number of at least 0", where=str(error.errors()[0]["loc"][0])) from None
    workload = read_workload(spec, {n: round(count) for n, count in given.items()}, Tables(), decisions).scaled(times)
    if calibrate:
        from tasks.planning.calibrate import calibrate as measure

        with stderr().status("measuring") as status:
            save_calibration(measure(lambda what: status.update(f"measuring {what}")))
    calibration, own = load_calibration()
    here = this_machine()
    machine = Machine(
        memory=memory * 1e9 if memory else here.memory, disk=disk * 1e9 if disk else here.disk, hours=hours
    )
    made = make_plan(workload, calibration, machine, prices)
    document = made.model_dump(mode="json") | {
        "problem": spec.name, "tables": dict(workload.tables), "decisions": workload.decision_rows,
        "machine": machine.model_dump(), "prices": prices.model_dump(),
        "calibration": {"own": own, "measured": calibration.measured, "machine": dict(calibration.machine)},
    }  # fmt: skip
    return Answer(document, _view(document))


def _numbers(option: str, given: list[str] | None) -> dict[str, float]:
    """Read `NAME=NUMBER`; raises SettingsError for other text."""
    found = {}
    for text in given or ():
        name, _, value = text.partition("=")
        try:
            found[name] = float(value.replace("_", "").replace(",", ""))
        except ValueError:
            found[name] = float("nan")
        if not 0 <= found[name] < float("inf"):
            raise SettingsError(f"{text!r} is not NAME=NUMBER", where=option, hint=f"for example {option} name=1000")
    return found


def _view(document: dict[str, Any]) -> RenderableType:
    lines = [_line(one) for one in document["stages"]]
    total = ("all", format_duration(document["cpu_seconds"]), _size(document["peak_memory_bytes"]),
             _size(document["storage_bytes"]), f"{document['money_per_run']:.4g}", "")  # fmt: skip
    headers = ("stage", "CPU time", "peak memory", "storage", "money", "beyond measured sizes")
    calibration = document["calibration"]
    where = "this machine" if calibration["own"] else "another machine; measure this one with --calibrate"
    return Group(
        Text(f"{document['problem']}: {counted(sum(document['tables'].values()), 'row')}, "
             f"{counted(document['decisions'], 'decision')}"),
        table(*headers, rows=[*lines, total]),
        Text(f"storage costs {document['money_per_month']:.4g} a month"),
        Text(_profile(document["profile"])),
        *(Text(_limit(one)) for one in document["limits"][:LIMITS] if one["times"] is not None),
        Text(f"calibration measured on {where}", style="dim"),
    )  # fmt: skip


def _line(one: dict[str, Any]) -> tuple[str, ...]:
    beyond = f"{one['extrapolated']:,.0f} times" if one["extrapolated"] > 1.05 else ""
    memory, storage = _size(one["peak_memory_bytes"]), _size(one["storage_bytes"])
    return one["stage"], format_duration(one["cpu_seconds"]), memory, storage, f"{one['money']:.4g}", beyond


def _profile(name: str | None) -> str:
    if name is None:
        return "profile: none holds it. Spark is not part of the product yet; use a larger machine, or fewer rows."
    return f"profile: {name}"


def _limit(one: dict[str, Any]) -> str:
    what = f"{one['what']} of {one['stage']}" if one["stage"] else one["what"]
    return f"{what} ({', '.join(one['profiles'])}): limit at {one['times']:,.3g} times these rows"


def _size(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.3g} {unit}"
    return f"{count / 1e3:,.3g} kB"

"""Sentences of the catalogue, for the page and the terminal. What is not known is called unknown."""

from datetime import date, datetime

from truecourse.catalogue.distributions import QUANTILES, Distribution, Part
from truecourse.catalogue.records import Feature, Group, Use
from truecourse.features.computation_cost import Cost
from truecourse.html import share
from truecourse.wording import counted, format_duration, with_unit

UNKNOWN = "unknown"
_SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def group_facts(group: Group) -> dict[str, str]:
    """What is known of a group, by title; without facts that its kind does not have."""
    facts = {"kind": f"{group.kind}s" if group.kind != "label" else "label", "owner": group.owner or "not declared"}
    facts |= {"feature area": group.area} if group.area else {}
    facts |= {"tags": ", ".join(group.tags)} if group.tags else {}
    if group.is_view:
        facts["entity"] = f"{group.entity} ({', '.join(group.keys)})"
        facts["time to live"] = _ttl(group)
    facts |= {"tables": ", ".join(group.tables)} if group.tables else {}
    facts |= {"code": group.file} if group.file else {}
    facts["rows"] = UNKNOWN if group.rows is None else f"{group.rows:,} in {group.table}"
    facts["freshness"] = _freshness(group)
    facts["cost"] = cost_text(group)
    return facts


def _ttl(group: Group) -> str:
    if group.timeless:
        return "unlimited: values have no time"
    if group.ttl is None:
        return "none: events leave each window by themselves"
    return format_duration(group.ttl) if group.ttl else "unlimited"


def _freshness(group: Group) -> str:
    if group.computed is None:
        return UNKNOWN
    word = "decision" if group.table.startswith("training") else "event"
    newest = f"newest {word} {moment(group.newest)}, " if group.newest else ""
    return f"{newest}written {moment(group.computed)}"


def moment(when: datetime | None) -> str:
    return f"{when:%Y-%m-%d %H:%M} UTC" if when else UNKNOWN


def cost_text(group: Group) -> str:
    """What the last computation of a view cost, and the last full one."""
    if group.kind == "request field":
        return "none: callers send the values"
    if group.kind == "request feature":
        return "not recorded: computed with each request"
    if group.kind == "label":
        return "not recorded: read when models are trained and monitored"
    if group.cost is None:
        return UNKNOWN
    last, full = group.cost.last, group.cost.full
    text = f"{_cost(last)} ({last.mode}, {counted(last.rows, 'row')})"
    return f"{text}; the last full one {_cost(full)}" if full is not None and full != last else text


def _cost(cost: Cost) -> str:
    return f"{cost.cpu_seconds:.2f} CPU seconds, {size(cost.bytes)} written"


def size(count: int) -> str:
    """A number of bytes with its unit: "5.4 MB"."""
    for unit, name in _SIZES:
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return counted(count, "byte")


def type_text(feature: Feature) -> str:
    return with_unit(feature.type, feature.unit)


def definition_text(feature: Feature) -> str:
    """How an aggregation is computed; empty for other kinds."""
    if not feature.function:
        return ""
    value = f" of {feature.value}" if feature.value else ""
    where = f", where {feature.where}" if feature.where else ""
    return f"{feature.function}{value}{where}, {window_text(feature)}"


def window_text(feature: Feature) -> str:
    return "all events until the decision" if feature.window is None else f"the last {format_duration(feature.window)}"


def origins_text(group: Group, feature: Feature) -> str:
    """The columns that a feature is computed from."""
    if feature.origins is None:
        return UNKNOWN
    return ", ".join(feature.origins) or f"the rows of {', '.join(group.tables)}"


def missing_text(distribution: Distribution | None) -> str:
    """The missing share of all rows."""
    found = distribution.total.missing_share if distribution else None
    return UNKNOWN if found is None else share(found)


def values_text(feature: Feature) -> str:
    """The quantiles or the most frequent values."""
    found = feature.distribution
    if found is None:
        return UNKNOWN
    if feature.private:
        return "not shown: the values are private"
    if found.total.quantiles:
        quantiles = zip(quantile_names(), found.total.quantiles, strict=True)
        return ", ".join(f"{name}: {value_text(value)}" for name, value in quantiles)
    if found.total.shares:
        shares = zip(found.categories, found.total.shares, strict=True)
        return ", ".join(f"{name or '(empty)'}: {share(value)}" for name, value in shares)
    return "none: every value is missing" if found.form != "missing" else UNKNOWN


def period_name(distribution: Distribution, part: Part) -> str:
    """The name of a period: 2024-03 for a month, 2024 Q1 for a quarter."""
    first = date.fromisoformat(part.start)
    if distribution.period == "year":
        return f"{first.year}"
    if distribution.period == "quarter":
        return f"{first.year} Q{(first.month + 2) // 3}"
    return part.start[:7] if distribution.period == "month" else part.start


def quantile_names() -> tuple[str, ...]:
    return tuple(f"{100 * level:g}%" for level in QUANTILES)


def value_text(value: float) -> str:
    """A quantile with four significant digits, or as a whole number."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def main_use(feature: Feature) -> Use | None:
    """The champion's use of a feature, or that of the newest version; None if no version uses it."""
    return next((use for use in feature.uses if use.role == "champion"), next(iter(feature.uses), None))


def use_text(use: Use) -> str:
    """A version's use of a feature, in a line."""
    role = f" ({use.role})" if use.role else ""
    definition = {"same": "", "earlier": ", by an earlier definition", "unknown": ", by an unknown definition"}
    return f"{use.problem} version {use.version}{role}{definition[use.definition]}"


def contribution_text(use: Use) -> str:
    """The mean absolute SHAP value and its rank."""
    if use.contribution is None:
        return UNKNOWN
    return f"{use.contribution:.3g} {use.unit}, rank {use.rank} of {use.features}"

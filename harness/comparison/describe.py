"""How is a row of a comparison said: in a table, in a line, in a sentence?"""

from harness.comparison.judging import UNDETERMINED, WORSE, ComparisonRow
from harness.scenario.metrics import FAILED_SHARE, LATENCIES, NAMES, RATE_UNITS, Measure, statistic_name
from harness.units import format_change, format_duration, format_rate, format_share


def name_of(measure: Measure) -> str:
    """`p99 TTFT`, `output token rate`."""
    if measure.metric in LATENCIES:
        return str(statistic_name(measure.metric, measure.statistic))
    return str(NAMES[measure.metric])


def unit_of(measure: Measure) -> str:
    """The unit of a rate; empty for what has none or one that depends on its size."""
    return RATE_UNITS.get(measure.metric, "")


def value_text(measure: Measure, value: float | None) -> str:
    """A value of the measure with its unit; `–` where there is none."""
    if value is None:
        return "–"
    if measure.metric == FAILED_SHARE:
        return format_share(value)
    return format_duration(value) if measure.is_latency else format_rate(value, RATE_UNITS[measure.metric])


def change_text(row: ComparisonRow) -> str:
    """`+7.1 %` of a ratio, `+1.2 points` of a share; `–` where there is none."""
    return "–" if row.ratio is None else f"{_change(row.measure, row.ratio, signed=True)}{_unit(row)}"


def interval_text(row: ComparisonRow) -> str:
    """`+4.0 to +10.3 %`; `–` where there is none."""
    if row.low is None or row.high is None:
        return "–"
    low, high = (_change(row.measure, value, signed=True) for value in (row.low, row.high))
    return f"{low} to {high}{_unit(row)}"


def _unit(row: ComparisonRow) -> str:
    return " %" if row.measure.ratio else " points"


def _change(measure: Measure, value: float, *, signed: bool) -> str:
    """Per cent of a ratio, or points of a share, to a tenth, or to two digits where they are more."""
    return format_change(100 * (value - 1 if measure.ratio else value), signed=signed)


def allowed_text(allowed: float | None) -> str:
    """`5 %`; `–` where the gate says nothing."""
    return "–" if allowed is None else f"{100 * allowed:g} %"


def detectable_text(share: float | None) -> str:
    """`7.1 %`: the smallest change that is seen; `–` where that is not known."""
    return "–" if share is None else f"{format_change(100 * share, signed=False)} %"


def describe_row(row: ComparisonRow) -> str:
    """`p99 TTFT at stage 1 (poisson 2 req/s) is 7.1 % higher (+4.0 to +10.3 %)`."""
    name = f"{name_of(row.measure)} of {row.place}" if row.part else f"{name_of(row.measure)} at {row.place}"
    if row.ratio is None or row.effect is None:
        return f"{name}: {row.reason}"
    more = row.ratio >= (1.0 if row.measure.ratio else 0.0)
    size = f"{_change(row.measure, row.ratio, signed=False)}{_unit(row)}"
    return f"{name} is {size} {'higher' if more else 'lower'} ({interval_text(row)})"


def verdict_text(row: ComparisonRow) -> str:
    """The verdict, and what the gate makes of it."""
    if row.broken:
        return f"WORSE than the {allowed_text(row.allowed)} allowed" if row.effect else f"WORSE: {row.reason}"
    if row.verdict == UNDETERMINED:
        return f"{UNDETERMINED}: {row.reason}" if row.reason else UNDETERMINED
    if row.verdict == WORSE and row.allowed:
        return f"{WORSE}, not shown to be by more than {allowed_text(row.allowed)}"
    return row.verdict


COLUMNS = ("", "base", "new", "change", "interval", "can see", "")
"""Heads of the cells of a row."""


def cells_of(row: ComparisonRow) -> tuple[str, ...]:
    """A row as the cells of a table for a terminal, under `COLUMNS`."""
    return (
        row.part or name_of(row.measure), value_text(row.measure, row.base), value_text(row.measure, row.new),
        change_text(row), interval_text(row), detectable_text(row.sees), verdict_text(row),
    )  # fmt: skip

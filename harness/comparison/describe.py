"""The words for rows of a comparison: names of measures, values, changes, verdicts and whole lines."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from harness.analysis.warnings import INVALID, NOTE, WARNING, Warning
from harness.comparison.judging import MOST_DETECTABLE, UNDETERMINED, VERDICTS, WORSE, ComparisonRow
from harness.messages import Message, message, plain, sentences
from harness.scenario.metrics import (
    ACCEPTANCE,
    ACCEPTANCE_RATE,
    ACCEPTED_LENGTH,
    LATENCIES,
    NAMES,
    RATE_UNITS,
    RATES,
    SHARES,
    Measure,
    statistic_name,
)
from harness.units import format_change, format_duration, format_rate, format_share, significant

NONE = "–"
_MOST_CHANGES = 3  # that a sentence names
SEVERITY_CODES = {
    NOTE: "comparison.severity_note",
    WARNING: "comparison.severity_warning",
    INVALID: "comparison.severity_invalid",
}


def name_of(measure: Measure) -> Message:
    """`p99 TTFT`, `output token rate`."""
    return statistic_name(measure.metric, measure.statistic) if measure.metric in LATENCIES else NAMES[measure.metric]


def unit_of(measure: Measure) -> str:
    """The unit of a rate; empty for what has none or one that depends on its size."""
    return RATE_UNITS.get(measure.metric, "")


def value_text(measure: Measure, value: float | None) -> str:
    """A value of the measure with its unit; `–` where there is none."""
    if value is None:
        return NONE
    if measure.metric in (*SHARES, ACCEPTANCE_RATE):
        return format_share(value)
    if measure.metric == ACCEPTED_LENGTH:
        return significant(value)
    return format_duration(value) if measure.is_latency else format_rate(value, RATE_UNITS[measure.metric])


def change(row: ComparisonRow) -> Message:
    """`+7.1 %` of a ratio, `+1.2 points` of a share; `–` where there is no change."""
    if row.ratio is None:
        return plain(NONE)
    code = "comparison.change_percent" if row.measure.ratio else "comparison.change_points"
    return message(code, change=percent_of(row, row.ratio))


def interval(row: ComparisonRow) -> Message:
    """`+4.0 to +10.3 %`; `–` where there is none."""
    if row.low is None or row.high is None:
        return plain(NONE)
    low, high = percent_of(row, row.low), percent_of(row, row.high)
    if row.is_blind and row.measure.ratio and low < 100 * MOST_DETECTABLE < high:
        return message("comparison.interval_beyond", low=low, most=100 * MOST_DETECTABLE)
    code = "comparison.interval_percent" if row.measure.ratio else "comparison.interval_points"
    return message(code, low=low, high=high)


def percent_of(row: ComparisonRow, value: float) -> float:
    """A ratio as the change in per cent that it is, or a difference of shares in points."""
    return 100 * (value - 1 if row.measure.ratio else value)


def allowed_text(allowed: float | None) -> str:
    """`5 %`; `–` where the gate says nothing."""
    return NONE if allowed is None else f"{100 * allowed:g} %"


def detectable_text(share: float | None) -> str:
    """`7.1 %`: the smallest change that is found; `> 200 %` beyond what says anything, `–` where it is not known."""
    if share is not None and share > MOST_DETECTABLE:
        return f"> {100 * MOST_DETECTABLE:g} %"
    return NONE if share is None else f"{format_change(100 * share, signed=False)} %"


def describe_row(row: ComparisonRow) -> Message:
    """`p99 TTFT at stage 1 (poisson 2 req/s) is 7.1 % higher (+4.0 to +10.3 %)`."""
    code = "comparison.time_of_kernel" if row.part else "comparison.measure_at"
    measure = message(code, measure=name_of(row.measure), place=row.place)
    if row.ratio is None or row.effect is None:
        return measure if row.reason is None else message("comparison.row_reason", measure=measure, reason=row.reason)
    size_code = "comparison.size_percent" if row.measure.ratio else "comparison.size_points"
    size = message(size_code, size=percent_of(row, row.ratio))
    is_higher = row.ratio >= (1.0 if row.measure.ratio else 0.0)
    code = "comparison.row_higher" if is_higher else "comparison.row_lower"
    return message(code, measure=measure, size=size, interval=interval(row))


def describe_changes(rows: Sequence[ComparisonRow]) -> list[Message]:
    """The largest changes, one of each kind of measure: `p50 TTFT +19.3 to +141 % at stages 1-4`.

    `rows` are those of one verdict, with those of the gate first. Of a kind, such as all throughputs, the measure of
    the gate with the largest change stands for the others.
    """
    kinds: dict[str, list[ComparisonRow]] = {}
    for row in rows:
        kinds.setdefault(_kind(row.measure), []).append(row)
    leading = [max(own, key=lambda row: (row.allowed is not None, _size(row))) for own in kinds.values()]
    leading.sort(key=_size, reverse=True)
    return [_changes([row for row in rows if row.measure == first.measure]) for first in leading[:_MOST_CHANGES]]


def _kind(measure: Measure) -> str:
    """What a measure is one of: throughputs, or a latency whoever's view it has."""
    if measure.metric in RATES:
        return "rates"
    return measure.metric.partition("_")[0] if measure.metric in LATENCIES else measure.metric


def _size(row: ComparisonRow) -> float:
    return abs(row.effect.estimate) if row.effect else 0.0


def _changes(rows: Sequence[ComparisonRow]) -> Message:
    """The change of one measure: at its stage, or the smallest and the largest over its stages."""
    least, most = min(rows, key=_size), max(rows, key=_size)
    place, size = most.place, change(most)
    if len(rows) > 1:
        code = "comparison.interval_percent" if most.measure.ratio else "comparison.interval_points"
        low, high = (percent_of(row, row.ratio) for row in (least, most) if row.ratio is not None)
        place = message("comparison.stage_numbers", stages=", ".join(_ranges([row.stage + 1 for row in rows])))
        size = message(code, low=low, high=high)
    return message("comparison.change_at", measure=name_of(most.measure), change=size, place=place)


def _ranges(numbers: Sequence[int]) -> Iterator[str]:
    """`1-3` for 1, 2 and 3."""
    for _, run in groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0]):
        own = [number for _, number in run]
        yield str(own[0]) if len(own) == 1 else f"{own[0]}-{own[-1]}"


def acceptance_lines(rows: Sequence[ComparisonRow]) -> Iterator[Message]:
    """For each side whose engine drafts what was accepted, from the least to the most of its stages."""
    for side in ("base", "new"):
        words: dict[str, Message] = {}
        for name in ACCEPTANCE:
            own = [(value, row) for row in rows if row.measure.metric == name and (value := getattr(row, side))]
            ends = [value_text(row.measure, value) for value, row in sorted(own, key=lambda pair: pair[0])]
            if ends:
                words[name] = _between(ends[0], ends[-1])
        if len(words) == len(ACCEPTANCE):
            rate, length = words.values()
            yield message("comparison.acceptance_of_side", side=side.upper(), rate=rate, length=length)


def _between(least: str, most: str) -> Message:
    return plain(least) if least == most else message("comparison.least_to_most", least=least, most=most)


def verdict_message(row: ComparisonRow) -> Message:
    """The verdict, and what the gate makes of it."""
    if row.broken and row.effect is None:
        return message("comparison.worse_lost", reason=row.reason)
    if row.broken:
        return message("comparison.worse_beyond", allowed=row.allowed)
    if row.verdict == UNDETERMINED and row.reason is not None:
        return message("comparison.undetermined_reason", reason=row.reason)
    if row.verdict == WORSE and row.allowed:
        return message("comparison.worse_within", allowed=row.allowed)
    return VERDICTS[row.verdict]


def describe_warning(warning: Warning) -> Message:
    """`warning: ...` as a line, with the next step; a note has its text alone."""
    text = warning.text if warning.severity == NOTE else sentences(warning.text, warning.next)
    severity = message(SEVERITY_CODES.get(warning.severity, "comparison.severity_warning"))
    return message("comparison.warning_line", severity=severity, warning=text)

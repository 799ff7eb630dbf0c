"""A finished result as lines of a terminal: the answer, the verdict, a table with a row a stage, and the warnings.

The table is as wide as the terminal: columns that have no room move into further tables below it, each with the stage's
number. Times of a column share one unit. A percentile marked `?` has too few independent answers for an interval. TTFT
of open loops is from the due time, as their limits are judged, and every percentile that a limit judges has a column.
"""

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.analysis.answer import requested_load
from harness.analysis.slo import VERDICTS, unproven
from harness.analysis.speculation import LENGTH, RATE
from harness.analysis.steady_state import is_open
from harness.analysis.warnings import INVALID, NOTE, SEVERITIES, WARNING, Warning, verdict_of, warnings_of
from harness.errors import displayable
from harness.messages import Message, Parameter, localized, message, stored
from harness.scenario.metrics import LATENCIES, NAMES, STATISTICS, USER_VIEW, statistic_name
from harness.scenario.stages import load_name
from harness.units import format_count, format_duration, significant, time_scale

_SEVERITIES = {NOTE: "cli.note", WARNING: "cli.severity_warning", INVALID: "cli.invalid"}
_LATENCIES = ("ttft", "tpot", "itl")
_STATISTICS = ("p50", "p99")  # and those that a limit judges
_HEADS = {
    "ttft_user": "terms.ttft_user",
    "ttft_answer": "terms.ttft_answer",
    "ttft_answer_user": "terms.ttft_answer_user",
    "e2e_user": "terms.e2e_user",
}
_SHORT = {view: metric for metric, view in USER_VIEW.items()}  # the head says from when
_NONE = "–"
_TOO_FEW, _INVALID = "?", "!"
_NAME_COLUMNS = 31  # of a load's name; longer ones are broken between words
_GAP = 2
_TIGHT = re.compile(r"(?<=\d) (?=[^\W\d]|%)|(?<=[<>]) (?=\d)|(?<=\d[hm]) (?=\d)")
"""Blanks between a number and its unit, between a sign and its number, within `2m 05s`."""
_JOINER = "\u2800"  # stands for such a blank while lines are broken: as wide, and no place to break at
Stage = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Output:
    """Where lines go: columns (None: as many as needed) and rich's name of its colours (None: none)."""

    width: int | None = None
    colours: str | None = None


PLAIN = Output()


def output_of(stream: Any) -> Output:
    """What a stream can show: a terminal has a width and perhaps colours, a file takes lines of any length."""
    if not stream.isatty():
        return Output()
    console = Console(file=stream)
    return Output(console.width, console.color_system)


def result_lines(summary: Mapping[str, Any], output: Output = PLAIN, *, all_warnings: bool = True) -> list[str]:
    """The answer, the verdict, the stages and the warnings of summary.json, in the current language."""
    warnings = warning_lines(summary) if all_warnings else folded_warning_lines(summary)
    stages = summary.get("stages") or ()
    return [*verdict_lines(summary), *table_lines(stages, output), *engine_lines(stages), *warnings]


def verdict_lines(summary: Mapping[str, Any]) -> list[str]:
    """The answer, and what the result is worth."""
    answer = stored(summary.get("answer_message"), str(summary["answer"]))
    return [displayable(localized(answer)), localized(verdict_of(summary))]


def engine_lines(stages: Sequence[Stage]) -> list[str]:
    """Of the highest load the engine that was fullest, where there were several."""
    several = [stage for stage in stages if len(stage.get("engines") or ()) > 1]
    if not several:
        return []
    stage = max(several, key=requested_load)
    fullest = max(stage["engines"], key=_fullness)
    words = {name: _mean(fullest, name) for name in ("running", "waiting", "kv_use")}
    line = message(
        "cli.fullest_engine", load=_name(stage), engine=str(fullest["name"]), engines=len(stage["engines"]), **words
    )
    return [displayable(localized(line))]


def _fullness(engine: Mapping[str, Any]) -> tuple[float, ...]:
    """Whole requests that wait, then how full the cache is, then what runs."""
    return round(_mean(engine, "waiting")), _mean(engine, "kv_use"), _mean(engine, "running")


def _mean(engine: Mapping[str, Any], name: str) -> float:
    return float((engine.get(name) or {}).get("mean") or 0.0)


def warning_lines(summary: Mapping[str, Any]) -> list[str]:
    """Every warning on a line of its own."""
    loads = {stage.get("index"): stage.get("load") for stage in summary.get("stages") or ()}
    return [displayable(localized(_warning(warning, loads))) for warning in warnings_of(summary)]


def _warning(warning: Warning, loads: Mapping[Any, Any]) -> Message:
    words = _words(warning)
    if warning.stage is None:
        return message("cli.warning", **words)
    load = loads.get(warning.stage)
    words |= {"stage": warning.stage + 1, "load": load_name(load) if load else "?"}
    if warning.repeat:
        return message("cli.warning_of_repeat", **words, repeat=warning.repeat + 1)
    return message("cli.warning_of_stage", **words)


def _words(warning: Warning) -> dict[str, Parameter]:
    return {"severity": Message(_SEVERITIES[warning.severity]), "text": warning.text, "next": warning.next}


def folded_warning_lines(summary: Mapping[str, Any]) -> list[str]:
    """One line a kind of warning, the gravest first: its first text, and the stages that it holds of."""
    groups: dict[tuple[str, str], list[Warning]] = {}
    for warning in warnings_of(summary):
        groups.setdefault((warning.severity, warning.code), []).append(warning)
    ordered = sorted(groups.values(), key=lambda group: -SEVERITIES.index(group[0].severity))
    return [displayable(localized(_folded(group))) for group in ordered]


def _folded(group: Sequence[Warning]) -> Message:
    words = _words(group[0])
    stages = list(dict.fromkeys(warning.stage + 1 for warning in group if warning.stage is not None))
    if not stages:
        return message("cli.warning", **words)
    if len(group) == 1:
        return message("cli.warning_of_one", **words, stage=stages[0])
    return message("cli.warnings_of_stages", **words, stages=_ranges(stages), count=len(group) - 1)


def _ranges(numbers: Sequence[int]) -> list[str]:
    """Numbers in order with runs of three and more joined: 1-4, 7."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1].append(number)
        else:
            ranges.append([number])
    shown = [[f"{part[0]}-{part[-1]}"] if len(part) > 2 else list(map(str, part)) for part in ranges]
    return [text for part in shown for text in part]


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column of a table: its head (lines apart), its cells, and how it is laid out."""

    head: str
    cells: tuple[Text, ...]
    right: bool = True
    folds: bool = False
    joins: bool = False  # stays beside the column before it

    @property
    def width(self) -> int:
        """Columns of the terminal that it wants."""
        heads = [Text(part) for part in self.head.split("\n")]
        widest = max(cell.cell_len for cell in (*heads, *self.cells))
        return min(widest, _NAME_COLUMNS) if self.folds else widest


def table_lines(stages: Sequence[Stage], output: Output = PLAIN) -> list[str]:
    """A row a stage: what was offered, what came of it, latencies and limits; no lines where there are no stages."""
    if not stages:
        return []
    number, *columns = _columns(stages)
    lines = in_tables(number, columns, output)
    for mark, code in ((_INVALID, "cli.table_invalid"), (_TOO_FEW, "cli.table_too_few")):
        if any(cell.plain.endswith(mark) for column in columns for cell in column.cells):
            lines.append(localized(code))
    return lines


def in_tables(first: TableColumn, columns: Sequence[TableColumn], output: Output) -> list[str]:
    """The columns beside the first, in as many tables below one another as the width needs."""
    groups = _fitting(first.width, columns, output.width)
    return [line for group in groups for line in _table([first, *group], output)]


def _fitting(first: int, columns: Sequence[TableColumn], width: int | None) -> Iterator[list[TableColumn]]:
    """The columns in as many groups as fit beside the first column each."""
    group: list[TableColumn] = []
    taken = first
    for place, column in enumerate(columns):
        wanted = [column, *takewhile(lambda after: after.joins, columns[place + 1 :])]
        size = sum(_GAP + each.width for each in wanted)
        if group and not column.joins and width is not None and taken + size > width:
            yield group
            group, taken = [], first
        group.append(column)
        taken += _GAP + column.width
    yield group


def _table(columns: Sequence[TableColumn], output: Output) -> list[str]:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, _GAP - 1, 0, 0), show_edge=False)
    for column in columns:
        side: Literal["left", "right"] = "right" if column.right else "left"
        width = column.width if column.folds else None
        table.add_column(Text(column.head), justify=side, no_wrap=not column.folds, width=width, vertical="bottom")
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(_joined, row))
    colours: Any = output.colours
    console = Console(
        file=io.StringIO(), width=10_000, color_system=colours, force_terminal=colours is not None, highlight=False
    )
    with console.capture() as capture:
        console.print(table)
    return [line.replace(_JOINER, " ").rstrip() for line in capture.get().splitlines()]


def _joined(cell: Text) -> Text:
    """The cell with its numbers held to their units."""
    joined = cell.copy()
    joined.plain = _TIGHT.sub(_JOINER, cell.plain)
    return joined


def _columns(stages: Sequence[Stage]) -> Iterator[TableColumn]:
    repeats = any(stage.get("repeat") for stage in stages)
    yield TableColumn("", tuple(Text(_number(stage, repeats=repeats)) for stage in stages))
    names = tuple(Text(displayable(_name(stage))) for stage in stages)
    yield TableColumn(localized("cli.table_load"), names, right=False, folds=True)
    rates = [stage.get("offered_rate") for stage in stages]
    if any(rate is not None for rate in rates):
        yield _numbers("cli.table_offered", "req/s", rates)
    for key, code in (("completed", "cli.table_answered"), ("failed", "cli.table_failed")):
        counts = [(stage.get("requests") or {}).get(key) for stage in stages]
        style = "bold red" if key == "failed" else ""
        yield TableColumn(localized(code), tuple(Text(format_count(count), style if count else "") for count in counts))
    lost = [sum((stage.get("requests") or {}).get(key) or 0 for key in ("cancelled", "never_sent")) for stage in stages]
    if any(lost):
        yield TableColumn(localized("cli.table_lost"), tuple(Text(format_count(count)) for count in lost))
    yield _numbers("cli.table_achieved", "req/s", [stage.get("request_rate") for stage in stages])
    yield from _throughputs(stages)
    if any(stage.get("slo") for stage in stages):
        yield _numbers("cli.table_goodput", "req/s", [stage.get("goodput") for stage in stages])
    for metric in _latencies(stages):
        yield from _times(metric, stages)
    yield from _acceptance(stages)
    yield from _prefix_hits(stages)
    if any(stage.get("slo") for stage in stages):
        yield TableColumn(localized("cli.table_limits"), tuple(map(_limits, stages)), right=False, folds=True)


def _acceptance(stages: Sequence[Stage]) -> Iterator[TableColumn]:
    """What was accepted of drafts, where any stage's engine speculated; both columns stay side by side."""
    drafted = [stage.get("speculation") or {} for stage in stages]
    if any(drafted):
        yield _numbers("cli.table_accepted", "%", [_percent(own.get(RATE)) for own in drafted])
        yield replace(_numbers("cli.table_accepted_length", "tok", [own.get(LENGTH) for own in drafted]), joins=True)


def _prefix_hits(stages: Sequence[Stage]) -> Iterator[TableColumn]:
    """Measured prefix hits, where a share of them was asked for."""
    hits = [stage.get("prefix") or {} for stage in stages]
    if any(own.get("target") is not None for own in hits):
        yield _numbers("cli.table_prefix_hits", "%", [_percent(own.get("measured_hit_rate")) for own in hits])


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _throughputs(stages: Sequence[Stage]) -> Iterator[TableColumn]:
    """Tokens a second; of answers without tokens, documents and tokens of input."""
    if any(stage.get("document_rate") is not None for stage in stages):
        yield _numbers("cli.table_documents", "doc/s", [stage.get("document_rate") for stage in stages])
        yield _numbers("cli.table_input", "tok/s", [stage.get("input_token_rate") for stage in stages])
    else:
        yield _numbers("cli.table_output", "tok/s", [stage.get("output_token_rate") for stage in stages])


def _number(stage: Stage, *, repeats: bool) -> str:
    number = str((stage.get("index") or 0) + 1)
    return f"{number}.{(stage.get('repeat') or 0) + 1}" if repeats else number


def _name(stage: Stage) -> str:
    try:
        return localized(load_name(stage["load"]))
    except KeyError:
        return str(stage.get("label") or _NONE)


def _numbers(code: str, unit: str, values: Iterable[float | None]) -> TableColumn:
    cells = tuple(Text(_NONE if value is None else significant(value)) for value in values)
    return TableColumn(f"{localized(code)}\n{unit}", cells)


def _latencies(stages: Sequence[Stage]) -> list[str]:
    """The latencies that a table shows: of open loops as their users saw them, and what a limit judges."""
    views = {_view(metric, stage) for metric in _latencies_of(stages) for stage in stages}
    views |= {metric for stage in stages for metric, _ in _judged(stage)}
    return [metric for metric in LATENCIES if metric in views]


def _latencies_of(stages: Sequence[Stage]) -> Sequence[str]:
    """Those of tokens; beside them that of the answer where models reason; E2E alone where no answer has tokens."""
    if any(stage.get("documents") for stage in stages):
        return ("e2e",)
    if any(stage.get("reasoning_tokens") for stage in stages):
        return ("ttft", "ttft_answer", "tpot", "itl")
    return _LATENCIES


def _view(metric: str, stage: Stage) -> str:
    view = USER_VIEW.get(metric, metric)
    return view if is_open(str((stage.get("load") or {}).get("kind"))) and stage.get(view) else metric


def _shows(metric: str, stage: Stage) -> bool:
    """Whether a stage has this latency in the table, or the same from another moment."""
    return _view(_SHORT.get(metric, metric), stage) == metric or any(metric == judged for judged, _ in _judged(stage))


def _judged(stage: Stage) -> Iterator[tuple[str, str]]:
    """Metric and statistic of each limit."""
    for key, limit in (stage.get("slo") or {}).items():
        metric, _, statistic = key.rpartition("_")
        yield str(limit.get("metric") or metric), statistic


def _times(metric: str, stages: Sequence[Stage]) -> Iterator[TableColumn]:
    """The columns of a latency, in the one unit that shows its least value well; they stay side by side."""
    latencies = [stage.get(metric) or {} if _shows(metric, stage) else {} for stage in stages]
    wanted = {*_STATISTICS, *(name for stage in stages for judged, name in _judged(stage) if judged == metric)}
    statistics = [statistic for statistic in STATISTICS if statistic in wanted]
    known = [value for latency in latencies for name in statistics if (value := latency.get(name))]
    size, unit = time_scale(min(known, default=0.0))
    marked = any(_mark(latency, statistic) for latency in latencies for statistic in statistics)
    for statistic in statistics:
        cells = tuple(_time(latency, statistic, size, marked=marked) for latency in latencies)
        first = statistic == statistics[0]
        head = localized(_HEADS.get(metric, NAMES[metric])) if first else ""
        yield TableColumn(f"{head}\n{statistic} {unit}", cells, joins=not first)


def _mark(latency: Mapping[str, Any], statistic: str) -> str:
    """What stands behind a time that is not valid itself, or that has no interval."""
    if statistic in (latency.get("invalid") or ()):
        return _INVALID
    return _TOO_FEW if latency.get(statistic) is not None and not (latency.get("ci95") or {}).get(statistic) else ""


def _time(latency: Mapping[str, Any], statistic: str, size: float, *, marked: bool) -> Text:
    """A time with its mark; the column keeps room for one where any time is `marked`."""
    value = latency.get(statistic)
    text = _NONE if value is None else significant(value / size)
    mark = _mark(latency, statistic)
    if mark:
        return Text(text + mark, "red" if mark == _INVALID else "dim")
    return Text(text + " " * marked)


def _limits(stage: Stage) -> Text:
    """Whether all limits are kept, else those that are not, with the limit."""
    limits = stage.get("slo") or {}
    if not limits:
        return Text(_NONE)
    missed = [_missed(key, limit) for key, limit in limits.items() if limit.get("met") is False]
    weak = unproven(stage)
    if missed:
        return Text(localized("cli.table_missed", verdict=VERDICTS[False, weak], limits=missed), "red")
    if any(limit.get("met") is None for limit in limits.values()):
        return Text(localized("cli.table_undecided"))
    return Text(localized(VERDICTS[True, weak]), "" if weak else "green")


def _missed(key: str, limit: Mapping[str, Any]) -> Message:
    metric, _, statistic = key.rpartition("_")
    name = statistic_name(_SHORT.get(metric, metric), statistic)
    words: dict[str, Parameter] = {"name": name, "limit": format_duration(limit.get("limit"))}
    if limit.get("value") is None:  # failed requests keep no limit: they may leave none
        return message("cli.table_over", **words)
    return message("cli.table_value_over", value=format_duration(limit["value"]), **words)

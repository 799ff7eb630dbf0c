"""The tables of a run's page, as text with its units chosen once a row or column."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from harness.analysis.client_error import KERNEL
from harness.analysis.slo import BY_CLIENT, CUT, VERDICTS, unproven, unproven_limits
from harness.analysis.steady_state import is_open
from harness.analysis.warnings import is_invalid, warnings_of
from harness.messages import localized, stored
from harness.results.folder import ResultFiles, number
from harness.scenario.metrics import statistic_name
from harness.statistics.distributions import has_open_end
from harness.units import (
    format_count,
    format_duration,
    format_rate,
    format_share,
    significant,
    time_scale,
)
from reports.data import Data
from reports.glossary import METRIC_ORDER, name_of
from reports.headline import grew, held_value, judged_statistic, left_out
from reports.loads import column_title, load_text, stage_title, title_of
from reports.request_kinds import further_counts, latency_metrics, throughputs
from reports.texts import paragraph

_SHOWN = ("mean", "p50", "p90", "p95", "p99")
UNSURE = {  # why a value does not decide about its limit (`unsure` of summary.json)
    BY_CLIENT: "page.stages.unsure_client",
    CUT: "page.stages.unsure_cut",
    "few": "page.stages.unsure_few",  # earlier versions judged whole stages of an interrupted run by their interval
}
_SPREAD = ("std", "min", "max")
_STATISTICS = {  # those that have a name; percentiles are called alike in every language
    "mean": "page.stages.mean",
    "std": "page.stages.std",
    "min": "page.stages.min",
    "max": "page.stages.max",
}
_COUNTS = {
    "scheduled": "page.counts.scheduled",
    "sent": "page.counts.sent",
    "completed": "page.counts.completed",
    "failed": "page.counts.failed",
    "cancelled": "page.counts.cancelled",
    "never_sent": "page.counts.never_sent",
    "warmup": "page.counts.warmup",
    "in_window": "page.counts.in_window",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """A value, a quieter line under it, a tone (good, bad or plain), and the term that it is."""

    text: str
    below: str = ""
    tone: str = "plain"
    term: str = ""
    foreign: bool = False  # a name or value from outside, which no language changes
    quoted: bool = False  # so is the line under it
    link: str = ""  # the page that its text leads to


@dataclass(frozen=True, slots=True)
class Column:
    """A column's head: the term it shows, its words, its unit; `parts` where it spans several columns."""

    term: str
    label: str
    unit: str = ""
    parts: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """Heads and rows; the first cell of a row is its own head."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]

    @property
    def two_deep(self) -> bool:
        """Whether heads stand in two rows."""
        return any(column.parts for column in self.columns)


@dataclass(frozen=True, slots=True)
class StageTable:
    """Everything that the summary holds of one stage."""

    index: int
    label: str
    window: str
    steady: bool | None
    counts: Sequence[tuple[str, str]]
    metrics: Table
    limits: Sequence[Sequence[Cell]]
    withheld: bool
    left_out: str = ""


def overview(result: ResultFiles) -> Table:
    """A row a stage: offered and achieved load, counts, and the latencies that matter most."""
    stages = result.stages
    by_clock = any(is_open(str((stage.get("load") or {}).get("kind"))) for stage in stages)
    limited = any(stage.get("slo") for stage in stages)
    metrics, brought = latency_metrics(stages, by_clock=by_clock), throughputs(stages)
    shown = {metric: ("p50", judged_statistic(result, metric)) for metric in metrics}
    scales = {metric: _scale(stages, metric) for metric in metrics}
    columns = [
        Column("", localized("page.stages.stage")),
        Column("slo", localized("page.stages.limits")),  # where a narrow window still shows it
        *([Column("offered_rate", localized("page.stages.offered"), "req/s")] if by_clock else []),
        Column("request_rate", localized("page.stages.rate"), "req/s"),
        *([Column("goodput", localized("page.stages.goodput"), "req/s")] if limited else []),
        *(Column(key, localized(code), unit) for key, code, unit in brought),
        Column("concurrency", localized("page.stages.in_flight"), localized("page.stages.mean")),
        Column("", localized("page.cards.completed")),
        Column("", localized("page.stages.failed")),
        *(Column(metric, name_of(metric), scales[metric][1], shown[metric]) for metric in metrics),
    ]
    picked = [(metric, name, scales[metric][0]) for metric in metrics for name in shown[metric]]
    growing = grew(result)
    wanted = (("offered_rate", by_clock), ("request_rate", True), ("goodput", limited))
    rates = [name for name, is_shown in wanted if is_shown] + [key for key, _, _ in brought]
    kept = warnings_of(result.summary)
    invalid = [is_invalid(kept, stage.get("index") or 0, stage.get("repeat") or 0) for stage in stages]
    rows = [
        _overview_row(stage, rates, picked, _limits_cell(stage, growing, invalid=is_so))
        for stage, is_so in zip(stages, invalid, strict=True)
    ]
    return Table(columns, rows)


def _overview_row(
    stage: Mapping[str, Any], rates: Sequence[str], picked: Sequence[tuple[str, str, float]], limits: Cell
) -> list[Cell]:
    requests = stage.get("requests") or {}
    failed = requests.get("failed") or 0
    unanswered = sum(requests.get(name) or 0 for name in ("cancelled", "never_sent"))
    return [
        Cell(column_title(stage.get("index") or 0, load_text(stage)), _repeat(stage)),
        limits,
        *(_rate_cell(stage, name) for name in rates),
        Cell(significant(number((stage.get("concurrency") or {}).get("mean")))),
        Cell(format_count(requests.get("completed")), _cut_short(unanswered)),
        _failed_cell(failed),
        *(_statistic(stage.get(metric) or {}, name, size) for metric, name, size in picked),
    ]


def _rate_cell(stage: Mapping[str, Any], name: str) -> Cell:
    """A rate with its interval below it."""
    pair = (stage.get("rates_ci95") or {}).get(name)
    return Cell(significant(number(stage.get(name))), "–".join(map(significant, pair)) if pair else "")


def _cut_short(requests: int) -> str:
    return localized("page.stages.cut_short", requests=requests) if requests else ""


def _failed_cell(failed: int) -> Cell:
    return Cell(format_count(failed), localized("page.stages.left_out_short"), "bad") if failed else Cell("0")


def _repeat(stage: Mapping[str, Any]) -> str:
    return localized("page.stages.repeat", number=stage["repeat"] + 1) if stage.get("repeat") else ""


def _limits_cell(stage: Mapping[str, Any], growing: set[int], *, invalid: bool) -> Cell:
    if invalid:
        return Cell(localized("page.not_valid"), localized("page.stages.not_answering"), "bad")
    queue = localized("page.stages.queue_grew") if stage.get("index") in growing else ""
    if not stage.get("slo"):
        return Cell("–", queue)
    missed = [key for key, held in stage["slo"].items() if held.get("met") is False]
    weak = unproven(stage)
    if missed:
        return Cell(localized(VERDICTS[False, weak]), ", ".join(missed), "bad")
    if any(held.get("met") is None for held in stage["slo"].values()):
        return Cell(localized("page.stages.unknown"), queue)
    return Cell(localized(VERDICTS[True, weak]), queue, "plain" if queue or weak else "good")


def verdict_cell(met: Any, unproven: str = "") -> Cell:
    """Whether a limit is met; None where nobody knows. `unproven` says why it is no proof."""
    if met is None:
        return Cell(localized("page.stages.unknown"))
    tone = "plain" if unproven else "good" if met else "bad"
    return Cell(localized(VERDICTS[met, unproven]), tone=tone)


def _scale(stages: Sequence[Mapping[str, Any]], metric: str) -> tuple[float, str]:
    """The unit (size in seconds, name) of a metric over all stages."""
    tails = [number((stage.get(metric) or {}).get("p99")) for stage in stages]
    return time_scale(max((value for value in tails if value == value), default=0.0))  # noqa: PLR0124 - nan is unequal to itself


def stage_tables(result: ResultFiles) -> list[StageTable]:
    """Every stage in full."""
    growing = grew(result)
    return [
        _stage_table(place, stage, grows=stage.get("index") in growing) for place, stage in enumerate(result.stages)
    ]


def _stage_table(place: int, stage: Mapping[str, Any], *, grows: bool) -> StageTable:
    window, weak = stage.get("window") or {}, unproven_limits(stage)
    counts = [(count_name(name), format_count(value)) for name, value in (stage.get("requests") or {}).items()]
    counts += [
        (localized("page.counts.goodput"), format_rate(stage.get("goodput"), "req/s")),
        (localized("page.counts.prompt_tokens"), format_count(stage.get("input_tokens"))),
        (localized("page.counts.output_tokens"), format_count(stage.get("output_tokens"))),
        (localized("page.counts.all_tokens"), format_rate(stage.get("total_token_rate"), "tokens/s")),
        (localized("page.counts.most_in_flight"), format_count((stage.get("concurrency") or {}).get("max"))),
        *further_counts(stage),
        *_energy(stage.get("energy")),
    ]
    return StageTable(
        index=place,
        label=title_of(stage),
        window=_window_text(stage),
        steady=window.get("steady"),
        counts=counts,
        metrics=_metric_table(stage, grows=grows),
        withheld=any((stage.get(metric) or {}).get("needed_s") for metric in METRIC_ORDER),
        limits=[_limit_row(key, held, weak.get(key, "")) for key, held in (stage.get("slo") or {}).items()],
        left_out=left_out(stage),
    )


def count_name(name: str) -> str:
    """The name of a count of requests."""
    return localized(_COUNTS[name]) if name in _COUNTS else name


def _window_text(stage: Mapping[str, Any]) -> str:
    """The reason for the window of a stage, and for the beginning of its rates."""
    windows = [stage.get(name) or {} for name in ("window", "rates_window")]
    reasons = [stored(window.get("message"), str(window["text"])) for window in windows if window.get("text")]
    return paragraph(map(localized, reasons))


def _energy(energy: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Power and energy of the NPUs in use, where it is known."""
    if energy is None:
        return []
    per_token = format_rate(energy.get("joules_per_output_token"), "J")
    power = format_rate(energy.get("mean_watts"), "W")
    return [(localized("page.counts.energy"), per_token), (localized("page.counts.power"), power)]


def _limit_row(key: str, held: Mapping[str, Any], unproven: str) -> list[Cell]:
    verdict = verdict_cell(held.get("met"), unproven)
    if held.get("unsure") in UNSURE:
        verdict = Cell(localized("page.stages.not_met_surely"), localized(UNSURE[held["unsure"]]))
    return [Cell(key), Cell(format_duration(held.get("limit"))), Cell(held_value(held)), verdict]


def _metric_table(stage: Mapping[str, Any], *, grows: bool) -> Table:
    present = [metric for metric in METRIC_ORDER if (stage.get(metric) or {}).get("n")]
    columns = [
        Column("", localized("page.stages.metric")),
        Column("", "n"),
        *(Column("", localized(_STATISTICS[n])) if n in _STATISTICS else Column("p99", n) for n in (*_SHOWN, *_SPREAD)),
    ]
    return Table(columns, [_metric_row(metric, stage[metric], grows=grows) for metric in present])


def _metric_row(metric: str, statistics: Mapping[str, Any], *, grows: bool = False) -> list[Cell]:
    size, unit = time_scale(number(statistics.get("p99")))
    return [
        Cell(name_of(metric), unit, term=metric),
        Cell(format_count(statistics.get("n"))),
        *(_statistic(statistics, name, size, needs(statistics, name, grows=grows)) for name in (*_SHOWN, *_SPREAD)),
    ]


def _statistic(statistics: Mapping[str, Any], name: str, size: float, withheld: str = "") -> Cell:
    """A statistic in its row's unit, its interval under it; where that is withheld, what it needs."""
    pair = (statistics.get("ci95") or {}).get(name)
    below = _between(statistics, name, size) if pair else withheld
    invalid = name in (statistics.get("invalid") or ())
    below = localized("page.stages.statistic_invalid") if invalid else below
    return Cell(significant(number(statistics.get(name)) / size), below, "bad" if invalid else "plain")


def _between(statistics: Mapping[str, Any], name: str, size: float) -> str:
    """An interval in its row's unit; one that reaches the largest value has no upper end."""
    low, high = (significant(end / size) for end in statistics["ci95"][name])
    return f"≥ {low}" if has_open_end(statistics, name) else f"{low}–{high}"


def needs(statistics: Mapping[str, Any], name: str, *, grows: bool = False) -> str:
    """The duration of a run that would give the interval which is withheld; empty where none is.

    Where the queue `grows`, no duration gives it.
    """
    seconds = (statistics.get("needed_s") or {}).get(name)
    if seconds and grows:
        return localized("page.stages.never")
    return localized("page.stages.needs", needed_s=seconds) if seconds else ""


_NONE = Cell("–")
_CLIENT_ERRORS = (("ttft", "mean"), ("tpot", "mean"), ("itl", "p99"))


def client_heads() -> list[str]:
    """The columns of `client_table`."""
    return [
        localized("page.stages.stage"),
        localized("page.client.stamps"),
        localized("page.client.first_exact"),
        localized("page.client.blurred"),
        localized("page.client.read_late"),
        *(localized(statistic_name(metric, statistic)) for metric, statistic in _CLIENT_ERRORS),
    ]


def client_table(result: ResultFiles) -> list[list[Cell]]:
    """A row a stage whose client knew how late it was; empty where there is none."""
    return [_client_row(stage) for stage in result.stages if (stage.get("client_error") or {}).get("clock") == KERNEL]


def _client_row(stage: Mapping[str, Any]) -> list[Cell]:
    error = stage["client_error"]
    late = (error.get("late_p50_s"), error.get("late_p99_s"))
    return [
        Cell(column_title(stage.get("index") or 0, load_text(stage))),
        Cell(localized("page.client.kernel")),
        Cell(format_share(error.get("first_exact"))),
        Cell(format_share(error.get("blurred_share"))),
        _NONE if None in late else Cell(" / ".join(map(format_duration, late))),
        *(_with_error(stage, *which) for which in _CLIENT_ERRORS),
    ]


def _with_error(stage: Mapping[str, Any], metric: str, statistic: str) -> Cell:
    value = (stage.get(metric) or {}).get(statistic)
    bound = ((stage["client_error"].get("bounds") or {}).get(metric) or {}).get(statistic)
    if value is None or bound is None:
        return _NONE
    return Cell(f"{format_duration(value)} ± {format_duration(bound)}")


_NUMBER = re.compile(r"[-+−<≤≥~]? ?\d(?!\d{3}-\d\d-\d\d)|[–∞]|$")  # noqa: RUF001 - a minus, and a dash for nothing
_WORD_END = re.compile(r"(?<=[_/:,=@])(?=\w)|(?<=[a-z0-9])(?=[A-Z][a-z])")
_SHORT = 14  # letters in a first column that need no line of their own
NUMBER, WORD, SHORT = "number", "word", "short"


def column_kinds(rows: Sequence[Sequence[Cell]]) -> list[str]:
    """The class of each column: numbers stand at its right, words at its left; the first one names the row."""
    columns = list(zip(*rows, strict=True))
    kinds = [NUMBER if all(_NUMBER.match(cell.text) for cell in column) else WORD for column in columns]
    short = bool(columns) and all(max(len(cell.text), len(cell.below)) <= _SHORT for cell in columns[0])
    return [SHORT if short else WORD, *kinds[1:]]


def breakable(name: str) -> Markup:
    """A name that a browser may break where its words end, before it has to break one anywhere."""
    words = _WORD_END.split(name)
    return Markup("<wbr>").join(words)


def peer_heads() -> list[str]:
    """The columns of `peer_tables`: what other tools would have printed."""
    tool, name = localized("page.tools.tool"), localized("page.tools.name")
    return [tool, name, localized("page.tools.mean"), "p99", localized("page.tools.definition")]


def peer_row(entry: Mapping[str, Any]) -> list[Cell]:
    """One number of one tool: of a latency mean and p99, of its throughput the rate; and the definition."""
    tool, definition = Cell(str(entry["tool"])), Cell(localized(str(entry["definition"])))
    if "output_token_rate" in entry:
        rate = format_rate(entry["output_token_rate"], "tokens/s")
        return [tool, Cell(localized("page.tools.output_throughput")), Cell(rate), Cell(""), definition]
    times = [Cell(format_duration(entry[name])) for name in ("mean", "p99")]
    return [tool, Cell(str(entry["name"])), *times, definition]


def peer_tables(data: Data) -> list[tuple[str, list[list[Cell]]]]:
    """For each stage its name and rows; a repeated stage by its first repeat."""
    first = {stage.get("index", 0): stage for stage in reversed(data.result.stages)}
    stages = [first[index] for index in sorted(first) if first[index].get("peers")]
    return [
        (stage_title(stage["index"], load_text(stage)), [peer_row(entry) for entry in stage["peers"]])
        for stage in stages
    ]

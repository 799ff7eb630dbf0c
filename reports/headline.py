"""The top of a run's page: verdict, warnings and limits, the answer, and the key figures of the stage that matters."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.analysis.answer import holding_stages
from harness.analysis.slo import CLOSE, FEW, VERDICTS, objectives, unproven, unproven_limits
from harness.analysis.steady_state import OFFLINE, is_open
from harness.analysis.warnings import Warning, is_invalid, warnings_of
from harness.messages import Message, localized, stored
from harness.results.folder import ResultFiles, number
from harness.statistics.distributions import has_open_end
from harness.units import format_count, format_duration, significant
from reports.glossary import name_of
from reports.loads import load_text, short_duration, stage_title, trimmed
from reports.request_kinds import latency_metrics, throughputs
from reports.texts import listed


@dataclass(frozen=True, slots=True)
class Card:
    """One key figure: the term it shows, its value and unit, a judgement, and a note under it."""

    term: str
    label: str
    value: str
    unit: str
    note: str
    judged: str = ""
    tone: str = "plain"


def answer(result: ResultFiles) -> str:
    """The answer in one sentence, or why there is none."""
    text = result.summary.get("answer")
    return localized(stored(result.summary.get("answer_message"), str(text))) if text else localized("page.answer.none")


def key_stage(result: ResultFiles) -> tuple[Mapping[str, Any] | None, str]:
    """The stage whose figures stand on the cards, and the reason why it is that one."""
    kept = warnings_of(result.summary)
    answered = [stage for stage in result.stages if (stage.get("requests") or {}).get("completed")]
    valid = [s for s in answered if not is_invalid(kept, s.get("index") or 0, s.get("repeat") or 0)]
    stages = valid or answered  # of a run of which nothing is valid the cards still show what was measured
    if not stages:
        return None, ""
    held = holding_stages(stages, grew(result))
    met = [stage for stage in stages if stage.get("slo") and stage.get("index") in held]
    if len(result.stages) == 1:
        return stages[0], ""
    if met:
        return max(_middles(met), key=_throughput), localized("page.cards.most_within_limits")
    if any(stage.get("slo") for stage in stages):
        return min(_middles(stages), key=_throughput), localized("page.cards.least_none_within_limits")
    return max(_middles(stages), key=_throughput), localized("page.cards.most_output")


def _middles(stages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of each stage's repeats the one with the median output, the lower of two: as the answer's sentence has it."""
    levels: dict[Any, list[Mapping[str, Any]]] = {}
    for stage in sorted(stages, key=_throughput):
        levels.setdefault(stage.get("index"), []).append(stage)
    return [level[(len(level) - 1) // 2] for level in levels.values()]


def _throughput(stage: Mapping[str, Any]) -> float:
    tokens = stage.get("output_token_rate")
    return number(stage.get("request_rate") if tokens is None else tokens)


def cards(stage: Mapping[str, Any], growing: Collection[int] = ()) -> list[Card]:
    """Key figures of one stage; `growing` are numbers of stages whose queue grew as long as the load lasted."""
    load = stage.get("load") or {}
    by_clock = is_open(str(load.get("kind")))
    note = "" if "rate" in load else _at_once(load)
    concurrency = stage.get("concurrency") or {}
    in_flight = localized("page.cards.in_flight", mean=number(concurrency.get("mean")))
    latencies = latency_metrics([stage], by_clock=by_clock)
    below = listed([text for text in (_per_npu(stage), in_flight) if text], "parts")
    return [
        *_offered_card(stage, load),
        Card("request_rate", localized("page.cards.request_rate"), _rate(stage, "request_rate"), "req/s", note),
        *_goodput_card(stage),
        *(Card(key, localized(code), _rate(stage, key), unit, below) for key, code, unit in throughputs([stage])),
        *(_latency_card(stage, metric, grows=stage.get("index") in growing) for metric in latencies),
        _completed(stage.get("requests") or {}),
    ]


def _offered_card(stage: Mapping[str, Any], load: Mapping[str, Any]) -> list[Card]:
    """The rate at which requests came due, in an open loop."""
    if not is_open(str(load.get("kind"))):
        return []
    requested = localized("page.cards.requested_rate", rate=trimmed(load["rate"])) if "rate" in load else ""
    offered = stage.get("offered_rate")
    if offered is None:
        return []
    return [Card("offered_rate", localized("page.cards.offered"), significant(number(offered)), "req/s", requested)]


def _goodput_card(stage: Mapping[str, Any]) -> list[Card]:
    """Responses a second that kept every limit, where there are limits."""
    if stage.get("goodput") is None:
        return []
    good, every = number(stage["goodput"]), number(stage.get("request_rate"))
    share = localized("page.cards.good_share", share=good / every) if every > 0 else ""
    return [Card("goodput", localized("page.stages.goodput"), significant(good), "req/s", share)]


def _per_npu(stage: Mapping[str, Any]) -> str:
    """The output a NPU, where the number of NPUs is known and is not one."""
    own = stage.get("efficiency") or {}
    rate = own.get("npu_token_rate")
    same = rate is None or rate == stage.get("output_token_rate")
    return "" if same else localized("page.cards.per_npu", rate=rate)


def _rate(stage: Mapping[str, Any], name: str) -> str:
    return significant(number(stage.get(name)))


def _at_once(load: Mapping[str, Any]) -> str:
    if load.get("kind") == OFFLINE:
        return localized("page.cards.batch", requests=load["requests"])
    return localized("page.cards.users", users=load["concurrency"]) if "concurrency" in load else ""


def _latency_card(stage: Mapping[str, Any], metric: str, *, grows: bool = False) -> Card:
    """The statistic that is limited, else the p99, with its limit and interval."""
    statistics = stage.get(metric) or {}
    held = {
        key.rpartition("_")[2]: limited
        for key, limited in (stage.get("slo") or {}).items()
        if limited.get("metric") == metric
    }
    statistic = next((name for name in held if name in statistics), "p99")
    limit, met = (held[statistic].get(key) if statistic in held else None for key in ("limit", "met"))
    value, _, unit = format_duration(statistics.get(statistic)).rpartition(" ")
    pair = (statistics.get("ci95") or {}).get(statistic)
    weak = next((why for key, why in unproven_limits(stage).items() if held.get(statistic) is stage["slo"][key]), "")
    notes = (
        localized(VERDICTS[met, weak]) if weak and met is not None else "",
        interval_note(statistics, statistic) if pair else _too_short(statistics, statistic, grows=grows),
        _completed_only(stage, held.get(statistic)),
        localized("page.cards.statistic_invalid") if statistic in (statistics.get("invalid") or ()) else "",
    )
    return Card(
        term=metric,
        label=f"{name_of(metric)} {statistic}",
        value=value or unit,
        unit=unit if value else "",
        note=listed([note for note in notes if note], "parts"),
        judged="" if limit is None else localized("page.cards.limit", limit=short_duration(limit)),
        tone="bad" if statistic in (statistics.get("invalid") or ()) else "plain" if weak else _TONES[met],
    )


def _too_short(statistics: Mapping[str, Any], statistic: str, *, grows: bool) -> str:
    seconds = (statistics.get("needed_s") or {}).get(statistic)
    if seconds and grows:
        return localized("page.cards.never_an_interval")
    return localized("page.cards.no_interval", needed_s=seconds) if seconds else ""


def _completed_only(stage: Mapping[str, Any], held: Mapping[str, Any] | None) -> str:
    """A note that a percentile is of completed requests, where some failed, and the value that its limit is held to."""
    if not (stage.get("requests") or {}).get("failed"):
        return ""
    if not held:
        return localized("page.cards.of_completed")
    return localized("page.cards.of_completed_limited", value=held_value(held))


_TONES = {None: "plain", True: "good", False: "bad"}


def _completed(requests: Mapping[str, Any]) -> Card:
    codes = {"failed": "page.cards.failed", "cancelled": "page.cards.cancelled", "never_sent": "page.cards.never_sent"}
    lost = [localized(code, requests=requests[name]) for name, code in codes.items() if requests.get(name)]
    return Card(
        term="completed",
        label=localized("page.cards.completed"),
        value=format_count(requests.get("completed")),
        unit=localized("page.cards.of_scheduled", scheduled=requests.get("scheduled")),
        note="",
        judged=listed(lost) or localized("page.cards.none_lost"),
        tone="bad" if lost else "plain",
    )


def interval_note(statistics: Mapping[str, Any], name: str) -> str:
    """The interval of a statistic as a note; one that reaches the largest value has no upper end."""
    pair = statistics["ci95"][name]
    if has_open_end(statistics, name):
        return localized("page.cards.interval_open", low_s=pair[0])
    return localized("page.cards.interval", interval=interval(pair))


def interval(pair: Sequence[float] | None) -> str:
    """An interval in one unit, such as `0.81–1.12 s`; empty where there is none."""
    if not pair:
        return ""
    low, high = format_duration(pair[0]), format_duration(pair[1])
    number_low, _, unit_low = low.rpartition(" ")
    same = unit_low == high.rpartition(" ")[2] and unit_low.isalpha()  # `2m 05s` has no unit at its end
    return f"{number_low}–{high}" if same else f"{low} – {high}"


SIMULATED = "simulated"  # the code of the note that a simulator answered
TAILS = ("p90", "p95", "p99", "max")
SEVERITIES = ("invalid", "warning", "note")  # the gravest first


@dataclass(frozen=True, slots=True)
class Badge:
    """A judgement in two or three words; `tone` is good, warn, bad or plain."""

    text: str
    tone: str
    target: str = "#stages"  # where on the page the reasons stand


@dataclass(frozen=True, slots=True)
class WarningGroup:
    """Warnings of one kind and their next step: for each the stage it is about ("" for the run) and its text."""

    severity: str
    next: Message
    texts: Sequence[tuple[str, Message]]

    @property
    def count(self) -> int:
        """How many warnings are of this kind."""
        return len(self.texts)


def badges(result: ResultFiles) -> list[Badge]:
    """The verdict, and whether the limits were met."""
    if not result.summary:
        return [Badge(localized("page.badges.unfinished"), "bad")]
    verdict = result.summary.get("verdict") or {}
    counted = sum(len(group.texts) for group in warnings(result) if group.severity == "warning")
    target = "#warnings" if warnings(result) else "#stages"
    if not verdict.get("valid", False):
        first = Badge(_not_valid(result), "bad", "#warnings")
    elif verdict.get("interrupted"):
        first = Badge(localized("page.badges.valid_until_interrupted"), "warn", target)
    else:
        first = Badge(_valid(counted), "warn" if counted else "good", target)
    return [first, *_limit_badge(result)]


def _not_valid(result: ResultFiles) -> str:
    """How many stages are not valid, where others are."""
    kept = warnings_of(result.summary)
    places = [(stage.get("index") or 0, stage.get("repeat") or 0) for stage in result.stages]
    invalid = sum(is_invalid(kept, *place) for place in places)
    if 0 < invalid < len(places):
        return localized("page.badges.stages_not_valid", invalid=invalid, stages=len(places), count=len(places))
    return localized("page.not_valid")


def _valid(warnings: int) -> str:
    return localized("page.badges.valid_with_warnings", count=warnings) if warnings else localized("page.valid")


def _limit_badge(result: ResultFiles) -> list[Badge]:
    limited = [stage for stage in result.stages if stage.get("slo")]
    judged = [stage.get("slo_met") for stage in limited]
    weak = [unproven(stage) for stage in limited if stage.get("slo_met") is not None]
    if not judged:
        return []
    if all(judged):
        return [_sure_badge(localized("page.badges.all_limits_met"), "good", next(filter(None, weak), ""))]
    if any(judged):
        met = sum(met is True for met in judged)
        words = localized("page.badges.limits_met_in", met=met, stages=len(judged))
        return [_sure_badge(words, "warn", next(filter(None, weak), ""))]
    if False in judged:
        return [_sure_badge(localized("page.badges.limits_not_met"), "bad", weak[0] if all(weak) else "")]
    return [Badge(localized("page.badges.limits_not_judged"), "warn")]


_UNPROVEN = {CLOSE: "page.badges.too_close", FEW: "page.badges.too_few"}


def _sure_badge(words: str, tone: str, unproven: str) -> Badge:
    """A judgement on limits, with how sure it is where it is no proof."""
    return Badge(localized(_UNPROVEN[unproven], verdict=words), "warn") if unproven else Badge(words, tone)


def warnings(result: ResultFiles) -> list[WarningGroup]:
    """Warnings by kind, the gravest first."""
    loads = {stage.get("index"): load_text(stage) for stage in result.stages}
    groups: dict[tuple[str, str, str], list[Warning]] = {}
    for warning in warnings_of(result.summary):
        groups.setdefault((warning.severity, warning.code, str(warning.next)), []).append(warning)
    kinds = [
        WarningGroup(own[0].severity, own[0].next, [(_place(warning, loads), warning.text) for warning in own])
        for own in groups.values()
    ]
    in_banner = [own[0].code == SIMULATED for own in groups.values()]  # the page says it above everything else
    order = sorted(range(len(kinds)), key=lambda i: (SEVERITIES.index(kinds[i].severity), in_banner[i]))
    return [kinds[i] for i in order]


def _place(warning: Warning, loads: Mapping[Any, str]) -> str:
    """The name of the stage that a warning is about; empty where it is about the run."""
    if warning.stage is None:
        return ""
    return stage_title(warning.stage, loads.get(warning.stage, ""), warning.repeat or 0)


def held_value(held: Mapping[str, Any]) -> str:
    """The value that a limit is held to: with the failed requests, each of which counts as infinitely late."""
    failed = held.get("failed_counted")
    value = held.get("value")
    if value is None and held.get("met") is False:
        return localized("page.stages.no_bound_counted", failed=failed) if failed else localized("page.stages.no_bound")
    if failed and value is not None:
        return localized("page.stages.value_counted", value_s=value, failed=failed)
    return format_duration(value)


def left_out(stage: Mapping[str, Any]) -> str:
    """The requests that a stage's latencies leave out, where some failed; empty where none did."""
    failed = (stage.get("requests") or {}).get("failed") or 0
    return localized("page.stages.left_out", failed=failed) if failed else ""


def grew(result: ResultFiles) -> set[int]:
    """Numbers of the stages in which a queue grew as long as the load lasted."""
    return {
        warning.stage
        for warning in warnings_of(result.summary)
        if warning.code == "queue_grew" and warning.stage is not None
    }


def judged_statistic(result: ResultFiles, metric: str) -> str:
    """The statistic of a metric that the scenario limits, such as p95; p99 where it limits none that a table has."""
    user = metric.endswith("_user")
    limited = objectives(result.run.get("slo") or {}, open_loop=user)
    known = (
        objective.statistic for objective in limited if objective.metric == metric and objective.statistic in TAILS
    )
    return next(known, "p99")

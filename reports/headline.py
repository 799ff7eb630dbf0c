"""What does a reader see first: the answer, and the key figures of the stage that matters most?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.analysis.steady_state import OFFLINE, is_open
from harness.results.folder import ResultFiles, number
from harness.units import format_about, format_count, format_duration, significant
from reports.glossary import name_of
from reports.loads import short_duration, trimmed
from reports.verdict import held_value, holding


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
    said = result.summary.get("answer")
    return (
        str(said) if said else "The run ended before its numbers could be summed up. What was recorded is shown below."
    )


def key_stage(result: ResultFiles) -> tuple[Mapping[str, Any] | None, str]:
    """The stage whose figures stand on the cards, and why that one."""
    stages = [stage for stage in result.stages if (stage.get("requests") or {}).get("completed")]
    if not stages:
        return None, ""
    held = holding(result)
    met = [stage for stage in stages if stage.get("slo") and stage.get("index") in held]
    if len(result.stages) == 1:
        return stages[0], ""
    if met:
        return max(_middles(met), key=_throughput), "the stage with the most throughput that held every limit"
    if any(stage.get("slo") for stage in stages):
        return min(_middles(stages), key=_throughput), "the stage with the least throughput; none held every limit"
    return max(_middles(stages), key=_throughput), "the stage with the most output tokens per second"


def _middles(stages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of each stage's repeats the one with the median output, the lower of two: as the answer's sentence has it."""
    levels: dict[Any, list[Mapping[str, Any]]] = {}
    for stage in sorted(stages, key=_throughput):
        levels.setdefault(stage.get("index"), []).append(stage)
    return [level[(len(level) - 1) // 2] for level in levels.values()]


def _throughput(stage: Mapping[str, Any]) -> float:
    return number(stage.get("output_token_rate"))


def cards(stage: Mapping[str, Any]) -> list[Card]:
    """Key figures of one stage."""
    load = stage.get("load") or {}
    by_clock = is_open(str(load.get("kind")))
    asked = f"asked {trimmed(load['rate'])}" if "rate" in load else _at_once(load)
    if stage.get("offered_rate") is not None:
        asked = f"{significant(number(stage['offered_rate']))} offered"
    concurrency = stage.get("concurrency") or {}
    in_flight = f"{significant(number(concurrency.get('mean')))} in flight on average"
    latencies = ("ttft_user", "tpot", "e2e_user") if by_clock else ("ttft", "tpot", "e2e")
    return [
        Card("request_rate", "Request rate", significant(number(stage.get("request_rate"))), "req/s", asked),
        Card("output_token_rate", "Output", significant(number(stage.get("output_token_rate"))), "tokens/s", in_flight),
        *(_latency_card(stage, metric) for metric in latencies),
        _answered(stage.get("requests") or {}),
    ]


def _at_once(load: Mapping[str, Any]) -> str:
    return (
        f"{load['requests']} at once" if load.get("kind") == OFFLINE else f"{load.get('concurrency', '')} users".strip()
    )


def _latency_card(stage: Mapping[str, Any], metric: str) -> Card:
    """The statistic that is limited, else the p99, with its limit and interval."""
    found = stage.get(metric) or {}
    held = {key.rpartition("_")[2]: one for key, one in (stage.get("slo") or {}).items() if one.get("metric") == metric}
    statistic = next((name for name in held if name in found), "p99")
    limit, met = (held[statistic].get(key) if statistic in held else None for key in ("limit", "met"))
    value, _, unit = format_duration(found.get(statistic)).rpartition(" ")
    pair = (found.get("ci95") or {}).get(statistic)
    notes = (
        f"95 %: {interval(pair)}" if pair else _too_short(found, statistic),
        _answered_only(stage, held.get(statistic)),
    )
    return Card(
        term=metric,
        label=f"{name_of(metric)} {statistic}",
        value=value or unit,
        unit=unit if value else "",
        note="; ".join(filter(None, notes)),
        judged="" if limit is None else f"limit {short_duration(limit)}",
        tone=_TONES[met],
    )


def _too_short(found: Mapping[str, Any], statistic: str) -> str:
    seconds = (found.get("needed_s") or {}).get(statistic)
    return f"no 95 % interval: run too short, needs {format_about(seconds)} or more" if seconds else ""


def _answered_only(stage: Mapping[str, Any], held: Mapping[str, Any] | None) -> str:
    """That a percentile is of answered requests, where some failed, and what its limit is held to instead."""
    if not (stage.get("requests") or {}).get("failed"):
        return ""
    return "of answered requests" + (f"; held to the limit: {held_value(held)}" if held else "")


_TONES = {None: "plain", True: "good", False: "bad"}


def _answered(requests: Mapping[str, Any]) -> Card:
    missing = {name: requests.get(name) or 0 for name in ("failed", "cancelled", "never_sent")}
    lost = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in missing.items() if count)
    of = f"of {format_count(requests.get('scheduled'))}"
    return Card(
        "answered",
        "Answered",
        format_count(requests.get("completed")),
        of,
        "",
        lost or "none lost",
        "bad" if lost else "plain",
    )


def interval(pair: Sequence[float] | None) -> str:
    """An interval in one unit, such as `0.81–1.12 s`; empty where there is none."""
    if not pair:
        return ""
    low, high = format_duration(pair[0]), format_duration(pair[1])
    number_low, _, unit_low = low.rpartition(" ")
    same = unit_low == high.rpartition(" ")[2] and unit_low.isalpha()  # `2m 05s` has no unit at its end
    return f"{number_low}–{high}" if same else f"{low} – {high}"

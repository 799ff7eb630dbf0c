"""May the numbers be believed, and were they good enough?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.analysis.slo import objectives
from harness.analysis.warnings import warnings_of
from harness.messages import localized
from harness.results.folder import ResultFiles
from harness.results.stage_names import stage_name
from harness.units import format_count, format_duration

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
    next: str
    said: Sequence[tuple[str, str]]


def badges(result: ResultFiles) -> list[Badge]:
    """The verdict, and whether the limits were met."""
    if not result.summary:
        return [Badge("Unfinished: no summary was written", "bad")]
    verdict = result.summary.get("verdict") or {}
    counted = sum(len(group.said) for group in warnings(result) if group.severity == "warning")
    target = "#warnings" if warnings(result) else "#stages"
    if not verdict.get("valid", False):
        first = Badge("Not valid", "bad", "#warnings")
    else:
        first = Badge("Valid" if not counted else f"Valid, {_counted(counted)}", "warn" if counted else "good", target)
    return [first, *_limit_badge(result)]


def _counted(count: int) -> str:
    return "1 warning" if count == 1 else f"{count} warnings"


def _limit_badge(result: ResultFiles) -> list[Badge]:
    judged = [stage.get("slo_met") for stage in result.stages if stage.get("slo")]
    if not judged:
        return []
    if all(judged):
        return [Badge("All limits met", "good")]
    if any(judged):
        return [Badge(f"Limits met in {sum(met is True for met in judged)} of {len(judged)} stages", "warn")]
    return [Badge("Limits not met", "bad") if False in judged else Badge("Limits not judged", "warn")]


def warnings(result: ResultFiles) -> list[WarningGroup]:
    """Warnings by kind, the gravest first."""
    labels = {stage.get("index"): str(stage.get("label", "")) for stage in result.stages}
    kinds: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    for warning in warnings_of(result.summary):
        index = warning.stage
        place = "" if index is None else stage_name(index, labels.get(index, ""), warning.repeat or 0)
        kind = warning.severity, warning.code, localized(warning.next)
        kinds.setdefault(kind, []).append((place, localized(warning.text)))
    found = [WarningGroup(severity, step, tuple(said)) for (severity, _, step), said in kinds.items()]
    return sorted(found, key=lambda group: SEVERITIES.index(group.severity))


def held_value(held: Mapping[str, Any]) -> str:
    """The value that a limit is held to: with the failed requests, each of which counts as infinitely late."""
    failed = held.get("failed_counted")
    counted = f", {format_count(failed)} failed counted" if failed else ""
    if held.get("value") is None and held.get("met") is False:
        return f"no bound{counted or ', by failures'}"
    return f"{format_duration(held.get('value'))}{counted if held.get('value') is not None else ''}"


def left_out(stage: Mapping[str, Any]) -> str:
    """Which requests a stage's latencies leave out, where some failed; empty where none did."""
    failed = (stage.get("requests") or {}).get("failed") or 0
    return f"Latencies are of answered requests: {format_count(failed)} failed ones are left out." if failed else ""


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
    known = (one.statistic for one in limited if one.metric == metric and one.statistic in TAILS)
    return next(known, "p99")


def holding(result: ResultFiles) -> set[int]:
    """Numbers of the stages that hold: every repeat met every limit, and no queue grew."""
    growing = grew(result)
    met: dict[int, bool] = {}
    for stage in result.stages:
        index = stage.get("index", 0)
        met[index] = met.get(index, True) and stage.get("slo_met") is True and index not in growing
    return {index for index, good in met.items() if good}

"""The verdict on a result: whether it is valid, what warns of it, and whether its limits were met."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.analysis.slo import objectives
from harness.analysis.warnings import Warning, warnings_of
from harness.messages import Message, localized
from harness.results.folder import ResultFiles
from harness.results.stage_names import stage_name
from harness.units import format_duration
from reports.texts import elsewhere

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


def badges(result: ResultFiles) -> list[Badge]:
    """The verdict, and whether the limits were met."""
    if not result.summary:
        return [Badge(localized("page.badges.unfinished"), "bad")]
    verdict = result.summary.get("verdict") or {}
    counted = sum(len(group.texts) for group in warnings(result) if group.severity == "warning")
    target = "#warnings" if warnings(result) else "#stages"
    if not verdict.get("valid", False):
        first = Badge(localized("page.not_valid"), "bad", "#warnings")
    else:
        first = Badge(_valid(counted), "warn" if counted else "good", target)
    return [first, *_limit_badge(result)]


def _valid(warnings: int) -> str:
    return localized("page.badges.valid_with_warnings", count=warnings) if warnings else localized("page.valid")


def _limit_badge(result: ResultFiles) -> list[Badge]:
    judged = [stage.get("slo_met") for stage in result.stages if stage.get("slo")]
    if not judged:
        return []
    if all(judged):
        return [Badge(localized("page.badges.all_limits_met"), "good")]
    if any(judged):
        met = sum(met is True for met in judged)
        return [Badge(localized("page.badges.limits_met_in", met=met, stages=len(judged)), "warn")]
    if False in judged:
        return [Badge(localized("page.badges.limits_not_met"), "bad")]
    return [Badge(localized("page.badges.limits_not_judged"), "warn")]


def warnings(result: ResultFiles) -> list[WarningGroup]:
    """Warnings by kind, the gravest first."""
    labels = {stage.get("index"): str(stage.get("label", "")) for stage in result.stages}
    groups: dict[tuple[str, str, str], list[Warning]] = {}
    for warning in warnings_of(result.summary):
        groups.setdefault((warning.severity, warning.code, str(warning.next)), []).append(warning)
    kinds = [
        WarningGroup(own[0].severity, own[0].next, [(_place(warning, labels), warning.text) for warning in own])
        for own in groups.values()
    ]
    return sorted(kinds, key=lambda group: SEVERITIES.index(group.severity))


def _place(warning: Warning, labels: Mapping[Any, str]) -> str:
    """The name of the stage that a warning is about; empty where it is about the run."""
    if warning.stage is None:
        return ""
    return elsewhere(stage_name(warning.stage, labels.get(warning.stage, ""), warning.repeat or 0))


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
    """Which requests a stage's latencies leave out, where some failed; empty where none did."""
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

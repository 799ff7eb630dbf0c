"""The answer of a run in numbers, and its knee.

With objectives the answer says up to which load they hold, and by how much they are missed at the next; without,
throughput and latency. A level of load holds when every repeat of it keeps every objective and no queue grew; an
invalid run answers nothing. The knee says between which rates limits stop holding, or more load stops bringing more.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from harness.analysis.breakdowns import LengthBin, LengthVerdict
from harness.analysis.classes import documents_sentence
from harness.analysis.levels import Level, by_label, ladder
from harness.analysis.metrics import StageSummary
from harness.analysis.slo import BY_CLIENT, CLOSE, CUT, FEW, Outcome
from harness.analysis.steady_state import OFFLINE, is_open
from harness.analysis.warnings import DIED, INVALID, Warning, is_invalid
from harness.messages import Message, Parameter, message, sentences
from harness.scenario.metrics import NAMES, statistic_name

UNSURE = {  # why a value does not decide about its limit
    BY_CLIENT: "analysis.objective_by_client",
    CUT: "analysis.objective_cut",
}
UNPROVEN = {CLOSE: "analysis.too_close", FEW: "analysis.too_few"}
LIMITS, SATURATION = "limits", "saturation"  # what shows the knee
FEWEST_STEPS = 3  # loads
_FEW_LOADS = 2  # that an answer can speak of one by one

Stage = Mapping[str, Any]  # of summary.json


@dataclass(frozen=True, slots=True)
class Further:
    """What an answer says beside limits and rates.

    That is by prompt length, where it decides, and of engines, drafts, adapters and classes of requests.
    """

    lengths: LengthVerdict | None = None
    engines: Message | None = None
    speculation: Message | None = None
    adapters: Message | None = None
    classes: Sequence[Message] = ()


def answer(
    stages: Sequence[StageSummary],
    warnings: Sequence[Warning],
    further: Further = Further(),
    *,
    simulated: bool,
    virtual: bool = False,
) -> Message:
    """One or a few sentences for the whole run, from the stages that are valid; those left out are named.

    `virtual` says that a simulated run was computed in virtual time.
    """
    lengths = further.lengths
    invalid = [warning for warning in warnings if warning.severity == INVALID]
    valid = [stage for stage in stages if not is_invalid(warnings, stage.span.stage, stage.span.repeat)]
    if not any(stage.account.completed for stage in stages):
        death = next((warning.text for warning in invalid if warning.code == DIED), None)
        sentence = _nothing(stages) if death is None else sentences(_nothing(stages), death)
    elif invalid and not any(stage.account.completed for stage in valid):
        sentence = message("analysis.answer_invalid", reason=invalid[0].text)
    elif lengths is not None and not invalid:
        sentence = sentences(_by_length(lengths), *_beside(lengths, valid))
    elif any(stage.outcomes for stage in valid):
        sentence = _limits(valid)
    else:
        sentence = _throughputs(valid)
    if any(stage.account.completed for stage in valid):
        engines, lines = further.engines, (*further.classes, further.speculation, further.adapters)
        by_length = lengths is not None and not invalid
        first = (engines, sentence) if by_length else (sentence, engines)
        sentence = sentences(*filter(None, (*first, *lines)))
    if invalid and any(stage.account.completed for stage in valid):
        sentence = sentences(sentence, _left_out(stages, valid, invalid[0]))
    if not simulated:
        return sentence
    return message("analysis.answer_virtual" if virtual else "analysis.answer_simulated", answer=sentence)


def _by_length(verdict: LengthVerdict) -> Message:
    """Up to which prompt length an objective holds, and what comes of it beyond."""
    objective, bins, held = verdict.objective, verdict.bins, verdict.held
    words: dict[str, Parameter] = {"objective": _name(Outcome(objective, None)), "limit_s": objective.limit_s}
    beyond = None if held == len(bins) else _at_length(bins[held])
    if held == 0:
        return message("analysis.lengths_even", finding=_at_length(bins[0]), **words)
    words |= {"tokens": bins[held - 1].high, "finding": _at_length(bins[held - 1])}
    if beyond is None:
        return message("analysis.lengths_hold", **words)
    return message("analysis.lengths_break", beyond=beyond, **words)


def _at_length(own: LengthBin) -> Message:
    """What the objective came to for prompts of one range of lengths, with its interval."""
    words: dict[str, Parameter] = {"low": own.low, "high": own.high}
    if math.isinf(own.value_s):
        return message("analysis.length_unbounded", **words)
    if own.ci95 is None or math.isinf(own.ci95[1]):
        return message("analysis.length_value", value_s=own.value_s, **words)
    return message("analysis.length_interval", value_s=own.value_s, least_s=own.ci95[0], most_s=own.ci95[1], **words)


def _beside(verdict: LengthVerdict, stages: Sequence[StageSummary]) -> list[Message]:
    """The nearest of the other objectives, whatever the length."""
    kept = [
        replace(stage, outcomes=tuple(o for o in stage.outcomes if o.objective != verdict.objective))
        for stage in stages
    ]
    return [_limits(kept)] if any(stage.outcomes for stage in kept) else []


def _left_out(stages: Sequence[StageSummary], valid: Sequence[StageSummary], reason: Warning) -> Message:
    """The stages that are not valid, each by its load and, where others of its repeats are valid, its repeat."""
    kept = {stage.span.stage for stage in valid}
    names: dict[str, Message] = {}
    for stage in stages:
        if stage in valid:
            continue
        name = stage.label
        if stage.span.stage in kept:
            name = message("analysis.repeat_of", stage=name, repeat=stage.span.repeat + 1)
        names[str(name)] = name
    return message("analysis.answer_left_out", stages=list(names.values()), reason=reason.text)


def error_counts(errors: Mapping[str, int]) -> list[Message]:
    """How often each error came, for a list."""
    return [message("analysis.error_count", error=name, count=count) for name, count in errors.items()]


def _nothing(stages: Sequence[StageSummary]) -> Message:
    failed, cancelled = (sum(getattr(s.account, status) for s in stages) for status in ("failed", "cancelled"))
    if failed:
        errors: Counter[str] = Counter()
        for stage in stages:
            errors.update(stage.errors)
        return message("analysis.answer_none_failed", count=failed, errors=error_counts(errors))
    if cancelled:
        return message("analysis.answer_none_cancelled", count=cancelled)
    return message("analysis.answer_none_sent")


def _holds(level: Level) -> bool:
    return all(stage.slo_met is True and not stage.window.grew for stage in level)


def _unknown(level: Level) -> bool:
    """Whether no limit could be judged at a level."""
    return all(outcome.met is None for outcome in _outcomes(level))


def _limits(stages: Sequence[StageSummary]) -> Message:
    steps = ladder(stages)
    if not steps:
        return _side_by_side(by_label(stages))
    known = next((i for i, (_, level) in enumerate(steps) if not _unknown(level)), 0)
    steps = steps[known:]  # what the lowest loads say nothing of, the next one may
    held = next((i for i, (_, level) in enumerate(steps) if not _holds(level)), len(steps))
    lowest = steps[0][0]
    if held == 0:
        return message("analysis.answer_even", level=lowest, finding=_against(steps[0][1]))
    top, level = steps[held - 1]
    reach = message("analysis.reach_up_to", level=top)
    if known:
        several = message("analysis.reach_from_to", lowest=lowest, level=top)
        reach = several if held > 1 else message("analysis.reach_at", level=top)
    if held == len(steps):
        return message("analysis.answer_holds", reach=reach, objectives=_all_stay(level))
    name, broken = steps[held]
    finding = _breaks(_nearest(broken), broken)
    return message("analysis.answer_breaks", reach=reach, objectives=_all_stay(level), level=name, finding=finding)


def _side_by_side(levels: Sequence[tuple[Message, Level]]) -> Message:
    """Loads without an order: of many, which keep every limit and the first that does not; else each by itself."""
    each = [message("analysis.answer_level", level=name, finding=_against(level)) for name, level in levels]
    if len(levels) <= _FEW_LOADS:
        return sentences(*each)
    limits = {o.objective.key: _limit(o) for _, level in levels for o in _outcomes(level)}
    keeping: list[Parameter] = [name for name, level in levels if _holds(level)]
    lacking = [place for place, (_, level) in enumerate(levels) if not _holds(level)]
    words: dict[str, Parameter] = {"limits": list(limits.values()), "levels": keeping}
    if not lacking:
        return message("analysis.loads_all_hold", **words)
    first = next((place for place in lacking if not _unknown(levels[place][1])), lacking[0])
    name, level = levels[first]
    code = "analysis.answer_level" if _unknown(level) else "analysis.loads_first_break"
    held = message("analysis.loads_hold", **words) if keeping else message("analysis.loads_none_hold", **words)
    return sentences(held, message(code, level=name, finding=_against(level)))


def _limit(outcome: Outcome) -> Message:
    return message("analysis.limit_under", objective=_name(outcome), limit_s=outcome.objective.limit_s)


def _outcomes(level: Level) -> list[Outcome]:
    """Each objective's worst outcome over the repeats of a level; an unknown one is worst."""
    worst: dict[str, Outcome] = {}
    for outcome in (outcome for stage in level for outcome in stage.outcomes):
        key = outcome.objective.key
        worst[key] = max(worst.get(key, outcome), outcome, key=_closeness)
    return list(worst.values())


def _closeness(outcome: Outcome) -> tuple[bool, float]:
    """How near to its limit, or how far over it, an objective came."""
    value = outcome.value_s
    return outcome.met is None, 0.0 if value is None else value / outcome.objective.limit_s


def _nearest(level: Level) -> Outcome:
    return max(_outcomes(level), key=_closeness)


def _name(outcome: Outcome) -> Message:
    return statistic_name(outcome.objective.key.rpartition("_")[0], outcome.objective.statistic)


def _all_stay(level: Level) -> list[Message]:
    """Every objective of a level that holds, the first in a full sentence; what none of them proves is said at last."""
    outcomes = _outcomes(level)
    if len({outcome.unproven for outcome in outcomes}) == 1:
        outcomes[:-1] = [replace(outcome, unproven="") for outcome in outcomes[:-1]]
    first, *others = outcomes
    return [_stays("analysis.objective_stays", first), *(_stays("analysis.objective_under", o) for o in others)]


def _stays(code: str, outcome: Outcome) -> Message:
    limit_s = outcome.objective.limit_s
    return _as_sure(message(code, objective=_name(outcome), limit_s=limit_s, value_s=outcome.value_s), outcome)


def _as_sure(finding: Message, outcome: Outcome) -> Message:
    """A finding on an objective, with how sure it is where it is no proof."""
    return message(UNPROVEN[outcome.unproven], finding=finding) if outcome.unproven else finding


def _breaks(outcome: Outcome, level: Level) -> Message:
    """What the objective is at a level that does not hold."""
    return message("analysis.queue_grows") if outcome.met else _is("analysis.objective_is", outcome, level)


def _is(code: str, outcome: Outcome, level: Level) -> Message:
    """What an objective came to; `code` says it where it has a finite value."""
    name = _name(outcome)
    if outcome.value_s is None:
        return message("analysis.objective_unknown", objective=name)
    if outcome.unsure:
        return message(UNSURE[outcome.unsure], objective=name, value_s=outcome.value_s)
    if math.isinf(outcome.value_s):
        failed, scheduled = (sum(getattr(s.account, n) for s in level) for n in ("failed", "scheduled"))
        return message("analysis.objective_unbounded", objective=name, failed=failed, scheduled=scheduled)
    limit = {} if code == "analysis.objective_is" else {"limit_s": outcome.objective.limit_s}
    return _as_sure(message(code, objective=name, value_s=outcome.value_s, **limit), outcome)


def _against(level: Level) -> Message:
    """The objective that is nearest to its limit, or farthest over it, beside that limit."""
    outcome = _nearest(level)
    finding = _is("analysis.objective_within" if outcome.met else "analysis.objective_over", outcome, level)
    grew = any(stage.window.grew for stage in level)
    return message("analysis.and_queue_grows", finding=finding) if grew else finding


def _throughputs(stages: Sequence[StageSummary]) -> Message:
    steps = ladder(stages)
    ends = [steps[0], steps[-1]] if steps else by_label(stages)
    return sentences(*(_throughput(name, _middle(level)) for name, level in ends))


def _middle(level: Level) -> StageSummary:
    """Of a stage's repeats the one with the median output, the lower of two."""
    ordered = sorted(level, key=lambda stage: stage.rates.output_token or stage.rates.request or 0.0)
    return ordered[(len(ordered) - 1) // 2]


def _throughput(level: Message, stage: StageSummary) -> Message:
    """Throughput and latency of one stage; of a batch, how long it took."""
    rate, failed = stage.rates.output_token, stage.account.failed
    if stage.load["kind"] == OFFLINE:
        return message("analysis.answer_batch", level=level, rate=rate, length_s=stage.window.length_s)
    if stage.is_pooled:
        return documents_sentence(level, stage)
    metric = "ttft" if stage.metrics["ttft"].n else "e2e"
    values = stage.metrics[metric]
    times = {"metric": NAMES[metric], "p50_s": values.p50, "p99_s": values.p99}
    if failed:
        return message("analysis.answer_throughput_failed", level=level, rate=rate, failed=failed, **times)
    return message("analysis.answer_throughput", level=level, rate=rate, **times)


def knee(stages: Sequence[Stage], growing: Collection[int]) -> dict[str, Any] | None:
    """The knee of the stages of summary.json; None where there is none. `growing` are stages with a growing queue.

    `rate` names the rate that `held` and `broken` are of: that offered in an open loop, else that of output tokens,
    of requests where answers have none.
    """
    rate = "offered_rate" if any(is_open(str((stage.get("load") or {}).get("kind"))) for stage in stages) else ""
    has_tokens = any(stage.get("output_token_rate") is not None for stage in stages)
    rate = rate or ("output_token_rate" if has_tokens else "request_rate")
    limited = sorted((stage for stage in stages if stage.get("slo")), key=requested_load)
    ends = _limits_break(limited, holding_stages(stages, growing), rate) if limited else _saturates(stages, rate)
    if ends is None or not all(map(math.isfinite, ends)):
        return None
    return {"by": LIMITS if limited else SATURATION, "rate": rate, "held": ends[0], "broken": ends[1]}


def requested_load(stage: Stage) -> float:
    """How much a stage requests, to order stages by: its rate, concurrency, speed, or the requests of a batch."""
    load = stage.get("load") or {}
    level = load.get("rate_to", load.get("rate", load.get("concurrency", load.get("speed"))))
    if load.get("kind") == OFFLINE:
        level = load.get("requests")
    return float(stage.get("index", 0) if level is None else level)


def saturation(
    loads: Sequence[tuple[float, float]], offered: Mapping[float, float] | None = None
) -> tuple[float, float] | None:
    """Where a step of load brings less than half of what the first load brought for as much: the rates of its ends.

    `loads` are pairs of what was requested and reached; the ends are what was reached there, or what was
    `offered` by what was requested. None where no step does, or there are fewer than three loads.
    """
    steps = sorted(dict(loads).items())
    if len(steps) < FEWEST_STEPS or not steps[0][0] > 0 or not steps[0][1] > 0:
        return None
    share = steps[0][1] / steps[0][0]
    for (requested, reached), (more, got) in pairwise(steps):
        if got - reached < share * (more - requested) / 2:
            return (reached, max(got, reached * 1.02)) if offered is None else (offered[requested], offered[more])
    return None


def _saturates(stages: Sequence[Stage], rate: str) -> tuple[float, float] | None:
    reached = "request_rate" if rate == "offered_rate" else rate
    loads = [(requested_load(stage), _number(stage.get(reached))) for stage in stages]
    offered = {requested_load(stage): _rate(stage, rate) for stage in stages} if rate == "offered_rate" else None
    return saturation(loads, offered)


def _limits_break(stages: Sequence[Stage], holding: Collection[int], rate: str) -> tuple[float, float] | None:
    """The rates of the last stage that holds and of the next; `stages` are in the order of their load."""
    broken = next((place for place, stage in enumerate(stages) if stage.get("index") not in holding), len(stages))
    return (_rate(stages[broken - 1], rate), _rate(stages[broken], rate)) if 0 < broken < len(stages) else None


def holding_stages(stages: Sequence[Stage], growing: Collection[int]) -> set[int]:
    """Numbers of the stages that hold: every repeat met every limit, and no queue grew."""
    met: dict[int, bool] = {}
    for stage in stages:
        index = stage.get("index", 0)
        met[index] = met.get(index, True) and stage.get("slo_met") is True and index not in growing
    return {index for index, holds in met.items() if holds}


def _rate(stage: Stage, rate: str) -> float:
    """A rate of a stage; of an older one, which has no offered rate, the one that was requested."""
    value = stage.get(rate)
    if value is None and rate == "offered_rate":
        value = (stage.get("load") or {}).get("rate", stage.get("request_rate"))
    return _number(value)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)

"""What does the run answer, in one sentence with numbers?

With objectives: up to which load they hold, and by how much they are missed at the next.
Without: how much came out, and how long it took. A level of load holds when every repeat of it
keeps every objective and no queue grew; an invalid run answers nothing.
"""

import math
from collections.abc import Mapping, Sequence

from harness.analysis.metrics import StageSummary
from harness.analysis.slo import Outcome
from harness.analysis.steady_state import OFFLINE
from harness.analysis.warnings import INVALID, Warning
from harness.statistics.intervals import percentile_name
from harness.units import format_count, format_duration, format_rate

LEVEL_OF = {
    "closed": "concurrency",
    "constant": "rate",
    "poisson": "rate",
    "gamma": "rate",
    "offline": "requests",
}
UNITS = {"concurrency": "users", "rate": "req/s", "requests": "requests at once"}
WORDS = {
    "ttft": "TTFT",
    "ttft_user": "TTFT from the due time",
    "tpot": "TPOT",
    "itl": "time between tokens",
    "chunk_gap": "gap between events",
    "e2e": "time to the last token",
    "e2e_user": "time from due to the last token",
}
_APART = ("requests", "duration_s")  # how long a stage runs makes no other load of it

Level = Sequence[StageSummary]


def answer(stages: Sequence[StageSummary], doubts: Sequence[Warning], *, simulated: bool) -> str:
    """One sentence for the whole run."""
    invalid = [doubt for doubt in doubts if doubt.severity == INVALID]
    if not any(stage.account.completed for stage in stages):
        body = f"No answer: {_nothing(stages)}"
    elif invalid:
        body = f"No valid answer: {invalid[0].text}"
    elif any(stage.outcomes for stage in stages):
        body = _limits(stages)
    else:
        body = _ranges(stages)
    return f"Simulated: {body}" if simulated else body


def _nothing(stages: Sequence[StageSummary]) -> str:
    failed, cancelled = (sum(getattr(s.account, status) for s in stages) for status in ("failed", "cancelled"))
    if failed:
        names = {name: 0 for stage in stages for name in stage.errors}
        for stage in stages:
            names = {name: count + stage.errors.get(name, 0) for name, count in names.items()}
        counts = ", ".join(f"{name} {format_count(count)}" for name, count in names.items())
        return f"no request was answered, {format_count(failed)} failed ({counts})."
    return f"no request was answered, {format_count(cancelled)} were cancelled." if cancelled else "nothing was sent."


def _by_label(stages: Sequence[StageSummary]) -> dict[str, Level]:
    """The stages by their load in words, repeats together."""
    return {name: [stage for stage in stages if stage.label == name] for name in dict.fromkeys(s.label for s in stages)}


def _ladder(stages: Sequence[StageSummary]) -> list[tuple[str, Level]]:
    """The stages as steps of one growing number, repeats together; empty where they differ in anything else."""
    kinds = {str(stage.load["kind"]) for stage in stages}
    field = LEVEL_OF.get(kinds.pop(), "") if len(kinds) == 1 else ""
    rest = {tuple(sorted((k, str(v)) for k, v in s.load.items() if k not in (*_APART, field))) for s in stages}
    if not field or len(rest) > 1 or len(_by_label(stages)) < 2:
        return []
    steps = sorted(_by_label(stages).values(), key=lambda same: float(same[0].load[field]))
    return [(f"{same[0].load[field]:g} {UNITS[field]}", same) for same in steps]


def _holds(level: Level) -> bool:
    return all(stage.slo_met is True and not stage.window.grew for stage in level)


def _unknown(level: Level) -> bool:
    """Whether no limit can be told at a level."""
    return all(outcome.met is None for outcome in _outcomes(level))


def _limits(stages: Sequence[StageSummary]) -> str:
    ladder = _ladder(stages)
    if not ladder:
        parts = (f"at {name} {_against(level)}" for name, level in _by_label(stages).items())
        return f"{'; '.join(parts)}.".replace("at", "At", 1)
    known = next((i for i, (_, level) in enumerate(ladder) if not _unknown(level)), 0)
    ladder = ladder[known:]  # what the lowest loads say nothing of, the next one may
    held = next((i for i, (_, level) in enumerate(ladder) if not _holds(level)), len(ladder))
    if held == 0:
        return f"Even at {ladder[0][0]} {_against(ladder[0][1])}."
    top, level = ladder[held - 1]
    reach = (
        f"Up to {top}" if not known else f"From {ladder[0][0].partition(' ')[0]} to {top}" if held > 1 else f"At {top}"
    )
    if held == len(ladder):
        return f"{reach}, the most that was tried, {_all_stay(level)}."
    name, broken = ladder[held]
    return f"{reach} {_all_stay(level)}; at {name} {_breaks(_nearest(broken), broken)}."


def _outcomes(level: Level) -> list[Outcome]:
    """Each objective's worst outcome over the repeats of a level; an unknown one is worst."""
    found: dict[str, Outcome] = {}
    for outcome in (outcome for stage in level for outcome in stage.outcomes):
        key = outcome.objective.key
        found[key] = max(found.get(key, outcome), outcome, key=_closeness)
    return list(found.values())


def _closeness(outcome: Outcome) -> tuple[bool, float]:
    """How near to its limit, or how far over it, an objective came."""
    value = outcome.value_s
    return value is None, 0.0 if value is None else value / outcome.objective.limit_s


def _nearest(level: Level) -> Outcome:
    return max(_outcomes(level), key=_closeness)


def _name(outcome: Outcome) -> str:
    metric = outcome.objective.key.rpartition("_")[0]
    return f"{outcome.objective.statistic} {WORDS[metric]}"


def _stays(outcome: Outcome) -> str:
    limit, value = format_duration(outcome.objective.limit_s), format_duration(outcome.value_s)
    return f"{_name(outcome)} stays under {limit} ({value})"


def _all_stay(level: Level) -> str:
    """Every objective of a level that holds, the first in a full sentence."""
    first, *others = _outcomes(level)
    limits = (f"{_name(o)} under {format_duration(o.objective.limit_s)} ({format_duration(o.value_s)})" for o in others)
    return " and ".join([_stays(first), *limits])


def _breaks(outcome: Outcome, level: Level) -> str:
    """What the objective is at a level that does not hold."""
    if outcome.met:
        return "the queue grows for as long as the load lasts"
    name = "it" if len(_outcomes(level)) == 1 else _name(outcome)
    return f"{name} {_is(outcome, level)}"


def _is(outcome: Outcome, level: Level) -> str:
    if outcome.value_s is None:
        return "cannot be told"
    if math.isinf(outcome.value_s):
        failed, all_ = (sum(getattr(s.account, n) for s in level) for n in ("failed", "scheduled"))
        return f"has no bound, as {format_count(failed)} of {format_count(all_)} requests failed"
    return f"is {format_duration(outcome.value_s)}"


def _against(level: Level) -> str:
    """The objective that is nearest to its limit, or farthest over it, beside that limit."""
    outcome = _nearest(level)
    limit = format_duration(outcome.objective.limit_s)
    side = {True: f", within the limit of {limit}", False: f", over the limit of {limit}", None: ""}[outcome.met]
    side = "" if outcome.value_s == math.inf else side
    grew = ", and the queue grows for as long as the load lasts" if any(s.window.grew for s in level) else ""
    return f"{_name(outcome)} {_is(outcome, level)}{side}{grew}"


def _ranges(stages: Sequence[StageSummary]) -> str:
    ladder = _ladder(stages)
    ends = [ladder[0], ladder[-1]] if ladder else list(_by_label(stages).items())
    return f"At {'; at '.join(f'{name} {_shown(_middle(level))}' for name, level in ends)}."


def _middle(level: Level) -> StageSummary:
    """Of a stage's repeats the one with the median output, the lower of two."""
    ordered = sorted(level, key=lambda stage: stage.rates.output_token or 0.0)
    return ordered[(len(ordered) - 1) // 2]


def _shown(stage: StageSummary) -> str:
    """Output and latency of one stage; of a batch, how long it took."""
    output = f"{format_rate(stage.rates.output_token, 'tokens/s')} came out"
    if stage.load["kind"] == OFFLINE:
        return f"{output} in {format_duration(stage.window.length_s)}"
    metric = "ttft" if stage.metrics["ttft"].n else "e2e"
    points: Mapping[str, float | None] = {
        percentile_name(p): getattr(stage.metrics[metric], percentile_name(p)) for p in (50.0, 99.0)
    }
    times = " and ".join(f"{format_duration(value)} ({name})" for name, value in points.items())
    failed = f", {format_count(stage.account.failed)} failed requests left out" if stage.account.failed else ""
    return f"{output}, with a {WORDS[metric]} of {times}{failed}"

"""The knee of a run: between which rates its limits stop holding, or more load stops bringing more."""

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

from harness.analysis.steady_state import OFFLINE, is_open

LIMITS, SATURATION = "limits", "saturation"
FEWEST_STEPS = 3

Stage = Mapping[str, Any]


def knee(stages: Sequence[Stage], growing: Collection[int]) -> dict[str, Any] | None:
    """The knee of the stages of summary.json; None where there is none. `growing` are stages with a growing queue.

    `rate` names the rate that `held` and `broken` are of: that offered in an open loop, else that of output tokens.
    """
    rate = "offered_rate" if any(is_open(str((stage.get("load") or {}).get("kind"))) for stage in stages) else ""
    rate = rate or "output_token_rate"
    limited = sorted((stage for stage in stages if stage.get("slo")), key=requested_load)
    ends = _limits_break(limited, _holding(stages, growing), rate) if limited else _saturates(stages, rate)
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

    `loads` are pairs of what was requested and reached; the ends are told in what was reached, or in what was
    `offered` by what was requested. None where no step does, or fewer than three loads tell.
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


def _holding(stages: Sequence[Stage], growing: Collection[int]) -> set[int]:
    """Numbers of the stages that hold: every repeat met every limit, and no queue grew."""
    met: dict[int, bool] = {}
    for stage in stages:
        index = stage.get("index", 0)
        met[index] = met.get(index, True) and stage.get("slo_met") is True and index not in growing
    return {index for index, holds in met.items() if holds}


def _rate(stage: Stage, rate: str) -> float:
    """A rate of a stage; of an older one, which tells no offered rate, the one that was requested."""
    value = stage.get(rate)
    if value is None and rate == "offered_rate":
        value = (stage.get("load") or {}).get("rate", stage.get("request_rate"))
    return _number(value)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)

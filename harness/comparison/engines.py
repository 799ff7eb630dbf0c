"""The engines of two results side by side, matched by name: how the share of each of them changed.

Values are means over the repeats of a side. An engine that only one side has is matched with none; nothing here is
judged: engines share their requests, so that what one gains another loses.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.analysis.warnings import NOTE, Warning
from harness.comparison.repeats import Side
from harness.messages import message

QUANTITIES = ("running", "waiting", "kv_use", "generation_tokens", "prompt_tokens", "preemptions")
"""What is compared: means of gauges, tokens per second, and preemptions."""
UNLIKE_ENGINES = "engines"
"""The code of the warning that one side has engines which the other has not."""
_RATES = ("generation_tokens", "prompt_tokens")
_MOST_NAMED = 6


@dataclass(frozen=True, slots=True)
class EngineDifference:
    """One engine of one stage on both sides: values by quantity, None where a side does not have it."""

    stage: int
    name: str
    role: str
    base: Mapping[str, float | None]
    new: Mapping[str, float | None]

    def ratio(self, quantity: str) -> float | None:
        """New over base; None where either is not known, or base is nothing."""
        base, new = self.base.get(quantity), self.new.get(quantity)
        return new / base if base and new is not None else None

    def as_dict(self) -> dict[str, Any]:
        """As compare.json has it."""
        return {"stage": self.stage, "engine": self.name, "role": self.role} | {
            quantity: {"base": self.base.get(quantity), "new": self.new.get(quantity), "ratio": self.ratio(quantity)}
            for quantity in QUANTITIES
        }


def engine_changes(base: Side, new: Side) -> list[EngineDifference]:
    """The engines that both sides have, stage by stage, where a stage had several on either side."""
    changes = []
    stages = sorted(set(_stages(base)) & set(_stages(new)))
    for stage in stages:
        before, after = _engines(base, stage), _engines(new, stage)
        if max(len(before), len(after)) < 2:
            continue
        changes += [
            EngineDifference(stage, name, before[name].role, before[name].values, after[name].values)
            for name in before
            if name in after
        ]
    return changes


def unlike_engines(base: Side, new: Side) -> Iterator[Warning]:
    """That engines of one side are not on the other, so that they are matched with none."""
    names = [
        list(dict.fromkeys(name for stage in _stages(side) for name in _engines(side, stage))) for side in (base, new)
    ]
    alone = [[name for name in own if name not in other] for own, other in (names, names[::-1])]
    if max(map(len, names)) > 1 and all(names) and any(alone):
        text = message(
            "comparison.unlike_engines",
            base=len(names[0]),
            new=len(names[1]),
            alone=[name for own in alone for name in own][:_MOST_NAMED],
        )
        yield Warning(UNLIKE_ENGINES, NOTE, text, message("comparison.unlike_engines_next"))


@dataclass(frozen=True, slots=True)
class _Engine:
    role: str
    values: Mapping[str, float | None]


def _stages(side: Side) -> list[int]:
    return list(dict.fromkeys(stage for repeat in side.repeats for stage in repeat.stages))


def _engines(side: Side, stage: int) -> dict[str, _Engine]:
    """By name the engines of a stage, each with its mean over the repeats that have it."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for repeat in side.repeats:
        for engine in (repeat.stages.get(stage) or {}).get("engines") or ():
            rows.setdefault(str(engine["name"]), []).append(engine)
    return {
        name: _Engine(str(own[0].get("role") or ""), {quantity: _mean(own, quantity) for quantity in QUANTITIES})
        for name, own in rows.items()
    }


def _mean(engines: Sequence[Mapping[str, Any]], quantity: str) -> float | None:
    values = [value for engine in engines if (value := _value(engine, quantity)) is not None]
    return math.fsum(values) / len(values) if values else None


def _value(engine: Mapping[str, Any], quantity: str) -> float | None:
    value = engine.get(quantity)
    if isinstance(value, Mapping):
        value = value.get("mean")
    elif quantity in _RATES:
        span_s = engine.get("span_s")
        value = value / span_s if value is not None and span_s else None
    return None if value is None else float(value)

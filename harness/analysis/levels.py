"""Levels of load: stages by what was asked of the engine, in words, and in order where they are steps of one number."""

from collections.abc import Sequence
from typing import Any

from harness.analysis.metrics import StageSummary
from harness.messages import Message, message

LEVEL_OF = {
    "closed": "concurrency",
    "constant": "rate",
    "poisson": "rate",
    "gamma": "rate",
    "offline": "requests",
}
"""The number that a kind of load is a step of."""
ADAPTERS = "adapters"
LEVELS = {
    ADAPTERS: "analysis.level_adapters",
    "concurrency": "analysis.level_concurrency",
    "rate": "analysis.level_rate",
    "requests": "analysis.level_requests",
}
"""The messages that name a step, by its number."""
_APART = ("requests", "duration_s")  # how long a stage runs makes no other load of it

Level = Sequence[StageSummary]
"""The repeats of one stage."""


def by_label(stages: Sequence[StageSummary]) -> list[tuple[Message, Level]]:
    """The stages by their load in words, repeats together."""
    names = {str(stage.label): stage.label for stage in stages}
    return [(name, [stage for stage in stages if str(stage.label) == text]) for text, name in names.items()]


def ladder(stages: Sequence[StageSummary]) -> list[tuple[Message, Level]]:
    """The stages as steps of one growing number, repeats together; empty where they differ in anything else.

    The number is that of their kind of load, or how many adapters take part.
    """
    kinds = {str(stage.load["kind"]) for stage in stages}
    fields = (LEVEL_OF.get(kinds.pop(), "") if len(kinds) == 1 else "", ADAPTERS)
    field = next((field for field in fields if field and _differ_in(stages, field)), "")
    if not field or len(by_label(stages)) < 2:
        return []
    steps = sorted((same for _, same in by_label(stages)), key=lambda same: float(same[0].load[field]))
    return [(level_of(field, same[0].load[field]), same) for same in steps]


def _differ_in(stages: Sequence[StageSummary], field: str) -> bool:
    """Whether all stages have this number, and are the same load but for it."""
    rest = {tuple(sorted((k, str(v)) for k, v in s.load.items() if k not in (*_APART, field))) for s in stages}
    return len(rest) == 1 and all(field in stage.load for stage in stages)


def level_of(field: str, number: Any) -> Message:
    """A step of the number that `field` names, in words."""
    counted = {"count": float(number)} if field == ADAPTERS else {}
    return message(LEVELS[field], value=float(number), **counted)


def level_name(stage: StageSummary) -> Message:
    """The load of a stage in as few words as it takes: its rate or concurrency where it has one, else its label."""
    field = LEVEL_OF.get(str(stage.load["kind"]), "")
    return level_of(field, stage.load[field]) if field in stage.load else stage.label

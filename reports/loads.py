"""How is a stage called in a label?"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from harness.analysis.steady_state import OFFLINE
from harness.results.stage_names import label
from harness.units import significant, time_scale


def trimmed(value: float) -> str:
    """A number of three digits without zeros at its end, for ticks and labels."""
    text = significant(value)
    return text.rstrip("0").rstrip(".") if "." in text else text


def short_duration(seconds: float) -> str:
    """A time without zeros at its end, such as `5 s`, for limits and labels."""
    size, unit = time_scale(seconds)
    return f"{trimmed(seconds / size)} {unit}"


def asked_load(stage: Mapping[str, Any]) -> float:
    """How much a stage of the summary asks for, to order stages by: its rate, users or speed."""
    load = stage.get("load") or {}
    asked = load.get("rate_to", load.get("rate", load.get("concurrency", load.get("speed"))))
    if load.get("kind") == OFFLINE:
        asked = load.get("requests")
    return float(stage.get("index", 0) if asked is None else asked)


def short_labels(loads: Sequence[Mapping[str, Any]]) -> list[str]:
    """A label of each stage that tells it from the others, as short as that allows."""
    differing = [name for name in _WORDS if len({load.get(name) for load in loads}) > 1]
    words = [_words(load, differing or _LEVELS) for load in loads]
    often = Counter(words)
    return [
        word if word and often[word] == 1 else f"{i + 1}: {word or label(loads[i])}" for i, word in enumerate(words)
    ]


_WORDS = {
    "kind": "{}",
    "rate": "{} req/s",
    "rate_to": "to {} req/s",
    "concurrency": "{} users",
    "speed": "×{} speed",
    "burstiness": "burst {}",
    "max_concurrency": "at most {}",
    "requests": "{} requests",
    "duration_s": "{} s",
}
_LEVELS = ("rate", "rate_to", "concurrency", "speed")


def _words(load: Mapping[str, Any], names: Sequence[str]) -> str:
    said = [_WORDS[name].format(_value(load[name])) for name in names if load.get(name) is not None]
    return ", ".join(said)


def _value(value: Any) -> str:
    return trimmed(value) if isinstance(value, int | float) else str(value)


def same_level(loads: Sequence[Mapping[str, Any]]) -> bool:
    """Whether several stages ask for the same rate or users, and differ in something else."""
    levels = {tuple(load.get(name) for name in ("kind", *_LEVELS)) for load in loads}
    if {load.get("kind") for load in loads} == {OFFLINE}:
        levels = {(load.get("requests"),) for load in loads}
    return len(loads) > 1 and len(levels) == 1

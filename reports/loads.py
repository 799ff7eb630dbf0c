"""Short names of stages, numbers and limits, for labels and ticks."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from harness.analysis.steady_state import OFFLINE
from harness.messages import localized, stored
from harness.scenario.stages import load_name
from harness.units import significant, time_scale
from reports.texts import listed


def trimmed(value: float) -> str:
    """A number of three digits without zeros at its end, for ticks and labels."""
    text = significant(value)
    return text.rstrip("0").rstrip(".") if "." in text else text


def short_duration(seconds: float) -> str:
    """A time without zeros at its end, such as `5 s`, for limits and labels."""
    size, unit = time_scale(seconds)
    return f"{trimmed(seconds / size)} {unit}"


def requested_load(stage: Mapping[str, Any]) -> float:
    """The requested load of a stage of the summary, to order stages by: its rate, users or speed."""
    load = stage.get("load") or {}
    value = load.get("rate_to", load.get("rate", load.get("concurrency", load.get("speed"))))
    if load.get("kind") == OFFLINE:
        value = load.get("requests")
    return float(stage.get("index", 0) if value is None else value)


def stage_title(index: int, load: str = "", repeat: int = 0) -> str:
    """`stage 2 (poisson 4 req/s), repeat 3` of a stage and a repeat that are counted from 0."""
    number = index + 1
    name = (
        localized("page.load.stage_of", number=number, load=load)
        if load
        else localized("page.load.stage", number=number)
    )
    return localized("page.load.repeat_of", stage=name, repeat=repeat + 1) if repeat else name


def column_title(index: int, load: str = "") -> str:
    """The same below a head that says Stage already: `2: poisson 4 req/s`."""
    return localized("page.load.in_column", number=index + 1, load=load) if load else str(index + 1)


def load_text(stage: Mapping[str, Any]) -> str:
    """The load of a stage of summary.json in a few words; of results of format 1 in English."""
    return localized(stored(stage.get("label_message"), str(stage.get("label") or "")))


def title_of(stage: Mapping[str, Any]) -> str:
    """The name of a stage of summary.json, its repeat included."""
    return stage_title(stage.get("index") or 0, load_text(stage), stage.get("repeat") or 0)


def short_labels(loads: Sequence[Mapping[str, Any]]) -> list[str]:
    """A label of each stage that differs from the others, as short as that allows."""
    differing = [name for name in _WORDS if len({load.get(name) for load in loads}) > 1]
    telling = [name for name in differing if name not in _LENGTHS]
    words = [_words(load, telling or differing or _LEVELS) for load in loads]
    if len(set(words)) < len(words):
        words = [_words(load, differing or _LEVELS) for load in loads]
    often = Counter(words)
    return [
        word if word and often[word] == 1 else f"{i + 1}: {word or localized(load_name(loads[i]))}"
        for i, word in enumerate(words)
    ]


_WORDS = {
    "kind": "",
    "rate": "page.load.short_rate",
    "rate_to": "page.load.short_rate_to",
    "concurrency": "page.load.short_users",
    "speed": "page.load.short_speed",
    "adapters": "page.load.short_adapters",
    "burstiness": "page.load.short_burst",
    "max_concurrency": "page.load.short_most",
    "requests": "page.load.short_requests",
    "duration_s": "page.load.short_duration",
}
_KINDS = {
    "poisson": "page.load.kind_poisson",
    "constant": "page.load.kind_constant",
    "closed": "page.load.kind_closed",
    "gamma": "page.load.kind_gamma",
    "ramp": "page.load.kind_ramp",
    "trace": "page.load.kind_trace",
    "offline": "page.load.kind_offline",
}
_LENGTHS = ("requests", "duration_s")  # named only where nothing else tells two stages apart
_LEVELS = ("rate", "rate_to", "concurrency", "speed")


def _words(load: Mapping[str, Any], names: Sequence[str]) -> str:
    parts = [_part(name, load[name]) for name in names if load.get(name) is not None]
    return listed(parts)


def _part(name: str, value: Any) -> str:
    """One setting of a load in a word or two."""
    if name == "kind":
        return localized(_KINDS[value]) if value in _KINDS else str(value)
    counted = {"count": value} if name == "adapters" else {}
    return localized(_WORDS[name], value=_value(value), **counted)


def _value(value: Any) -> str:
    return trimmed(value) if isinstance(value, int | float) else str(value)


def same_level(loads: Sequence[Mapping[str, Any]]) -> bool:
    """Whether several stages ask for the same rate or users, and differ in something else."""
    levels = {tuple(load.get(name) for name in ("kind", *_LEVELS)) for load in loads}
    if {load.get("kind") for load in loads} == {OFFLINE}:
        levels = {(load.get("requests"),) for load in loads}
    return len(loads) > 1 and len(levels) == 1

"""The names of stages and of their loads, in the scenario's own numbers: `stage 2 (poisson 4 req/s)`.

People read numbers of stages from 1. Files for programs keep `index` and `stage`, counted from 0, and `label`.
"""

from collections.abc import Mapping
from typing import Any

from harness.messages import Message, message, plain


def load_name(load: Mapping[str, Any]) -> Message:
    """A stage's load in a few words, in the scenario's own numbers, such as `poisson 2 req/s`."""
    capped = load.get("max_concurrency")
    kind = str(load["kind"])
    if not load.get("rate") and kind not in _NAMES:  # of a package, which need not have a rate
        options = (f"{name} {value}" for name, value in (load.get("options") or {}).items() if value is not None)
        return message("load.of_package", keys=[kind, *options])
    code, fields = _NAMES.get(kind, ("load.other", ("kind", "rate")))
    name = message(code, **{field: {"speed": 1.0, **load}[field] for field in fields})
    return message("load.at_most", load=name, max_concurrency=capped) if capped else name


def load_and_end(load: Mapping[str, Any]) -> Message:
    """A stage's load and when it ends, such as `poisson 2 req/s, 60 s`."""
    name, requests, duration_s = load_name(load), load.get("requests"), load.get("duration_s")
    if duration_s is not None:
        return message("load.for_duration", load=name, duration_s=float(duration_s))
    if requests is not None and load["kind"] != "offline":  # whose name has them
        return message("load.for_requests", load=name, count=requests)
    return name


_NAMES = {  # of a load: its message, and the fields that the message has
    "closed": ("load.closed", ("concurrency",)),
    "offline": ("load.offline", ("requests",)),
    "gamma": ("load.gamma", ("rate", "burstiness")),
    "ramp": ("load.ramp", ("rate", "rate_to")),
    "trace": ("load.trace", ("speed",)),
    "poisson": ("load.poisson", ("rate",)),
    "constant": ("load.constant", ("rate",)),
}


def label(load: Mapping[str, Any]) -> str:
    """The name of a load in English, as `label` of summary.json has it."""
    return str(load_name(load))


def stage_title(index: int, stage: Mapping[str, Any]) -> Message:
    """The name of a stage of summary.json as a message: by its load, or by its label where that is all it has."""
    label = str(stage.get("label") or "")
    try:
        load = load_name(stage["load"])
    except KeyError:
        load = plain(label)
    if not label:
        return message("load.stage_number", number=index + 1)
    return message("load.stage", number=index + 1, load=load)

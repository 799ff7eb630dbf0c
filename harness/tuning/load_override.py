"""Which load is a scenario measured under: its own last stage, with what a study or a point changes of it?"""

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from harness.scenario.models import Scenario
from harness.scenario.stages import OFFLINE, LoadItem, Stage

_ITEM: TypeAdapter[Any] = TypeAdapter(LoadItem)
_FILE_KEY = {"rate_to": "to", "duration_s": "duration"}
_WITH_RATE = ("poisson", "constant", "gamma")


def body_of(stage: Stage) -> dict[str, Any]:
    """A stage as a scenario file writes its body."""
    body = {_FILE_KEY.get(name, name): value for name, value in stage.as_dict().items() if name != "kind"}
    if stage.kind == "ramp":
        body["from"] = body.pop("rate")
    return body


def item_of(stage: Stage) -> dict[str, Any]:
    """A stage as an item of a scenario's `load`."""
    return {stage.kind: body_of(stage)}


def with_stage(scenario: Scenario, stage: Stage, seed: int) -> Scenario:
    """The scenario with this stage as its only load, run once, under another seed."""
    item = _ITEM.validate_python(item_of(stage))
    return scenario.model_copy(update={"load": (item,), "seed": seed, "repeats": 1})


def changed(stage: Stage, changes: Mapping[str, Any]) -> Stage:
    """A stage with some values of its body changed, by the names of a scenario file.

    Raises:
        ValueError: a value that a stage of this kind cannot have (pydantic's own error).
    """
    if not changes:
        return stage
    body = body_of(stage) | dict(changes)
    item = _ITEM.validate_python({stage.kind: body})
    return Scenario.model_construct(load=(item,)).stages[0]


def unfit(stage: Stage, *, for_capacity: bool, served: bool) -> str | None:
    """Why a stage cannot show a capacity, or anything of an engine that is served; None where it can."""
    if for_capacity and stage.kind not in _WITH_RATE:
        return f"capacity is searched over rates, and {stage.kind} has not one; expected {', '.join(_WITH_RATE)}"
    if served and stage.kind == OFFLINE:
        return "offline is load without a server, and each trial is one; expected another kind of load"
    return None

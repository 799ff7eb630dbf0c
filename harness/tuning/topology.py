"""Topologies: how engines are placed on cards, which of them are possible, and what each of them is as an engine.

A layout is a number of engines of equal size: side by side, or split into those that prefill and those that
decode. A study with topologies has one parameter more, whose values are the names of its possible layouts.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.errors import HarnessError
from harness.messages import Message, message, plain
from harness.scenario.engine import Engine
from harness.scenario.stages import Stage
from harness.scenario.study import Topology
from harness.simulator.engine_config import settings_from_flags
from harness.simulator.memory import memory_of
from harness.tuning.types import TunableParameter

TOPOLOGY = "topology"
"""The parameter's name."""
TENSOR, DATA = "tensor_parallel_size", "data_parallel_size"
_NAME = re.compile(r"TP(\d+)(?: DP(\d+)| (\d+)P(\d+)D)?")


@dataclass(frozen=True, slots=True)
class Layout:
    """So many engines of so many cards each; of them `prefill` do prefill only, and the others decode.

    With `prefill` 0 each engine does both.
    """

    tensor_parallel: int
    engines: int = 1
    prefill: int = 0

    @property
    def decode(self) -> int:
        """How many engines decode what others have prefilled."""
        return self.engines - self.prefill if self.prefill else 0

    @property
    def cards(self) -> int:
        """How many cards it takes."""
        return self.tensor_parallel * self.engines

    @property
    def name(self) -> str:
        """Such as `TP2`, `TP2 DP4` or `TP1 2P6D`."""
        if self.prefill:
            return f"TP{self.tensor_parallel} {self.prefill}P{self.decode}D"
        return f"TP{self.tensor_parallel}" + (f" DP{self.engines}" if self.engines > 1 else "")


def layout_named(name: str) -> Layout:
    """The layout of a name."""
    match = _NAME.fullmatch(name)
    assert match is not None, name
    tensor, data, prefill, decode = (0 if part is None else int(part) for part in match.groups())
    return Layout(tensor, prefill + decode, prefill) if prefill else Layout(tensor, data or 1)


def layouts_of(topology: Topology) -> tuple[Layout, ...]:
    """Every layout that the cards hold, in the order of the study."""
    return tuple(dict.fromkeys(_layouts(topology)))


def _layouts(topology: Topology) -> Iterator[Layout]:
    for tensor in topology.tensor_parallel:
        most = topology.cards // tensor
        for count in (most,) if topology.engine_counts is None else topology.engine_counts:
            for prefill, decode in topology.splits if 0 < count <= most else ():
                parts = prefill + decode
                if parts == 0:
                    yield Layout(tensor, count)
                elif count >= parts and (topology.engine_counts is None or count % parts == 0):
                    times = count // parts
                    yield Layout(tensor, times * parts, times * prefill)


def why_no_layout(topology: Topology) -> Message:
    """Why the cards hold no layout at all: no engine, or no ratio of prefill to decode."""
    engines = topology.cards // min(topology.tensor_parallel)
    ratios = [f"{prefill}:{decode}" for prefill, decode in topology.splits if prefill + decode > engines]
    if not engines or len(ratios) < len(topology.splits):
        return message("tuning.cards_too_few")
    return message("tuning.ratios_too_large", ratios=ratios, engines=engines, cards=topology.cards)


@dataclass(frozen=True, slots=True)
class RefusedLayout:
    """A layout that cannot serve, and why."""

    layout: Layout
    why: Message


def possible_layouts(topology: Topology, engine: Engine, kind: str) -> tuple[tuple[Layout, ...], list[RefusedLayout]]:
    """The layouts that can serve, the default first, and those that cannot.

    The default has the base configuration's own tensor parallelism, side by side, as many as there may be; where that
    is none of the layouts, the first that can serve.
    """
    refused = [
        RefusedLayout(layout, why)
        for layout in layouts_of(topology)
        if (why := _why_impossible(layout, engine, kind)) is not None
    ]
    known = {fault.layout for fault in refused}
    possible = [layout for layout in layouts_of(topology) if layout not in known]
    own = int(engine.args.get(TENSOR) or 1)

    def is_other(layout: Layout) -> tuple[bool, bool, int]:
        return layout.prefill > 0, layout.tensor_parallel != own, -layout.cards

    default = sorted(possible, key=is_other)[:1]
    return (*default, *(layout for layout in possible if layout not in default)), refused


def _why_impossible(layout: Layout, engine: Engine, kind: str) -> Message | None:
    """Why no engine of a layout can start, as far as arithmetic tells."""
    is_simulated, model = kind == "simulator", {} if engine.model is None else {"model": engine.model}
    try:
        heads = settings_from_flags(model).shape.heads
        if heads % layout.tensor_parallel:
            return message("tuning.heads_not_divided", heads=heads, parts=layout.tensor_parallel)
        if is_simulated:
            memory_of(settings_from_flags({**engine.args, **model, TENSOR: layout.tensor_parallel}))
    except HarnessError as error:
        return plain(" ".join(error.lines)) if is_simulated else None  # a model that only its engine knows
    return None


def parameter_of_layouts(layouts: Sequence[Layout]) -> TunableParameter:
    """The parameter that chooses among layouts."""
    return TunableParameter(TOPOLOGY, "choice", values=tuple(layout.name for layout in layouts))


def laid_out(engine: Engine, kind: str, layout: Layout, connector: str) -> Engine:
    """An engine with its flags, in a layout: flags of one process, or a deployment of two roles."""
    args = {**engine.args, TENSOR: layout.tensor_parallel}
    args.pop(DATA, None)
    if layout.tensor_parallel == 1 and TENSOR not in engine.args:
        del args[TENSOR]
    if not layout.prefill:
        return engine.model_copy(update={"args": {**args, **({DATA: layout.engines} if layout.engines > 1 else {})}})
    split = {"prefill": layout.prefill, "decode": layout.decode, "connector": connector}
    written = engine.model_dump(mode="json", exclude_none=True, exclude_defaults=True, exclude={"devices", "host"})
    deployment = {
        **written, "kind": "deployment", "args": args, "process": {"kind": kind},
        "preset": {"prefill_decode": split},
    }  # fmt: skip
    return Engine.model_validate(deployment)


def layout_of(engine: Engine) -> Layout:
    """The layout of an engine."""
    tensor, data = (int(engine.args.get(name) or 1) for name in (TENSOR, DATA))
    split = None if engine.preset is None else engine.preset.prefill_decode
    if split is None:
        return Layout(tensor, data)
    return Layout(tensor, split.prefill + split.decode, split.prefill)


def leased(engine: Engine, devices: Sequence[int], *, all_of_them: bool) -> Engine:
    """An engine on some devices: all of them, or the first, as many as its layout takes."""
    own = tuple(devices) if all_of_them else tuple(devices[: layout_of(engine).cards])
    if engine.process is None:
        return engine.model_copy(update={"devices": own})
    return engine.model_copy(update={"process": engine.process.model_copy(update={"devices": own})})


def cards_of(effective: Mapping[str, Any], default: int) -> int:
    """The cards of a configuration with a layout; else the default."""
    name = effective.get(TOPOLOGY)
    return default if name is None else layout_named(str(name)).cards


def shared_stage(stage: Stage, share: float) -> Stage:
    """The load of a layout that takes a share of all cards: so much of the users, of the rate and of the requests."""
    if share == 1.0:
        return stage
    users = {
        name: max(1, round(count * share))
        for name in ("concurrency", "max_concurrency", "requests")
        if (count := getattr(stage, name)) is not None
    }
    rates = {name: rate * share for name in ("rate", "rate_to") if (rate := getattr(stage, name)) is not None}
    return replace(stage, **users, **rates)

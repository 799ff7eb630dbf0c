"""Parameters of a search: those of the study, the default ranges for a model and a device, and those without effect."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.errors import HarnessError
from harness.messages import Message, message
from harness.scenario.engine import Engine
from harness.scenario.models import Scenario
from harness.scenario.stages import Stage, stages_of
from harness.scenario.study import Dimension, Study
from harness.scenario.workload import CountSpec, SyntheticWorkload, at_most
from harness.seeds import stream
from harness.simulator.engine_config import ASCEND_BLOCK_SIZE, canonical, settings_from_flags
from harness.simulator.memory import Memory, memory_of
from harness.tuning.candidates import CandidateResolver
from harness.tuning.space import Space, active_point, latin_hypercube, value_at
from harness.tuning.study_plan import StudyPlan
from harness.tuning.topology import Layout, parameter_of_layouts
from harness.tuning.types import ADDITIONAL, ENVIRONMENT, LOAD, ParameterValue, Point, TunableParameter

MOST_REQUESTS = 512
FEWEST_REQUESTS = 8
MOST_BATCHED = 32768
FEWEST_BATCHED = 1024
MEMORY_SHARES = (0.70, 0.97)
"""Of gpu_memory_utilization, where the device is not known."""
_SHARE_STEP = 0.01
_MORE_THAN_FIT = 4  # times the requests that the cache holds: beyond, all that changes is waiting inside


def default_parameters(
    engine: Engine, kind: str, scenario: Scenario, fixed: Mapping[str, ParameterValue], users: int | None = None
) -> Iterator[TunableParameter]:
    """block_size, max_num_seqs, gpu_memory_utilization and max_num_batched_tokens for an engine.

    `users` is how many requests a closed load has under way at once; None where its arrivals set no bound.
    """
    args = {**engine.args, **fixed}
    memory = _memory(engine, args) if kind == "simulator" else None
    yield TunableParameter("block_size", "choice", values=block_sizes(kind, args))
    most = min(_most_requests(scenario, memory), float(max(users or MOST_REQUESTS, 2 * FEWEST_REQUESTS)))
    yield TunableParameter("max_num_seqs", "int", FEWEST_REQUESTS, most, 1.0, log=True)
    low, high = _shares(args, memory)
    yield TunableParameter("gpu_memory_utilization", "float", low, high, _SHARE_STEP)
    yield TunableParameter("max_num_batched_tokens", "int", *_batched(args, memory), 1.0, log=True)


def block_sizes(kind: str, args: Mapping[str, Any]) -> tuple[ParameterValue, ...]:
    """Block sizes that kernels are known to take: on Ascend multiples of 128, elsewhere from 16 on."""
    on_ascend = kind == "vllm-ascend" or (kind == "simulator" and not str(args.get("chip", "")).startswith("cpu"))
    return (ASCEND_BLOCK_SIZE, 2 * ASCEND_BLOCK_SIZE, 4 * ASCEND_BLOCK_SIZE) if on_ascend else (16, 32, 64, 128)


def _memory(engine: Engine, args: Mapping[str, Any]) -> Memory | None:
    """The memory of the base configuration on the simulated device; None where it would not start."""
    try:
        return memory_of(settings_from_flags(_flags(engine, args)))
    except HarnessError:
        return None


def _flags(engine: Engine, args: Mapping[str, Any]) -> dict[str, Any]:
    return {**args, **({} if engine.model is None else {"model": engine.model})}


def _most_requests(scenario: Scenario, memory: Memory | None) -> float:
    """As many as the cache holds a few times over, at typical lengths; a power of two up to 512."""
    workload = scenario.workload
    if memory is None or not isinstance(workload, SyntheticWorkload):
        return float(MOST_REQUESTS)
    length = max(1, (_middle(workload.input_tokens) + _middle(workload.output_tokens)))
    fitting = _MORE_THAN_FIT * memory.cache_tokens / length
    power = 2.0 ** math.ceil(math.log2(max(fitting, 2 * FEWEST_REQUESTS)))
    return min(power, float(MOST_REQUESTS))


def _middle(count: CountSpec) -> int:
    return max(1, at_most(count) // 2)


def _shares(args: Mapping[str, Any], memory: Memory | None) -> tuple[float, float]:
    """From what weights and one long request need, up to what is free on an idle device."""
    if memory is None or "num_gpu_blocks_override" in args or "kv_cache_memory_bytes" in args:
        return MEMORY_SHARES
    longest = -(-memory.max_model_len // memory.block_size) * memory.block_bytes
    needed = memory.weights + memory.activation + memory.outside + longest + memory.block_bytes
    low = math.ceil(needed / memory.total * 100) / 100
    high = math.floor(memory.free / memory.total * 100) / 100
    return (min(max(low, 0.5), high - _SHARE_STEP), high) if low < high else MEMORY_SHARES


def _batched(args: Mapping[str, Any], memory: Memory | None) -> tuple[float, float]:
    """Up to four whole prompts a step; without chunked prefill a step must hold the longest prompt."""
    length = int(args.get("max_model_len") or 0) or (memory.max_model_len if memory else 8192)
    low = float(FEWEST_BATCHED) if args.get("enable_chunked_prefill") is not False else float(length)
    return low, float(max(min(MOST_BATCHED, 4 * length), 2 * low))


def trial_stage(study: Study, scenario: Scenario) -> Stage:
    """The load that trials are measured under."""
    return stages_of(study.load)[-1] if study.load is not None else scenario.stages[-1]


def parameter_of(name: str, item: Any) -> TunableParameter | None:
    """A line of the space as a parameter; None for a fixed or derived value."""
    if isinstance(item, tuple):
        return TunableParameter(name, "choice", values=item)
    if not isinstance(item, Dimension) or item.derive is not None:
        return None
    when = {target_name(other): many_values(allowed) for other, allowed in item.when.items()}
    if item.choice is not None:
        return TunableParameter(name, "choice", values=item.choice, when=when)
    ends = item.int_ or item.float_
    assert ends is not None
    kind = "int" if item.int_ is not None else "float"
    step = item.step or (1.0 if kind == "int" else 0.0)
    return TunableParameter(name, kind, float(ends[0]), float(ends[1]), step, log=item.log, when=when)


def many_values(allowed: Any) -> tuple[ParameterValue, ...]:
    """One value or several, as several."""
    return allowed if isinstance(allowed, tuple) else (allowed,)


def target_name(target: str) -> str:
    """A target under its one name: flags in snake case, as vLLM calls them in full."""
    first = target.partition(".")[0]
    return target if "." in target and first in (ADDITIONAL, ENVIRONMENT, LOAD) else canonical(target)


def space_of(study: Study, engine: Engine, kind: str, scenario: Scenario, layouts: Sequence[Layout] = ()) -> Space:
    """The study's space with the default parameters that it does not mention, and its topologies."""
    items = {target_name(target): item for target, item in study.space.items()}
    parameters = [parameter for name, item in items.items() if (parameter := parameter_of(name, item)) is not None]
    fixed = {name: item for name, item in items.items() if not isinstance(item, Dimension | tuple)}
    derived = {n: i.derive for n, i in items.items() if isinstance(i, Dimension) and i.derive is not None}
    if study.defaults:
        defaults = default_parameters(engine, kind, scenario, fixed, _users(study, scenario))
        parameters += [parameter for parameter in defaults if parameter.name not in items]
    if len(layouts) > 1:
        parameters.insert(0, parameter_of_layouts(layouts))
    return Space(tuple(_in_order(parameters)), fixed, derived)


def _users(study: Study, scenario: Scenario) -> int | None:
    """The most requests at once; None without a bound: an open load, one that is swept, or several scenarios."""
    swept = any(target_name(target).startswith(LOAD + ".") for target in study.space)
    if swept or len(study.files) > 1 or study.seeks_capacity:
        return None
    stage = trial_stage(study, scenario)
    return stage.concurrency or stage.max_concurrency


def _in_order(parameters: Sequence[TunableParameter]) -> list[TunableParameter]:
    """Parameters after those that their conditions name; those of a circular condition as they stand."""
    remaining, placed = list(parameters), []
    while remaining:
        names = {parameter.name for parameter in remaining}
        ready = [parameter for parameter in remaining if not set(parameter.when) & (names - {parameter.name})]
        ready = ready or remaining
        placed += ready
        remaining = [parameter for parameter in remaining if parameter not in ready]
    return placed


_BASES = 4
_VALUES = 4
_UNLOCKS = {"block_size": {"enable_prefix_caching": False, "enable_chunked_prefill": False}}
"""What gives a parameter its effect back. vllm-ascend holds blocks at 128 tokens while either is on."""


@dataclass(frozen=True, slots=True)
class InertParameter:
    """A parameter whose values all make the same engine, and why in a line."""

    name: str
    becomes: ParameterValue | None
    why: Message

    @property
    def message(self) -> Message:
        """In one line."""
        if self.becomes is None:
            return message("tuning.inert", name=self.name, reason=self.why)
        return message("tuning.inert_value", name=self.name, value=self.becomes, reason=self.why)


def find_inert_parameters(plan: StudyPlan, resolver: CandidateResolver) -> tuple[InertParameter, ...]:
    """Parameters whose every value leads to the same engine, around several points of the space.

    A value that would be refused counts as an engine of its own: failing is an effect.
    """
    space, rng = plan.space, stream(plan.study.seed, "dead dimensions")
    corner = active_point(space, {parameter.name: _first(parameter) for parameter in space.parameters})
    bases: list[Point] = [corner, *(latin_hypercube(space, _BASES, rng) if space.parameters else [])]
    # All at once, and the base configuration with them: each call may import vLLM anew.
    resolver.candidates(
        [{}, *(point for parameter in space.engine for base in bases for point in _varied(space, parameter, base))]
    )
    inert = (_inert(resolver, space, parameter, bases) for parameter in space.engine)
    return tuple(parameter for parameter in inert if parameter is not None)


def _first(parameter: TunableParameter) -> ParameterValue:
    return parameter.values[0] if parameter.kind == "choice" else parameter.low


def _varied(space: Space, parameter: TunableParameter, base: Point) -> list[dict[str, ParameterValue]]:
    if parameter.name not in base:
        return []
    return [active_point(space, {**base, parameter.name: value}) for value in _some(parameter)]


def _some(parameter: TunableParameter) -> list[ParameterValue]:
    """A few values over the whole range."""
    count = len(parameter.values) if parameter.kind == "choice" else _VALUES
    return list(dict.fromkeys(value_at(parameter, float(share)) for share in np.linspace(0.0, 1.0, max(count, 2))))


def _inert(
    resolver: CandidateResolver, space: Space, parameter: TunableParameter, bases: Sequence[Point]
) -> InertParameter | None:
    tried = False
    reason, becomes = message("tuning.value_not_passed_on"), None
    for base in bases:
        candidates = resolver.candidates(_varied(space, parameter, base))
        sound = [candidate for candidate in candidates if candidate.resolved.refusal is None]
        if len({candidate.engine_key for candidate in sound}) > 1 or (sound and len(sound) < len(candidates)):
            return None
        for candidate in sound:
            tried = True
            change = next((row for row in candidate.resolved.changed if row.flag == parameter.key), None)
            reason = reason if change is None or change.why is None else change.why
            becomes = candidate.resolved.effective.get(parameter.key, becomes)
    return InertParameter(parameter.name, becomes, reason) if tried else None


def without_inert(plan: StudyPlan, inert: Sequence[InertParameter]) -> tuple[StudyPlan, tuple[Message, ...]]:
    """The plan without its inert parameters, or with what unlocks them, and what was done in lines."""
    lines = []
    space, unlock = plan.space, plan.study.dead == "unlock"
    for parameter in inert:
        keys = _UNLOCKS.get(parameter.name) if unlock and plan.kind != "vllm" else None
        if keys is None:
            space = space.without([parameter.name])
            hinted = parameter.name in _UNLOCKS and not unlock
            code = "tuning.inert_dropped_with_hint" if hinted else "tuning.inert_dropped"
            lines.append(message(code, parameter=parameter.message))
        else:
            space = _unlocked(space, keys)
            lines.append(message("tuning.inert_unlocked", parameter=parameter.message, flags=list(keys)))
    return replace(plan, space=space), tuple(lines)


def _unlocked(space: Space, keys: dict[str, bool]) -> Space:
    """With prefix caching and chunked prefill off; a step must then hold the longest prompt."""
    return Space(space.without([*keys]).parameters, {**space.fixed, **keys}, space.derived)

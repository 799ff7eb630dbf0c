"""Candidates: the engine of a point, its effective configuration, and the cost of going from one to the next."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from harness.engines.flag_resolution import ResolvedFlags, resolve_by_simulator, resolve_many
from harness.engines.vllm import environment_of
from harness.scenario.engine import Engine
from harness.tuning.space import active_point, default_value, point_key
from harness.tuning.study_plan import StudyPlan, TrialScores
from harness.tuning.topology import TOPOLOGY, laid_out, layout_named
from harness.tuning.types import ADDITIONAL, ENVIRONMENT, LOAD, Point

ResolveFlags = Callable[[Sequence[Engine]], Sequence[ResolvedFlags]]
"""What engines would make of their flags, told without starting them."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A point with the engine it asks for and what that becomes; `key` is equal for points that are the same."""

    point: Point
    engine: Engine
    load: Mapping[str, Any]
    resolved: ResolvedFlags
    key: str
    engine_key: str


@dataclass(frozen=True, slots=True)
class Proposal:
    """A candidate to try, its origin, and the simulator's prediction of it."""

    candidate: Candidate
    origin: str
    predicted: TrialScores | None


def engine_of(plan: StudyPlan, point: Point) -> Engine:
    """The base engine with what a point sets.

    Raises:
        ValueError: a derived value that cannot be computed.
    """
    values = plan.space.values(point)
    args, env = dict(plan.engine.args), dict(plan.engine.env)
    extra = dict(args.get(ADDITIONAL) or {})
    layout = values.pop(TOPOLOGY, None)
    for name, value in values.items():
        place, _, key = name.partition(".")
        if place == ENVIRONMENT and key:
            env[key] = str(value)
        elif place == ADDITIONAL and key:
            extra[key] = value
        elif place != LOAD:
            args[name] = value
    if extra:
        args[ADDITIONAL] = extra
    engine = plan.engine.model_copy(update={"args": args, "env": env})
    if plan.study.topology is None:
        return engine
    chosen = plan.layouts[0] if layout is None else layout_named(str(layout))
    return laid_out(engine, plan.kind, chosen, plan.study.topology.connector)


def load_changes(plan: StudyPlan, point: Point) -> dict[str, Any]:
    """What a point changes of the load, by the names of a scenario file."""
    values = plan.space.values(point)
    return {name.partition(".")[2]: value for name, value in values.items() if name.startswith(LOAD + ".")}


@dataclass(slots=True)
class CandidateResolver:
    """All that is known of points without starting anything; what was resolved once is kept."""

    plan: StudyPlan
    resolve: ResolveFlags
    _kept: dict[str, Candidate] = field(default_factory=dict)

    def candidates(self, points: Sequence[Point]) -> list[Candidate]:
        """The points as candidates, in their order; those whose derived values cannot be computed are left out."""
        requested = {point_key(point): point for point in points}
        new = {key: point for key, point in requested.items() if key not in self._kept}
        engines = {key: engine for key, point in new.items() if (engine := self._engine(point)) is not None}
        resolved = self.resolve(list(engines.values())) if engines else ()
        for (key, engine), resolution in zip(engines.items(), resolved, strict=True):
            self._kept[key] = self._candidate(new[key], engine, resolution)
        return [self._kept[key] for key in requested if key in self._kept]

    def candidate(self, point: Point) -> Candidate | None:
        """One point as a candidate."""
        return next(iter(self.candidates([point])), None)

    def default(self) -> Candidate:
        """The base configuration as a candidate: its point says what the engine has by itself."""
        candidate = self.candidate({})
        assert candidate is not None
        effective, space = candidate.resolved.effective, self.plan.space.of_engines
        named = {
            parameter.name: default_value(parameter, effective.get(parameter.key)) for parameter in space.parameters
        }
        point = active_point(space, {name: value for name, value in named.items() if value is not None})
        return replace(candidate, point=point)

    def _engine(self, point: Point) -> Engine | None:
        try:
            return engine_of(self.plan, point)
        except ValueError:
            return None

    def _candidate(self, point: Point, engine: Engine, resolved: ResolvedFlags) -> Candidate:
        load = load_changes(self.plan, point)
        if self.plan.layouts:
            layout = str(point.get(TOPOLOGY, self.plan.layouts[0].name))
            resolved = replace(resolved, effective={**resolved.effective, TOPOLOGY: layout})
        engine_key = canonical_json(resolved.effective, engine.env)
        return Candidate(dict(point), engine, load, resolved, f"{engine_key} {canonical_json(load)}", engine_key)


def canonical_json(*parts: Mapping[str, Any]) -> str:
    """Mappings as text that is equal for equal ones; what is None is not there."""
    return json.dumps(
        [{name: value for name, value in part.items() if value is not None} for part in parts],
        sort_keys=True,
        default=str,
    )


def flag_resolver(plan: StudyPlan) -> ResolveFlags:
    """How flags of the plan's kind of engine are resolved: by the simulator's own code, or by the installed vLLM's.

    What was resolved once is kept, as importing vLLM takes half a minute.
    """
    resolved: dict[str, ResolvedFlags] = {}
    resolve = _plain_resolver(plan)

    def remembered(engines: Sequence[Engine]) -> list[ResolvedFlags]:
        keys = [canonical_json(engine.args, engine.env) for engine in engines]
        new = {key: engine for key, engine in zip(keys, engines, strict=True) if key not in resolved}
        resolved.update(zip(new, resolve(list(new.values())) if new else (), strict=True))
        return [resolved[key] for key in keys]

    return remembered


def _plain_resolver(plan: StudyPlan) -> ResolveFlags:
    model = plan.engine.model

    def by_installed(engines: Sequence[Engine]) -> list[ResolvedFlags]:
        return asyncio.run(_grouped(plan, engines))

    if plan.kind == "simulator":
        return lambda engines: [resolve_by_simulator(model, engine.args) for engine in engines]
    return by_installed


async def _grouped(plan: StudyPlan, engines: Sequence[Engine]) -> list[ResolvedFlags]:
    """One process of the engine's interpreter for each different environment."""
    groups: dict[str, list[int]] = {}
    for place, engine in enumerate(engines):
        groups.setdefault(canonical_json(engine.env), []).append(place)
    resolved: dict[int, ResolvedFlags] = {}
    for places in groups.values():
        first = engines[places[0]]
        # The environment of a start: what holds for the question then holds for the engine.
        env, points = environment_of(first, plan.kind), [engines[place].args for place in places]
        resolutions = await resolve_many(plan.kind, first.python, env, str(first.model), points)
        resolved |= dict(zip(places, resolutions, strict=True))
    return [resolved[place] for place in range(len(engines))]


SAME, CACHE, COMPILE, PARALLEL = "same", "cache", "compile", "parallel"
START_MINUTES: Mapping[str, float] = {SAME: 0.0, CACHE: 2.0, COMPILE: 4.0, PARALLEL: 6.0}
"""Assumed minutes of a start by class, in virtual time only: a real start is timed."""
_RANKS = (SAME, CACHE, COMPILE, PARALLEL)
# Not part of vLLM's compile hash: these change the cache and leave compiled graphs alone.
_CACHE_ONLY = {
    "gpu_memory_utilization", "kv_cache_memory_bytes", "num_gpu_blocks_override", "enable_prefix_caching",
    "num_gpu_blocks", "kv_cache_size_tokens", "watermark", "long_prefill_token_threshold", "seed", "async_scheduling",
    "scheduler_reserve_full_isl", "max_num_active_seqs", "prefix_caching_hash_algo", "stream_interval",
    "long_prefill_token_threshold_adaptive", "max_num_scheduled_tokens", "enable_prompt_tokens_details",
    "enable_per_request_metrics", "per_request_spec_decode_metrics",
}  # fmt: skip
_LAYOUT = (
    TOPOLOGY,
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "data_parallel_size",
    "model",
    "quantization",
    "dtype",
)
Item = TypeVar("Item")


def restart_class(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> str:
    """How much of an engine has to be made anew: nothing, the cache, the compiled graphs, or its layout."""
    if before is None:
        return COMPILE
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    if not changed:
        return SAME
    if changed & set(_LAYOUT):
        return PARALLEL
    return CACHE if changed <= _CACHE_ONLY else COMPILE


def restart_rank(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> int:
    """The class as a number, dearer ones higher."""
    return _RANKS.index(restart_class(before, after))


def cheapest_order(
    items: Sequence[Item], configuration: Callable[[Item], Mapping[str, Any]], before: Mapping[str, Any] | None
) -> list[Item]:
    """The items so that each start costs little after the one before: the cheapest next, the earlier among equals."""
    remaining, order = list(items), []
    while remaining:
        last = before
        place = min(range(len(remaining)), key=lambda i: (restart_rank(last, configuration(remaining[i])), i))
        order.append(remaining.pop(place))
        before = configuration(order[-1])
    return order

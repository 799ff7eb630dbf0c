"""What engine does a point ask for, what would that really be, and which points are the same?"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.engines.flag_resolution import Resolved, by_twin, resolve_many
from harness.engines.vllm import environment_of
from harness.scenario.models import Engine
from harness.tuning.space import key_of
from harness.tuning.study_plan import Problem
from harness.tuning.types import ADDITIONAL, ENVIRONMENT, FLAG, LOAD, Point

Resolve = Callable[[Sequence[Engine]], Sequence[Resolved]]
"""What engines would make of their flags, told without starting them."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A point with the engine it asks for and what that becomes; `key` is equal for points that are the same."""

    point: Point
    engine: Engine
    load: Mapping[str, Any]
    resolved: Resolved
    key: str
    engine_key: str


def engine_of(problem: Problem, point: Point) -> Engine:
    """The base engine with what a point sets.

    Raises:
        ValueError: a derived value that cannot be computed.
    """
    values = problem.space.values(point)
    args, env = dict(problem.engine.args), dict(problem.engine.env)
    extra = dict(args.get(ADDITIONAL) or {})
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
    return problem.engine.model_copy(update={"args": args, "env": env})


def load_of(problem: Problem, point: Point) -> dict[str, Any]:
    """What a point changes of the load, by the names of a scenario file."""
    values = problem.space.values(point)
    return {name.partition(".")[2]: value for name, value in values.items() if name.startswith(LOAD + ".")}


@dataclass(slots=True)
class Ground:
    """All that is known of points without starting anything; what was resolved once is kept."""

    problem: Problem
    resolve: Resolve
    _kept: dict[str, Candidate] = field(default_factory=dict)

    def candidates(self, points: Sequence[Point]) -> list[Candidate]:
        """The points as candidates, in their order; those whose derived values cannot be computed are left out."""
        asked = {key_of(point): point for point in points}
        new = {key: point for key, point in asked.items() if key not in self._kept}
        engines = {key: made for key, point in new.items() if (made := self._engine(point)) is not None}
        resolved = self.resolve(list(engines.values())) if engines else ()
        for (key, engine), found in zip(engines.items(), resolved, strict=True):
            self._kept[key] = self._candidate(new[key], engine, found)
        return [self._kept[key] for key in asked if key in self._kept]

    def one(self, point: Point) -> Candidate | None:
        """One point as a candidate."""
        return next(iter(self.candidates([point])), None)

    def _engine(self, point: Point) -> Engine | None:
        try:
            return engine_of(self.problem, point)
        except ValueError:
            return None

    def _candidate(self, point: Point, engine: Engine, found: Resolved) -> Candidate:
        load = load_of(self.problem, point)
        engine_key = canonical(found.effective, engine.env)
        return Candidate(dict(point), engine, load, found, f"{engine_key} {canonical(load)}", engine_key)


def canonical(*parts: Mapping[str, Any]) -> str:
    """Mappings as text that is equal for equal ones; what is None is not there."""
    return json.dumps(
        [{name: value for name, value in part.items() if value is not None} for part in parts],
        sort_keys=True,
        default=str,
    )


def resolver(problem: Problem) -> Resolve:
    """How engines of the problem's kind are resolved: by the twin's own code, or by the installed vLLM's.

    What was resolved once is kept, as importing vLLM takes half a minute.
    """
    kept: dict[str, Resolved] = {}
    resolve = _plain_resolver(problem)

    def remembered(engines: Sequence[Engine]) -> list[Resolved]:
        keys = [canonical(engine.args, engine.env) for engine in engines]
        new = {key: engine for key, engine in zip(keys, engines, strict=True) if key not in kept}
        kept.update(zip(new, resolve(list(new.values())) if new else (), strict=True))
        return [kept[key] for key in keys]

    return remembered


def _plain_resolver(problem: Problem) -> Resolve:
    model = problem.engine.model

    def by_installed(engines: Sequence[Engine]) -> list[Resolved]:
        return asyncio.run(_grouped(problem, engines))

    if problem.kind == "simulator":
        return lambda engines: [by_twin(model, engine.args) for engine in engines]
    return by_installed


async def _grouped(problem: Problem, engines: Sequence[Engine]) -> list[Resolved]:
    """One process of the engine's interpreter for each different environment."""
    groups: dict[str, list[int]] = {}
    for place, engine in enumerate(engines):
        groups.setdefault(canonical(engine.env), []).append(place)
    found: dict[int, Resolved] = {}
    for places in groups.values():
        first = engines[places[0]]
        # The environment of a start: what holds for the question then holds for the engine.
        env, points = environment_of(first, problem.kind), [engines[place].args for place in places]
        told = await resolve_many(problem.kind, first.python, env, str(first.model), points)
        found |= dict(zip(places, told, strict=True))
    return [found[place] for place in range(len(engines))]


__all__ = ["FLAG", "Candidate", "Ground", "Resolve", "canonical", "engine_of", "load_of", "resolver"]

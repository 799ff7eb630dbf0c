"""Which parameters change nothing, as found before the study, and what holds them?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.seeds import stream
from harness.tuning.candidates import Ground
from harness.tuning.space import Space, at, drawn, pointed
from harness.tuning.study_plan import Problem
from harness.tuning.types import Parameter, Point, Value

_BASES = 4
_VALUES = 4
_UNLOCKS = {"block_size": {"enable_prefix_caching": False, "enable_chunked_prefill": False}}
"""What gives a parameter its effect back. vllm-ascend holds blocks at 128 tokens while either is on."""


@dataclass(frozen=True, slots=True)
class Dead:
    """A parameter whose values all make the same engine, and why in a line."""

    name: str
    becomes: Value | None
    why: str

    @property
    def words(self) -> str:
        """In one line."""
        value = "" if self.becomes is None else f" (always {self.becomes})"
        return f"{self.name} changes nothing here{value}: {self.why}"


def dead_parameters(problem: Problem, ground: Ground) -> tuple[Dead, ...]:
    """Parameters whose every value leads to the same engine, around several points of the space.

    A value that would be refused counts as an engine of its own: failing is an effect.
    """
    space, rng = problem.space, stream(problem.study.seed, "dead dimensions")
    others = [pointed(space, {**{one.name: _first(one) for one in space.parameters}})]
    bases: list[Point] = [*others, *(drawn(space, _BASES, rng) if space.parameters else [])]
    # All at once, and the base configuration with them: each call may import vLLM anew.
    ground.candidates([{}, *(point for one in space.engine for base in bases for point in _varied(space, one, base))])
    return tuple(found for one in space.engine if (found := _dead(ground, space, one, bases)) is not None)


def _first(parameter: Parameter) -> Value:
    return parameter.values[0] if parameter.kind == "choice" else parameter.low


def _varied(space: Space, parameter: Parameter, base: Point) -> list[dict[str, Value]]:
    if parameter.name not in base:
        return []
    return [pointed(space, {**base, parameter.name: value}) for value in _some(parameter)]


def _some(parameter: Parameter) -> list[Value]:
    """A few values over the whole range."""
    count = len(parameter.values) if parameter.kind == "choice" else _VALUES
    return list(dict.fromkeys(at(parameter, float(share)) for share in np.linspace(0.0, 1.0, max(count, 2))))


def _dead(ground: Ground, space: Space, parameter: Parameter, bases: Sequence[Point]) -> Dead | None:
    tried = False
    why, becomes = "no value of it reaches the engine", None
    for base in bases:
        found = ground.candidates(_varied(space, parameter, base))
        sound = [one for one in found if one.resolved.fault is None]
        if len({one.engine_key for one in sound}) > 1 or (sound and len(sound) < len(found)):
            return None
        for one in sound:
            tried = True
            change = next((row for row in one.resolved.changed if row.flag == parameter.key), None)
            why = why if change is None or not change.why else change.why
            becomes = one.resolved.effective.get(parameter.key, becomes)
    return Dead(parameter.name, becomes, why) if tried else None


def settled(problem: Problem, dead: Sequence[Dead]) -> tuple[Problem, tuple[str, ...]]:
    """The problem without its dead parameters, or with what unlocks them, and what was done in lines."""
    lines = []
    space, unlock = problem.space, problem.study.dead == "unlock"
    for one in dead:
        keys = _UNLOCKS.get(one.name) if unlock and problem.kind != "vllm" else None
        if keys is None:
            space = space.without([one.name])
            hint = "; dead: unlock gives it its effect back" if one.name in _UNLOCKS and not unlock else ""
            lines.append(f"dropped: {one.words}{hint}")
        else:
            space = _unlocked(space, keys)
            lines.append(f"unlocked: {one.words}; {', '.join(f'{key} is off' for key in keys)} in every trial")
    return replace(problem, space=space), tuple(lines)


def _unlocked(space: Space, keys: dict[str, bool]) -> Space:
    """With prefix caching and chunked prefill off; a step must then hold the longest prompt."""
    return Space(space.without([*keys]).parameters, {**space.fixed, **keys}, space.derived)

"""The space of a study: parameters, points, distances, and derived values by small arithmetic."""

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.messages import message
from harness.tuning.types import LOAD, ParameterValue, Point, TunableParameter

_Number = int | float
_BINARY: Mapping[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_CALLS: Mapping[str, Callable[..., Any]] = {"min": min, "max": max, "round": round, "int": int}
_LONGEST = 200


def expression_names(text: str) -> frozenset[str]:
    """The parameters that an expression reads.

    Raises:
        ValueError: it is not of this arithmetic; one line with what was expected.
    """
    return frozenset(node.id for node in ast.walk(_parsed(text)) if isinstance(node, ast.Name)) - _CALLS.keys()


def evaluate_expression(text: str, values: Mapping[str, Any]) -> _Number:
    """The value of an expression where parameters have these values.

    Raises:
        ValueError: a parameter without a number, a division by zero, or no such arithmetic.
    """
    try:
        value = _value(_parsed(text).body, values)
    except (ZeroDivisionError, TypeError, OverflowError, KeyError) as fault:
        raise ValueError(message("tuning.no_value", expression=text, reason=str(fault))) from None
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _parsed(text: str) -> ast.Expression:
    try:
        tree = ast.parse(text.strip(), mode="eval") if len(text) <= _LONGEST else None
    except (SyntaxError, ValueError):
        tree = None
    if tree is None or not all(_allowed(node) for node in ast.walk(tree)):
        raise ValueError(message("tuning.not_arithmetic", expression=text[:60]))
    return tree


def _allowed(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float) and not isinstance(node.value, bool)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in _CALLS and not node.keywords and bool(node.args)
    plain = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.USub, ast.Name, ast.Load)
    return isinstance(node, plain) or type(node) in _BINARY


def _value(node: ast.AST, values: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return values[node.id]
    if isinstance(node, ast.UnaryOp):
        return -_value(node.operand, values)
    if isinstance(node, ast.Call):
        assert isinstance(node.func, ast.Name)
        return _CALLS[node.func.id](*(_value(argument, values) for argument in node.args))
    assert isinstance(node, ast.BinOp)
    return _BINARY[type(node.op)](_value(node.left, values), _value(node.right, values))


_FINEST = 4  # values an octave where whole numbers are searched by factors: 8 10 12 14 16 20 …
_DRAWS = 64
_STEP_ERROR = 1e-8  # of a step: so far may a value of a range be from it, as in Optuna
Table = Mapping[str, Mapping[str, ParameterValue]]


@dataclass(frozen=True, slots=True)
class Space:
    """What may be set: `parameters` are searched, `fixed` hold for all points, `derived` follow from others.

    A derived value is arithmetic over parameters (text), or a table {parameter: {its value as text: value}}.
    """

    parameters: tuple[TunableParameter, ...]
    fixed: Mapping[str, ParameterValue] = field(default_factory=dict)
    derived: Mapping[str, str | Table] = field(default_factory=dict)

    @property
    def engine(self) -> tuple[TunableParameter, ...]:
        """Those that need an engine of their own."""
        return tuple(parameter for parameter in self.parameters if parameter.place != LOAD)

    @property
    def of_engines(self) -> "Space":
        """The space of engines alone."""
        return Space(self.engine, self.fixed, self.derived)

    @property
    def load(self) -> tuple[TunableParameter, ...]:
        """Those of the load, which change within one engine start."""
        return tuple(parameter for parameter in self.parameters if parameter.place == LOAD)

    def without(self, names: Sequence[str]) -> "Space":
        """The space without some parameters."""
        return Space(
            tuple(parameter for parameter in self.parameters if parameter.name not in names), self.fixed, self.derived
        )

    def values(self, point: Point) -> dict[str, ParameterValue]:
        """All that a point sets: fixed, asked and derived values.

        Raises:
            ValueError: a derived value that cannot be computed.
        """
        values: dict[str, ParameterValue] = {**self.fixed, **point}
        for name, rule in self.derived.items():
            value = evaluate_expression(rule, values) if isinstance(rule, str) else _looked_up(name, rule, values)
            if value is not None:
                values[name] = value
        return values


def _looked_up(name: str, table: Table, values: Mapping[str, ParameterValue]) -> ParameterValue | None:
    source, rows = next(iter(table.items()))
    if source not in values:
        return None
    key = _text(values[source])
    if key not in rows:
        raise ValueError(message("tuning.not_in_table", name=name, source=source, key=key, keys=list(rows)))
    return rows[key]


def _text(value: ParameterValue) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def is_active(parameter: TunableParameter, values: Mapping[str, ParameterValue]) -> bool:
    """Whether a parameter's condition holds among the values of those before it."""
    return all(name in values and values[name] in allowed for name, allowed in parameter.when.items())


def active_point(space: Space, values: Mapping[str, ParameterValue]) -> dict[str, ParameterValue]:
    """The point of full values: inactive parameters are left out."""
    point: dict[str, ParameterValue] = {}
    for parameter in space.parameters:
        if parameter.name in values and is_active(parameter, {**space.fixed, **point}):
            point[parameter.name] = values[parameter.name]
    return point


def value_at(parameter: TunableParameter, share: float) -> ParameterValue:
    """The value at a place in [0, 1] of a parameter's range."""
    share = min(max(share, 0.0), 1.0)
    if parameter.kind == "choice":
        return parameter.values[min(int(share * len(parameter.values)), len(parameter.values) - 1)]
    low, high = parameter.low, parameter.high
    value = math.exp(math.log(low) + share * math.log(high / low)) if parameter.log else low + share * (high - low)
    return snap(parameter, value)


def snap(parameter: TunableParameter, value: float) -> ParameterValue:
    """The nearest value that a range has: on its steps, and round where it goes by factors."""
    step = parameter.step
    if step:
        value = parameter.low + round((value - parameter.low) / step) * step
    if parameter.kind == "int":
        fine = 2.0 ** math.floor(math.log2(value)) / _FINEST if parameter.log and step <= 1 and value >= 1 else 1.0
        value = round(value / fine) * fine if fine > 1 else round(value)
        return int(min(max(value, parameter.low), parameter.high))
    return round(min(max(value, parameter.low), parameter.high), 10)


def share_of(parameter: TunableParameter, value: ParameterValue) -> float:
    """The place of a value in its parameter's range, 0 to 1; the nearest one where it is outside."""
    if parameter.kind == "choice":
        nearest = _nearest_choice(parameter, value)
        if nearest is None:
            return 0.5
        place = next(i for i, known in enumerate(parameter.values) if _same(known, nearest))
        return place / max(1, len(parameter.values) - 1)
    number, low, high = float(value), parameter.low, parameter.high
    if parameter.log:
        number, low, high = math.log(max(number, 1e-12)), math.log(low), math.log(high)
    return min(max((number - low) / (high - low), 0.0), 1.0)


def _same(value: ParameterValue, other: ParameterValue) -> bool:
    return type(value) is type(other) and value == other


def default_value(parameter: TunableParameter, engine_value: Any) -> ParameterValue | None:
    """The engine's own value as this parameter's range spells it; a number that is not in the range as it is.

    A point that said the nearest number of the range would be another configuration's. None where the value is
    neither a number nor in the range: what runs is then told by the effective configuration alone.
    """
    nearest = nearest_value(parameter, engine_value)
    if isinstance(nearest, str | None) or nearest == engine_value:
        return nearest
    value: ParameterValue = engine_value if _is_number(engine_value) else nearest
    return value


def nearest_point(space: Space, point: Point) -> dict[str, ParameterValue]:
    """A point of the space as it is; of the default, whose values may lie outside, the nearest one."""
    return {
        parameter.name: value
        for parameter in space.parameters
        if (value := _within(parameter, point.get(parameter.name))) is not None
    }


def _within(parameter: TunableParameter, value: Any) -> ParameterValue | None:
    if parameter.kind == "choice" or not _is_number(value) or not parameter.low <= value <= parameter.high:
        return nearest_value(parameter, value)
    steps = (value - parameter.low) / (parameter.step or 1.0)
    is_on_step = (parameter.kind == "float" and not parameter.step) or abs(steps - round(steps)) < _STEP_ERROR
    kept: ParameterValue = value
    return kept if is_on_step else nearest_value(parameter, value)


def nearest_value(parameter: TunableParameter, engine_value: Any) -> ParameterValue | None:
    """The value of the parameter's range that is nearest to an engine's own; None where none is near."""
    if parameter.kind == "choice":
        return _nearest_choice(parameter, engine_value)
    if _is_number(engine_value):
        return value_at(parameter, share_of(parameter, engine_value))
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _nearest_choice(parameter: TunableParameter, engine_value: Any) -> ParameterValue | None:
    """The choice that is the value, in whatever spelling, or the nearest number; None where there is neither."""
    same = (value for value in parameter.values if engine_value is not None and _text(value) == _text(engine_value))
    match = next((value for value in parameter.values if _same(engine_value, value)), next(same, None))
    if match is not None:
        return match
    if _is_number(engine_value) and _is_ordered(parameter):
        return min(parameter.values, key=lambda value: abs(float(value) - engine_value))
    return None


def latin_hypercube(space: Space, count: int, rng: np.random.Generator) -> list[dict[str, ParameterValue]]:
    """So many points spread evenly over every parameter (a Latin hypercube), repeated ones left out."""
    shares = np.stack([(rng.permutation(count) + rng.random(count)) / count for _ in space.parameters], axis=1)
    points = [
        active_point(
            space,
            {
                parameter.name: value_at(parameter, share)
                for parameter, share in zip(space.parameters, row, strict=True)
            },
        )
        for row in shares
    ]
    return unique_points(points)


def unique_points(points: Sequence[Mapping[str, ParameterValue]]) -> list[dict[str, ParameterValue]]:
    """The points, each once, in their order."""
    return list({point_key(point): dict(point) for point in reversed(points)}.values())[::-1]


def point_key(point: Mapping[str, Any]) -> str:
    """A point as text that is equal for equal points."""
    return repr(sorted((name, value) for name, value in point.items()))


def neighbours(space: Space, point: Point, count: int, rng: np.random.Generator) -> list[dict[str, ParameterValue]]:
    """Points that differ from one in one or two parameters, mostly by a little."""
    points, point = [], nearest_point(space, point)
    for _ in range(count):
        values = _all_values(space, point, rng)
        changes = 1 + int(rng.random() < 0.4)
        for place in rng.permutation(len(space.parameters))[:changes]:
            parameter = space.parameters[place]
            values[parameter.name] = _moved(parameter, values[parameter.name], rng)
        points.append(active_point(space, values))
    return [neighbour for neighbour in unique_points(points) if neighbour != point]


def axis_steps(space: Space, point: Point) -> list[dict[str, ParameterValue]]:
    """Points that are a step or two away from one along one range: a tenth and a fifth of it, up and down."""
    points, point = [], nearest_point(space, point)
    for parameter in space.parameters:
        if parameter.kind == "choice" or parameter.name not in point:
            continue
        share = share_of(parameter, point[parameter.name])
        points += [
            active_point(space, {**point, parameter.name: value_at(parameter, share + by)})
            for by in (-0.2, -0.1, 0.1, 0.2)
        ]
    return [step for step in unique_points(points) if step != point]


def _all_values(space: Space, point: Point, rng: np.random.Generator) -> dict[str, ParameterValue]:
    return {
        parameter.name: point.get(parameter.name, value_at(parameter, float(rng.random())))
        for parameter in space.parameters
    }


def _moved(parameter: TunableParameter, value: ParameterValue, rng: np.random.Generator) -> ParameterValue:
    """Another value of a parameter: the next ones of an order, any of a choice of words."""
    if parameter.kind == "choice" and not _is_ordered(parameter):
        others = [other for other in parameter.values if not _same(other, value)]
        return others[int(rng.integers(len(others)))] if others else value
    share = share_of(parameter, value)
    for _ in range(_DRAWS):
        moved = value_at(parameter, share + float(rng.normal(0.0, 0.15)))
        if not _same(moved, value):
            return moved
    return value


def _is_ordered(parameter: TunableParameter) -> bool:
    return all(map(_is_number, parameter.values))


def encode(space: Space, points: Sequence[Point]) -> NDArray[np.float64]:
    """Points as rows of numbers in [0, 1]: a column for each order, one for each word of a choice; 0.5 if inactive."""
    columns = [_column(parameter, points) for parameter in space.parameters]
    return np.concatenate(columns, axis=1) if columns else np.zeros((len(points), 0))


def _column(parameter: TunableParameter, points: Sequence[Point]) -> NDArray[np.float64]:
    name = parameter.name
    if parameter.kind != "choice" or _is_ordered(parameter):
        rows = [[share_of(parameter, point[name]) if name in point else 0.5] for point in points]
        return np.asarray(rows, dtype=np.float64).reshape(len(points), 1)
    words = parameter.values
    rows = [[0.7 * _same(word, point[name]) if name in point else 0.35 for word in words] for point in points]
    return np.asarray(rows, dtype=np.float64).reshape(len(points), len(words))


def distances(rows: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each row is from each of the others, in the unit cube."""
    return np.asarray(np.sqrt(((rows[:, None, :] - others[None, :, :]) ** 2).sum(axis=2)))


def farthest_points(rows: NDArray[np.float64], first: Sequence[int], count: int) -> list[int]:
    """Places of up to `count` rows: the first ones given, then each time the row farthest from all taken."""
    chosen = list(dict.fromkeys(first))[:count]
    while len(chosen) < min(count, len(rows)):
        far = distances(rows, rows[chosen]).min(axis=1)
        far[chosen] = -1.0
        chosen.append(int(far.argmax()))
    return chosen


def load_sweep(space: Space, count: int) -> list[dict[str, ParameterValue]]:
    """All that one engine start measures of the load: every choice, and `count` places of every range."""
    points: list[dict[str, ParameterValue]] = [{}]
    for parameter in space.load:
        points = [
            {**point, parameter.name: value} if is_active(parameter, point) else point
            for point in points
            for value in _stops(parameter, count)
        ]
    return unique_points(points)


def _stops(parameter: TunableParameter, count: int) -> list[ParameterValue]:
    if parameter.kind == "choice":
        return list(parameter.values)
    return list(dict.fromkeys(value_at(parameter, share) for share in np.linspace(0.0, 1.0, count)))

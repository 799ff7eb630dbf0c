"""What does a derived parameter come to: small arithmetic over other parameters, and nothing else?"""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

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


def names_in(text: str) -> frozenset[str]:
    """The parameters that an expression reads.

    Raises:
        ValueError: it is not of this arithmetic; one line with what was expected.
    """
    return frozenset(node.id for node in ast.walk(_parsed(text)) if isinstance(node, ast.Name)) - _CALLS.keys()


def value_of(text: str, values: Mapping[str, Any]) -> _Number:
    """The value of an expression where parameters have these values.

    Raises:
        ValueError: a parameter without a number, a division by zero, or no such arithmetic.
    """
    try:
        found = _value(_parsed(text).body, values)
    except (ZeroDivisionError, TypeError, OverflowError, KeyError) as fault:
        raise ValueError(f"{text!r} has no value here ({fault})") from None
    return int(found) if isinstance(found, float) and found.is_integer() else found


def _parsed(text: str) -> ast.Expression:
    try:
        tree = ast.parse(text.strip(), mode="eval") if len(text) <= _LONGEST else None
    except (SyntaxError, ValueError):
        tree = None
    if tree is None or not all(_allowed(node) for node in ast.walk(tree)):
        raise ValueError(
            f"{text[:60]!r} is no arithmetic; expected numbers, parameters, + - * / // %, min, max, round, int"
        )
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

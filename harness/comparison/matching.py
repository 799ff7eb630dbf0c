"""Which measurement of kernels on one side is which on the other, and what are they called?

They are the same where all axes are: phase, shapes, dtype, path, mode. An axis on which the sides share no value, as
another dtype or another provider's path, is left out where each side has a single value of it for everything else.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from harness.comparison.repeats import Repeat, Side
from harness.kernels.repeats import ALWAYS_NAMED, axes_label, varying_axes

_Key = tuple[tuple[str, Any], ...]
_HEADING = ("phase", "mode", "path")


def apart(base: Side, new: Side) -> dict[str, tuple[set[Any], set[Any]]]:
    """The axes on which the sides share no value, with what each has."""
    values = [_values(side) for side in (base, new)]
    shared = [name for name in values[0] if name in values[1]]
    return {name: (values[0][name], values[1][name]) for name in shared if not values[0][name] & values[1][name]}


def _values(side: Side) -> dict[str, set[Any]]:
    found: dict[str, set[Any]] = {}
    for axes in _axes(side):
        for name, value in axes.items():
            found.setdefault(name, set()).add(value)
    return found


def _axes(side: Side) -> Iterator[Mapping[str, Any]]:
    return (stage["axes"] for repeat in side.repeats for stage in repeat.stages.values())


def aligned(base: Side, new: Side) -> tuple[Side, Side]:
    """Both sides with their measurements numbered alike, each with a label and the part of it that it is."""
    left_out: set[str] = set()
    for name in apart(base, new):
        if all(_is_told_without(side, {*left_out, name}) for side in (base, new)):
            left_out.add(name)
    keys: dict[_Key, str] = {}
    for axes in (*_axes(base), *_axes(new)):
        keys.setdefault(_key(axes, left_out), _heading(axes, left_out))
    headings = list(dict.fromkeys(keys.values()))
    numbers = {key: place for place, key in enumerate(sorted(keys, key=lambda key: headings.index(keys[key])))}
    differing = varying_axes(dict(key) for key in keys)
    sides = [[_numbered(one, numbers, left_out, differing) for one in side.repeats] for side in (base, new)]
    return replace(base, repeats=sides[0]), replace(new, repeats=sides[1])


def _is_told_without(side: Side, names: set[str]) -> bool:
    """Whether no two measurements of a repeat become the same without these axes."""
    return all(
        len({_key(stage["axes"], names) for stage in repeat.stages.values()}) == len(repeat.stages)
        for repeat in side.repeats
    )


def _key(axes: Mapping[str, Any], left_out: Collection[str]) -> _Key:
    return tuple(sorted((name, value) for name, value in axes.items() if name not in left_out))


def _numbered(repeat: Repeat, numbers: Mapping[_Key, int], left_out: set[str], differing: Collection[str]) -> Repeat:
    stages = {
        numbers[_key(stage["axes"], left_out)]: {**stage, **_named(stage["axes"], left_out, differing)}
        for stage in repeat.stages.values()
    }
    return replace(repeat, stages=dict(sorted(stages.items())))


def _heading(axes: Mapping[str, Any], left_out: Collection[str]) -> str:
    return ", ".join(str(axes[name]) for name in _HEADING if name in axes and name not in left_out)


def _named(axes: Mapping[str, Any], left_out: Collection[str], differing: Collection[str]) -> dict[str, str]:
    """The heading under which a measurement stands, and its own name there."""
    return {"label": _heading(axes, left_out), "part": axes_label(axes, {*ALWAYS_NAMED, *differing} - set(left_out))}
